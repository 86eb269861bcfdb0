import ast
import json
import time
from pathlib import Path

from diffembed.data import docstrings
from diffembed.data.docstrings import library_digest, library_folder, read_docstrings


def test_the_standard_library_of_this_python() -> None:
    start = time.perf_counter()
    passages = read_docstrings()
    assert time.perf_counter() - start < 30  # a few seconds; the rest is for a busy machine
    assert len(passages) > 3_000
    by_id = {passage.id: passage for passage in passages}
    dumps = by_id["json.dumps"]
    assert dumps.text == ast.get_docstring(_definition(Path(json.__file__), "dumps"))
    assert (dumps.path, dumps.kind) == ("json/__init__.py", "function")
    assert by_id["argparse.ArgumentParser"].kind == "class"
    assert by_id["json"].kind == "module" and by_id["json"].line == 1
    assert "collections.Counter.most_common" in by_id
    assert len({passage.text for passage in passages}) == len(passages)
    folders = {part for passage in passages for part in Path(passage.path).parts[:-1]}
    assert not folders & docstrings.SKIPPED_FOLDERS
    private = [passage.path.startswith("_") for passage in passages]
    assert private == sorted(private)


def test_every_line_is_where_the_definition_stands() -> None:
    lines: dict[str, list[str]] = {}
    for passage in read_docstrings()[::37]:
        if passage.path not in lines:
            text = (library_folder() / passage.path).read_bytes().decode("utf-8", "replace")
            lines[passage.path] = text.split("\n")
        if passage.kind != "module":
            assert f" {passage.id.rpartition('.')[2]}" in lines[passage.path][passage.line - 1], passage


def _definition(path: Path, name: str) -> ast.FunctionDef:
    tree = ast.parse(path.read_bytes())
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


SHAPES = '''"""All about shapes here."""
import sys

class Square:
    """A square of four sides.

    It has:
        one area
    """
    def area(self):
        "The area of this square."
        def inner():
            "Nobody can call this one."

    def _hidden(self):
        "A private thing of ours."

    def __init__(self):
        "Make a square of sides."

if sys.platform == "amiga":
    def amiga_only():
        "Drawn on the Amiga only."
else:
    try:
        async def later():
            "Draw it some time later."
    except ImportError:
        pass

def short():
    "Too short."

def copied():
    "The area of this square."
'''


def test_a_small_library(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "shapes/__init__.py": SHAPES,
            "shapes/test/test_shapes.py": '"""A test of these shapes."""',
            "site-packages/other.py": '"""Somebody else wrote this one."""',
            "_shapes.py": '"""The private half of shapes."""',
            "alpha.py": '"""The first of all modules."""',
            "broken.py": 'def f(:\n    """Nothing can be read here."""',
            "latin.py": b'"""Not UTF-8 \xff and not declared."""',
            "declared.py": b'# -*- coding: latin-1 -*-\n"""Caf\xe9 in a declared encoding."""',
            "nul.py": b'"""Before the zero byte here."""\0',
            "escape.py": '"""An escape \\d that warns here."""',
        },
    )
    found = [(each.id, each.kind, each.line) for each in read_docstrings(folder)]
    assert found == [
        ("alpha", "module", 1),
        ("declared", "module", 1),
        ("escape", "module", 1),
        ("shapes", "module", 1),
        ("shapes.Square", "class", 4),
        ("shapes.Square.area", "function", 10),
        ("shapes.Square.__init__", "function", 18),
        ("shapes.amiga_only", "function", 22),
        ("shapes.later", "function", 26),
        ("_shapes", "module", 1),
    ]
    passages = {each.id: each for each in read_docstrings(folder)}
    assert passages["shapes.Square"].text == "A square of four sides.\n\nIt has:\n    one area"
    assert passages["declared"].text == "Café in a declared encoding."
    assert passages["shapes.Square.area"].path == "shapes/__init__.py"


def test_the_digest_follows_the_files(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": '"""One two three four."""', "test/b.py": "1"})
    before = library_digest(tmp_path)
    assert library_digest(tmp_path) == before
    write(tmp_path, {"test/b.py": "2 and more"})
    assert library_digest(tmp_path) == before
    write(tmp_path, {"a.py": '"""One two three four five."""'})
    assert library_digest(tmp_path) != before
