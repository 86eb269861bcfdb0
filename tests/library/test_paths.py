"""Which paths lie below which."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.account import Account
from diffembed.library.paths import Roots, absolute, ancestors
from diffembed.library.plan import Known, plan
from diffembed.library.reading.walk import Found

PATHS = st.lists(st.sampled_from(["a", "b", "ab", "a b", "..."]), max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(roots=st.lists(PATHS, max_size=5), path=PATHS)
def test_roots_are_over_what_is_in_them(roots: list[str], path: str) -> None:
    wanted = {root for root in roots if path == root or path.startswith(root.rstrip("/") + "/")}
    found = list(Roots(roots).over(path))
    assert set(found) == wanted and found == sorted(found, key=len, reverse=True)
    assert Roots(roots).hold(path) == bool(wanted)
    assert list(ancestors(path))[-1] == "/"


@pytest.mark.parametrize(
    "path", ["a/b/..", "a/../../x", "..", "../..", "a/link/../b", "link/../../c/", "no/../such/file", "."]
)
def test_absolute_paths_are_those_of_the_system(tmp_path, monkeypatch, path) -> None:
    here = tmp_path / "here" / "now"
    for folder in ("a/b", "b", "c/a"):
        (here / folder).mkdir(parents=True)
    (here / "link").symlink_to("a/b")
    (here / "a" / "link").symlink_to("../c/a")
    monkeypatch.chdir(here)
    found = absolute(path)
    assert found == os.path.abspath(found) == os.path.realpath(path)
    assert absolute(here / path) == found


def test_an_absolute_path_keeps_its_links(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    assert absolute(tmp_path / "link" / "a.txt") == f"{tmp_path}/link/a.txt"
    assert absolute(f"{tmp_path}/folder/../link/a.txt") == f"{tmp_path}/link/a.txt"


def test_a_file_in_the_index_is_not_compared_with_every_root(tmp_path) -> None:
    """Twenty thousand of each: all pairs would take minutes."""
    paths = [f"{tmp_path}/{number}/gone.txt" for number in range(20_000)]
    roots = tuple(tmp_path / str(number) for number in range(20_000))
    known = Known(dict.fromkeys(paths, "digest"), {})
    account = Account()
    todo = plan(Found(files=(), skipped=(), other_kinds={}, roots=roots), known, account)
    assert sorted(todo.gone) == sorted(map(os.fspath, paths)) and not todo.changed
