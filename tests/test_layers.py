"""Imports point down the layers, are absolute, and name modules that the table knows."""

import ast
from pathlib import Path

import pytest

import diffembed

PACKAGE = Path(diffembed.__file__).parent
LAYERS = [  # low to high; a module imports from rows above its own, or from its own folder
    "errors lazy",
    "files",
    "configs runs hardware",
    "text backbone objectives readout index",
    "data builtin",
    "embedder",
    "library training mining evaluation reporting server doctor",
    "reasonaug study cluster demo",
    "recipes",
    "cli",
    "__main__",
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}


def owner(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def first_party(node: ast.AST) -> list[str]:
    """Top-level modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        return [name.name.split(".")[1] for name in node.names if name.name.startswith("diffembed.")]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        if node.module == "diffembed":
            return [name.name for name in node.names if name.name != "__version__"]
        if node.module.startswith("diffembed."):
            return [node.module.split(".")[1]]
    return []


def violations(own: str, tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            found.append(f"line {node.lineno}: relative import")
        for other in first_party(node):
            if other not in RANK:
                found.append(f"line {node.lineno}: {other} is not a module of the layer table")
            elif other != own and RANK[other] >= RANK[own]:
                found.append(f"line {node.lineno}: {own} may not import {other}")
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert owner(path) in RANK, f"{owner(path)} has no place in the layer table"
    assert violations(owner(path), ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("own", "source", "complaint"),
    [
        ("index", "from diffembed.embedder import Embedder", "index may not import embedder"),
        ("index", "import diffembed.text.tokenizer", "index may not import text"),
        ("backbone", "def f():\n    from diffembed import cli", "backbone may not import cli"),
        ("backbone", "from .layers import RMSNorm", "relative import"),
        ("cli", "from diffembed.utils import x", "utils is not a module"),
    ],
)
def test_the_test_sees_a_violation(own: str, source: str, complaint: str) -> None:
    assert complaint in violations(own, ast.parse(source))[0]


def test_what_the_test_lets_pass() -> None:
    source = "from diffembed import __version__, errors\nimport torch\nfrom diffembed.cli.frame import talk"
    assert violations("cli", ast.parse(source)) == []
