"""The docstrings of Python's standard library: thousands of real passages that every machine with Python has."""

import ast
import hashlib
import os
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffembed.errors import DataError

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "__pycache__"}
)
"""What isn't the library itself, is a test, or is an application that happens to ship with it."""
FEWEST_WORDS = 4
"""Shorter docstrings ("See base class.") answer no question."""

Kind = Literal["module", "class", "function"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One docstring and where it stands."""

    id: str
    """Dotted name, for example `json.dumps`."""
    text: str
    """The docstring without its indentation."""
    path: str
    """Relative to the library's folder, with forward slashes."""
    line: int
    """Where the class or function begins; 1 for a module."""
    kind: Kind


def library_folder() -> Path:
    """The folder of the standard library of the Python that runs this.

    Raises:
        DataError: This Python keeps its library elsewhere than in a folder.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: this Python's library can't be read", hint="use a usual CPython")
    return folder


def read_docstrings(folder: Path | None = None) -> list[Passage]:
    """Read every public docstring with `ast`; nothing is imported, no code runs.

    Modules come in the order of their names, those that begin with an underscore last; inside a module by line. Of
    equal texts the first is kept. A file that can't be decoded or parsed is skipped.

    Args:
        folder: The library's folder; that of the running Python when absent.
    """
    folder = folder or library_folder()
    passages: dict[str, Passage] = {}
    for path in _files(folder):
        for passage in _read_file(path, path.relative_to(folder)):
            if len(passage.text.split()) >= FEWEST_WORDS:
                passages.setdefault(passage.text, passage)
    return list(passages.values())


def library_digest(folder: Path | None = None) -> str:
    """A short hash of the library's file names, sizes and times: it changes when a docstring may have changed."""
    folder = folder or library_folder()
    digest = hashlib.sha256(str(folder).encode(errors="surrogateescape"))
    for path in _files(folder):
        stat = path.stat()
        digest.update(
            f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        # A folder with a hyphen (config-3.11-x86_64-linux-gnu) can't be imported: it holds build scripts.
        folders[:] = [each for each in folders if each not in SKIPPED_FOLDERS and "-" not in each]
        found += [Path(parent, name) for name in names if name.endswith(".py") and "-" not in name]
    return sorted(found, key=lambda path: (path.relative_to(folder).parts[0].startswith("_"), path.as_posix()))


def _read_file(path: Path, relative: Path) -> Iterator[Passage]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the library's strings are not our user's concern
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    names = relative.with_suffix("").parts
    module = ".".join(names[:-1] if names[-1] == "__init__" and len(names) > 1 else names)
    where = relative.as_posix()
    if text := ast.get_docstring(tree):
        yield Passage(id=module, text=text, path=where, line=1, kind="module")
    yield from _read_body(tree, module, where)


def _read_body(node: ast.AST, owner: str, where: str) -> Iterator[Passage]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _read_body(child, owner, where)  # defined on some platforms only: still public
        elif isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.startswith("_") and not child.name.endswith("__"):
                continue
            name = f"{owner}.{child.name}"
            if text := ast.get_docstring(child):
                kind: Kind = "class" if isinstance(child, ast.ClassDef) else "function"
                yield Passage(id=name, text=text, path=where, line=child.lineno, kind=kind)
            if isinstance(child, ast.ClassDef):
                yield from _read_body(child, name, where)
