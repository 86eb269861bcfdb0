"""Windows against the definition, token by token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.text.windows import OVERLAP_SHARE, Window, cut_windows


@given(num_tokens=st.integers(0, 400), size=st.integers(1, 60))
def test_each_token_belongs_to_the_window_where_it_stands_farther_from_an_edge(num_tokens: int, size: int) -> None:
    windows = cut_windows(num_tokens, size)
    owned = [token for window in windows for token in range(window.own_start, window.own_stop)]
    assert owned == list(range(num_tokens))

    def distance(token: int, window: Window) -> int:
        return min(token - window.start, window.stop - 1 - token)

    for index, window in enumerate(windows):
        assert (window.is_last, window.stop - window.start <= size) == (index == len(windows) - 1, True)
        for token in range(window.own_start, window.own_stop):
            best = max(distance(token, other) for other in windows)
            assert distance(token, window) == best
            assert all(distance(token, earlier) < best for earlier in windows[:index]), "the earlier one when even"


@given(num_tokens=st.integers(61, 2000), size=st.integers(1, 60))
def test_windows_are_full_overlap_and_are_no_more_than_needed(num_tokens: int, size: int) -> None:
    windows = cut_windows(num_tokens, size)
    assert {window.stop - window.start for window in windows} == {size}
    overlaps = [left.stop - right.start for left, right in zip(windows, windows[1:], strict=False)]
    least = size // OVERLAP_SHARE
    assert min(overlaps) >= least
    assert max(overlaps) - min(overlaps) <= 1
    fewer = len(windows) - 1
    assert fewer * size - (fewer - 1) * least < num_tokens, "one window less could not cover the text"


def test_by_hand() -> None:
    assert cut_windows(0, 8) == [Window(0, 0, 0, 0, True)]
    assert cut_windows(8, 8) == [Window(0, 8, 0, 8, True)]
    # Two windows overlap in tokens 1-7; token 4 is 3 from an edge in both, and goes to the earlier one.
    assert cut_windows(9, 8) == [Window(0, 8, 0, 5, False), Window(1, 9, 5, 9, True)]


def test_a_window_without_room_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        cut_windows(3, 0)
