"""Which paths lie below which."""

import os

from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.account import Account
from diffembed.library.paths import Roots, ancestors
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


def test_a_file_in_the_index_is_not_compared_with_every_root(tmp_path) -> None:
    """Twenty thousand of each: all pairs would take minutes."""
    paths = [f"{tmp_path}/{number}/gone.txt" for number in range(20_000)]
    roots = tuple(tmp_path / str(number) for number in range(20_000))
    known = Known(dict.fromkeys(paths, "digest"), {})
    account = Account()
    todo = plan(Found(files=(), skipped=(), other_kinds={}, roots=roots), known, account)
    assert sorted(todo.gone) == sorted(map(os.fspath, paths)) and not todo.changed
