"""Texts over the limit as overlapping windows, in which every token belongs to exactly one of them."""

from dataclasses import dataclass

# Least overlap as a share of a window: a token at a seam then sees a sixteenth of a window on its nearer side.
OVERLAP_SHARE = 8


@dataclass(frozen=True, slots=True)
class Window:
    """A piece [start, stop) of a text's tokens, and the part [own_start, own_stop) that counts."""

    start: int
    stop: int
    own_start: int
    own_stop: int
    is_last: bool


def cut_windows(num_tokens: int, size: int) -> list[Window]:
    """Cut a text into windows whose own parts cover each token once.

    All windows are `size` long and spread evenly, so the overlaps are as large as the fewest windows allow. A token in
    an overlap belongs to the window where it stands farther from an edge (the earlier one when even).

    Args:
        num_tokens: Of the text; 0 gives one empty window.
        size: Tokens that a window can hold, at least 1.
    """
    if size < 1:
        raise ValueError(f"a window must hold at least one token, got size = {size}")
    if num_tokens <= size:
        return [Window(0, num_tokens, 0, num_tokens, True)]
    overlap = size // OVERLAP_SHARE
    count = -(-(num_tokens - overlap) // (size - overlap))  # rounded up
    starts = [i * (num_tokens - size) // (count - 1) for i in range(count)]
    # Windows are of one length, so the token farther from an edge is the one nearer to the middle: seams lie halfway.
    seams = [0, *((left + size + right + 1) // 2 for left, right in zip(starts, starts[1:], strict=False)), num_tokens]
    return [Window(start, start + size, seams[i], seams[i + 1], i == count - 1) for i, start in enumerate(starts)]
