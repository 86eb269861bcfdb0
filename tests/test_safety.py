"""No pickle, no code from data, no network: held for every line of the package."""

import ast
from pathlib import Path

import pytest

import diffembed

PACKAGE = Path(diffembed.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_NETWORK = {"socket", "urllib", "http", "requests", "httpx", "aiohttp", "ftplib"}
BANNED_CALLS = {"eval", "exec", "compile", "torch.load", "np.load", "numpy.load", "torch.save"}
# The one place that may reach a hub, and only when an id is named.
HUB = {PACKAGE / "embedder" / "locate.py", PACKAGE / "data" / "readers" / "places.py"}


def imported(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unsafe(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = {name.partition(".")[0] for name in imported(tree)}
    assert not roots & BANNED_MODULES
    assert not roots & BANNED_NETWORK
    assert "huggingface_hub" not in roots or path in HUB
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {ast.unparse(call.func) for call in calls} & BANNED_CALLS
    for keyword in (keyword for call in calls for keyword in call.keywords):
        if keyword.arg in ("trust_remote_code", "allow_pickle"):
            assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False


def test_the_check_reads_the_whole_package():
    assert len(FILES) > 40 and set(FILES) >= HUB
