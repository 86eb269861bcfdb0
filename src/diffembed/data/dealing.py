"""Who meets whom: examples dealt into batches without a clash, in an order drawn anew for each pass."""

from collections import deque

import numpy as np

from diffembed.errors import DataError

# Rounds of a Feistel network: from four on it looks like any permutation (Luby and Rackoff 1988).
ROUNDS = 4


def share_out(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, each within 1 of its weight's share (largest remainders)."""
    exact = weights / weights.sum() * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def deal(keys_N3: np.ndarray, size: int, count: int, rng: np.random.Generator, name: str) -> np.ndarray:
    """Deal examples into `count` batches of `size` in which no key comes twice.

    Args:
        keys_N3: Fingerprints of each example; 0 clashes with nothing.
        size: Examples of a batch.
        count: Batches.
        rng: Orders each pass.
        name: Of the group, for messages.

    Returns:
        (count, size) numbers of examples.

    Raises:
        DataError: Too many examples share their texts to fill one batch.
    """
    times_seen_N = np.zeros(len(keys_N3), np.int64)
    batches: list[list[int]] = []
    while len(batches) < count:
        before = len(batches)
        queue = deque(np.lexsort((rng.random(len(keys_N3)), times_seen_N)).tolist())
        while len(batches) < count and (batch := _fill(queue, keys_N3, size)):
            times_seen_N[batch] += 1
            batches.append(batch)
        if len(batches) == before:
            raise DataError(
                f"{name}: too many examples share a text to fill a batch of {size}", hint="lower batch_pairs"
            )
    return np.array(batches, np.int64).reshape(count, size)


def _fill(queue: deque[int], keys_N3: np.ndarray, size: int) -> list[int] | None:
    """Take the first examples that fit together; those passed over go back to the front. None: not enough are left."""
    batch: list[int] = []
    taken: set[int] = set()
    passed_over: list[int] = []
    while queue and len(batch) < size:
        number = queue.popleft()
        keys = set(keys_N3[number].tolist()) - {0}
        if taken.isdisjoint(keys):
            taken |= keys
            batch.append(number)
        else:
            passed_over.append(number)
    queue.extendleft(reversed(passed_over))
    return batch if len(batch) == size else None


class Shuffle:
    """An order of 0 to count - 1 that needs no memory: place -> number, each once.

    A Feistel network over the next even number of bits; a number beyond the count goes through it again (cycle
    walking, Black and Rogaway 2002), at most four times on average.
    """

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count = count
        self._half = max(1, -(-(count - 1).bit_length() // 2))
        self._keys = rng.integers(2**63, size=ROUNDS, dtype=np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """int64 numbers at some places."""
        values = self._turn(places.astype(np.uint64))
        while (beyond := values >= self.count).any():
            values[beyond] = self._turn(values[beyond])
        return values.astype(np.int64)

    def _turn(self, values: np.ndarray) -> np.ndarray:
        half, low = np.uint64(self._half), np.uint64(2**self._half - 1)
        left, right = values >> half, values & low
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & low)
        return (left << half) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread 64 bits over all others: the finalizer of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
