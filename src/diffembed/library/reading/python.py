"""Python source: where classes and functions begin, by `ast`; nothing is imported, no code runs."""

import ast
import re
import warnings
from pathlib import Path

from diffembed.library.reading.document import Document
from diffembed.library.reading.plain import decode, line_starts

# PEP 263: in the first two lines. UTF-8 is tried first all the same.
DECLARED = re.compile(rb"(?:[^\r\n]*(?:\r\n?|\n))?[ \t\f]*#[^\r\n]*?coding[:=][ \t]*([-\w.]{1,40})")
DECLARED_WITHIN = 1024
"""Bytes; no two lines of comment are longer."""
LONGEST_PARSED = 1_000_000
"""Characters; a syntax tree can take seven hundred times the memory of its source, and what is longer is made by a
machine."""
DEFINITIONS = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read(path: Path, data: bytes) -> Document:
    """Read a Python file as it stands; each class and function begins a section, with its decorators.

    The title is the module's own name and the first line of its docstring (`decoder: Implementation of JSONDecoder`):
    the words that people ask with stand in the docstring, and the packages around it in the path, which hits show.
    A file that doesn't parse, for example one for Python 2, is text without sections.

    Raises:
        Unreadable: It is no text.
    """
    declared = DECLARED.match(data[:DECLARED_WITHIN])
    text = decode(data, declared=declared[1].decode() if declared else "")
    tree = _parse(text)
    docstring = ast.get_docstring(tree) or ""
    name = path.parent.name if path.stem == "__init__" else path.stem
    summary = next(iter(docstring.splitlines()), "")
    lines = {
        min([node.lineno, *(each.lineno for each in node.decorator_list)])
        for node in ast.walk(tree)
        if isinstance(node, DEFINITIONS)
    }
    starts = line_starts(text) if lines else []
    return Document(
        id=str(path),
        title=f"{name}: {summary}" if summary else name,
        text=text,
        headings=tuple(starts[line - 1] for line in sorted(lines)),
    )


def _parse(text: str) -> ast.Module:
    if len(text) > LONGEST_PARSED:
        return ast.Module([], [])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in strings that are not ours
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for what is nested too deeply
        return ast.Module([], [])
