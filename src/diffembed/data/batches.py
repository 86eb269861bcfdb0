"""Pairs -> batches of one source and kind each, without clashes; planned for the whole run at its start."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffembed.data.pair_store import Group, MixRow, PairStore
from diffembed.errors import DataError


@dataclass(frozen=True, slots=True)
class PairBatch:
    """What one step trains on.

    Attributes:
        group: Source and kind of all its pairs.
        queries: Texts; none of them equals another text of the batch, on either side.
        passages: The answer to each query.
    """

    group: Group
    queries: list[str]
    passages: list[str]


class PairBatches:
    """The batches of a run, by number. Batch s depends on pairs, mix and seed alone, so resuming is exact.

    In a group every pair is seen once before any is seen again, unless so many pairs share a text that they would have
    to meet in a batch: then the surplus waits for the next pass and goes first in it.
    """

    def __init__(
        self, store: PairStore, *, mix: Sequence[MixRow], sizes: Sequence[int], num_batches: int, seed: int
    ) -> None:
        """Plan `num_batches` batches.

        Args:
            store: The pairs.
            mix: The rows that the store was built with.
            sizes: For each row, pairs of a batch.
            num_batches: Batches in the whole run.
            seed: Of every choice made here.

        Raises:
            DataError: No group has enough different texts for a batch.
        """
        self.store = store
        members = {number: np.flatnonzero(store.group_N == number) for number in range(len(store.groups))}
        usable = [
            number
            for number, own in members.items()
            if _num_different(store.keys_N3[own]) >= sizes[store.groups[number].row]
        ]
        self.left_out = [str(group) for number, group in enumerate(store.groups) if number not in usable]
        """Groups with too few different texts for one batch."""
        if not usable:
            raise DataError(
                f"no source has pairs enough for a batch; the smallest batch of the mix has {min(sizes)}",
                hint="add pairs, or lower batch_pairs",
            )
        counts = share_out(_weights(store, mix, usable, members), num_batches)
        self.group_S = np.repeat(usable, counts)
        np.random.default_rng([seed, 0]).shuffle(self.group_S)
        # How many batches of the same group came before each one: its place in that group's own plan.
        self.turn_S = np.zeros(num_batches, np.int64)
        self.plans: dict[int, np.ndarray] = {}
        for number, count in zip(usable, counts, strict=True):
            self.turn_S[self.group_S == number] = np.arange(count)
            group, own = store.groups[number], members[number]
            rng = np.random.default_rng([seed, 1, number])
            self.plans[number] = own[deal(store.keys_N3[own], sizes[group.row], int(count), rng, str(group))]

    def __len__(self) -> int:
        return len(self.group_S)

    def __getitem__(self, number: int) -> PairBatch:
        group = int(self.group_S[number])
        queries, passages = self.store.read(self.plans[group][self.turn_S[number]].tolist())
        return PairBatch(self.store.groups[group], queries, passages)

    def counts(self) -> dict[str, dict[str, int]]:
        """For each group its pairs in the store and its batches in the plan."""
        return {
            str(group): {
                "pairs": int((self.store.group_N == number).sum()),
                "batches": int((self.group_S == number).sum()),
            }
            for number, group in enumerate(self.store.groups)
        }


def share_out(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, each within 1 of its weight's share (largest remainders)."""
    exact = weights / weights.sum() * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def deal(keys_N3: np.ndarray, size: int, count: int, rng: np.random.Generator, name: str) -> np.ndarray:
    """Deal pairs into `count` batches of `size` in which no key comes twice.

    Args:
        keys_N3: Fingerprints of each pair; 0 clashes with nothing.
        size: Pairs of a batch.
        count: Batches.
        rng: Orders each pass.
        name: Of the group, for messages.

    Returns:
        (count, size) numbers of pairs.

    Raises:
        DataError: Too many pairs share their texts to fill one batch.
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
            raise DataError(f"{name}: too many pairs share a text to fill a batch of {size}", hint="lower batch_pairs")
    return np.array(batches, np.int64).reshape(count, size)


def _fill(queue: deque[int], keys_N3: np.ndarray, size: int) -> list[int] | None:
    """Take the first pairs that fit together; those passed over go back to the front. None: not enough are left."""
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


def _weights(store: PairStore, mix: Sequence[MixRow], usable: list[int], members: dict[int, np.ndarray]) -> np.ndarray:
    pairs_of_row = np.zeros(len(mix))
    for number in usable:
        pairs_of_row[store.groups[number].row] += len(members[number])
    rows = [store.groups[number].row for number in usable]
    return np.array(
        [mix[row].weight * len(members[number]) / pairs_of_row[row] for number, row in zip(usable, rows, strict=True)]
    )


def _num_different(keys_N3: np.ndarray) -> int:
    """Most pairs that a batch could hold by counting; topic 0 stands for no topic."""
    topics = keys_N3[:, 2]
    different_topics = len(np.unique(topics[topics != 0])) + int((topics == 0).sum())
    return min(len(np.unique(keys_N3[:, 0])), len(np.unique(keys_N3[:, 1])), different_topics)
