"""Which passages answer a query, over all examples: on disk, so that a batch can leave them out of its negatives."""

from bisect import bisect_left
from pathlib import Path

import numpy as np

from diffembed.data.disk_array import DiskArray

# Pairs that are sorted in memory at once.
SORTED_PAIRS = 2**21
# Fingerprints have 63 bits.
LARGEST_KEY = 2**63


class KnownPositives:
    """Fingerprints of the texts that answer a query, by the query's own fingerprint."""

    def __init__(self, path: Path) -> None:
        self._pairs_M2 = DiskArray(path, np.int64, 2)

    def of(self, query_key: int) -> set[int]:
        """All of them, from wherever the query was asked."""
        start = bisect_left(range(len(self._pairs_M2)), query_key, key=lambda number: int(self._key(number)))
        found: set[int] = set()
        step = 8  # most queries have fewer positives
        while True:
            pairs = self._pairs_M2.rows(start, start + step)
            own = pairs[pairs[:, 0] == query_key]
            found.update(own[:, 1].tolist())
            if len(own) < step:
                return found
            start, step = start + step, step * 2

    def _key(self, number: int) -> np.int64:
        return self._pairs_M2.rows(number, number + 1)[0, 0]


def sort_pairs(unsorted: Path, path: Path) -> None:
    """Sort (query key, positive key) pairs in a file by query, each once.

    Keys are hashes, so equal ranges of them hold about equally many pairs: a range is sorted in memory, then the next.

    Args:
        unsorted: int64 pairs, one after another.
        path: Is written; the other file may go then.
    """
    pairs_M2 = DiskArray(unsorted, np.int64, 2)
    num_ranges = -(-len(pairs_M2) // SORTED_PAIRS)
    edges = [LARGEST_KEY * number // num_ranges for number in range(num_ranges + 1)] if num_ranges else []
    with path.open("wb") as file:
        for low, high in zip(edges, edges[1:], strict=False):
            parts = [block[(block[:, 0] >= low) & (block[:, 0] <= high - 1)] for _, block in pairs_M2.blocks()]
            file.write(np.unique(np.concatenate(parts), axis=0).tobytes())
