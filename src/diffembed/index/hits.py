"""What every search here returns, and the one rule by which scores become a ranking."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError

NO_ROW = -1
"""Fills `Hits.rows` behind the last hit of a query that has fewer hits than the others; its score is 0."""


class Hits(NamedTuple):
    """The best rows for each of B queries, best first."""

    scores: NDArray[np.float32]
    """(B, k); larger is better."""
    rows: NDArray[np.int64]
    """(B, k); row numbers of what was searched, `NO_ROW` behind the last hit."""


def best(scores_N: NDArray, k: int) -> NDArray[np.int64]:
    """Positions of the k largest scores, largest first; equal scores stand in the order of their positions."""
    size = len(scores_N)
    if k >= size:
        kept = np.arange(size)
    elif k < 1:
        return np.empty(0, np.int64)
    else:
        # A partition alone would pick arbitrary ones among equal scores at the cut: keep them all, then sort stably.
        cut = np.partition(scores_N, size - k)[size - k]
        kept = np.flatnonzero(scores_N >= cut)
    return kept[np.argsort(-scores_N[kept], kind="stable")][:k]


def check_k(k: int) -> None:
    """Refuse a number of hits that is not a positive integer."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError(f"k must be a whole number of at least 1, got {k!r}", hint="ask for one hit or more")
