"""Examples -> batches of one source, kind and instruction each, without clashes; planned from the seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from diffembed.data.dealing import Shuffle, deal, share_out
from diffembed.data.disk_array import BLOCK_ROWS
from diffembed.data.example_store import ExampleStore, fingerprint
from diffembed.data.mix import Group, MixRow
from diffembed.errors import DataError


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step trains on. The candidates are its passages, then the negatives of each query in turn.

    Attributes:
        group: Source, kind and instruction of all its examples.
        queries: Texts; none of them equals another text of the batch, the hard negatives aside.
        passages: The answer to each query.
        negatives: Hard negatives of each query; none where there are none.
        known: For each query the candidates, besides its own passage, that are known to answer it or equal it.
        scores: A teacher's for each query, of its passage and its negatives; None where there are none.
        chunks: For each query the document that the passage is a piece of; None where there is none.
    """

    group: Group
    queries: list[str]
    passages: list[str]
    negatives: list[tuple[str, ...]] = field(default_factory=list)
    known: list[tuple[int, ...]] = field(default_factory=list)
    scores: list[tuple[float, ...]] | None = None
    chunks: list[tuple[str, ...]] | None = None

    @property
    def candidates(self) -> list[str]:
        return [*self.passages, *(text for own in self.negatives for text in own)]


class ExampleBatches:
    """The batches of a run, by number. Batch s depends on examples, mix and seed alone, so resuming is exact.

    In a group every example is seen once before any is seen again, unless so many share a text that they would have
    to meet in a batch: then the surplus waits for the next pass and goes first in it. Groups of more than BLOCK_ROWS
    examples are dealt that many at a time, in an order that is drawn anew for each pass; a surplus then waits within
    its block, and up to a batch of each block is passed over.
    """

    def __init__(
        self,
        store: ExampleStore,
        *,
        mix: Sequence[MixRow],
        sizes: Sequence[int],
        num_batches: int,
        seed: int,
        negatives: int = 0,
        draws_negatives: bool = False,
        with_scores: bool = False,
        with_chunks: bool = False,
    ) -> None:
        """Plan `num_batches` batches.

        Args:
            store: The examples.
            mix: The rows that the store was built with.
            sizes: For each row, examples of a batch.
            num_batches: Batches in the whole run.
            seed: Of every choice made here.
            negatives: Hard negatives of a query, at most.
            draws_negatives: Draw them from those that an example has; otherwise the first ones are taken.
            with_scores: Batches have a teacher's scores; of the first positive, which is the one that is drawn then.
            with_chunks: Batches have the documents in pieces; likewise.

        Raises:
            DataError: No group has enough different texts for a batch, or an example lacks what batches are to have.
        """
        self.store, self.seed, self.negatives, self.draws_negatives = store, seed, negatives, draws_negatives
        self.with_scores, self.with_chunks = with_scores, with_chunks
        usable = [number for number, group in enumerate(store.groups) if _has_enough(store, number, sizes[group.row])]
        self.left_out = [str(group) for number, group in enumerate(store.groups) if number not in usable]
        """Groups with too few different texts for one batch."""
        if not usable:
            raise DataError(
                f"no source has examples enough for a batch; the smallest batch of the mix has {min(sizes)}",
                hint="add some, or lower batch_pairs",
            )
        for wanted, name, having_G in (
            (with_scores, "scores", store.scored_G),
            (with_chunks, "chunks", store.chunked_G),
        ):
            for number in usable if wanted else []:
                if having_G[number] < store.counts_G[number]:
                    raise DataError(
                        f"{store.counts_G[number] - having_G[number]:,} of {store.counts_G[number]:,} examples of "
                        f"{store.groups[number]} have no {name}, which the loss needs",
                        hint=f"give each row its `{name}`, or leave these examples out",
                    )
        counts = share_out(_weights(store, mix, usable), num_batches)
        self.group_S = np.repeat(usable, counts)
        np.random.default_rng([seed, 0]).shuffle(self.group_S)
        # How many batches of the same group came before each one: its place in that group's own plan.
        self.turn_S = np.zeros(num_batches, np.int64)
        self.plans: dict[int, _Plan | _LargePlan] = {}
        for number, count in zip(usable, counts.tolist(), strict=True):
            self.turn_S[self.group_S == number] = np.arange(count)
            kind = _Plan if store.counts_G[number] <= BLOCK_ROWS else _LargePlan
            self.plans[number] = kind(store, number, sizes[store.groups[number].row], count, seed)

    def __len__(self) -> int:
        return len(self.group_S)

    def __getitem__(self, number: int) -> Batch:
        group = int(self.group_S[number])
        numbers = self.plans[group].batch(int(self.turn_S[number]))
        examples = self.store.read(numbers)
        rng = np.random.default_rng([self.seed, 2, number])
        passages, negatives, scores, chunks = [], [], [], []
        for example in examples:
            chosen = self._choose(len(example.negatives), rng)
            negatives.append(tuple(example.negatives[place] for place in chosen))
            is_free = len(example.positives) > 1 and not (self.with_scores or self.with_chunks)
            passages.append(example.positives[int(rng.integers(len(example.positives))) if is_free else 0])
            if self.with_scores and example.scores is not None:
                scores.append((example.scores[0], *(example.scores[1 + place] for place in chosen)))
            if self.with_chunks and example.chunks is not None:
                chunks.append(example.chunks)
        queries = [example.query for example in examples]
        return Batch(
            self.store.groups[group],
            queries,
            passages,
            negatives,
            self._known(queries, [*passages, *(text for own in negatives for text in own)]),
            scores if self.with_scores else None,
            chunks if self.with_chunks else None,
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """For each group its examples in the store and its batches in the plan."""
        return {
            str(group): {
                "examples": int(self.store.counts_G[number]),
                "batches": int((self.group_S == number).sum()),
            }
            for number, group in enumerate(self.store.groups)
        }

    def _choose(self, count: int, rng: np.random.Generator) -> list[int]:
        if not self.draws_negatives or count <= self.negatives:
            return list(range(min(count, self.negatives)))
        return sorted(rng.choice(count, self.negatives, replace=False).tolist())

    def _known(self, queries: list[str], candidates: list[str]) -> list[tuple[int, ...]]:
        places: dict[int, list[int]] = {}
        for place, text in enumerate(candidates):
            places.setdefault(fingerprint(text), []).append(place)
        found = []
        for own, query in enumerate(queries):
            key = fingerprint(query)
            answers = {key, fingerprint(candidates[own])} | self.store.known.of(key)
            found.append(tuple(sorted({p for answer in answers for p in places.get(answer, ())} - {own})))
        return found


class _Plan:
    """The batches of a group that is dealt as a whole."""

    def __init__(self, store: ExampleStore, group: int, size: int, count: int, seed: int) -> None:
        own = store.members(group, 0, int(store.counts_G[group]))
        rng = np.random.default_rng([seed, 1, group])
        self._batches = own[deal(store.keys_N3.take(own), size, count, rng, str(store.groups[group]))]

    def batch(self, turn: int) -> list[int]:
        """Numbers of the examples of the `turn`-th batch."""
        return self._batches[turn].tolist()


class _LargePlan:
    """The batches of a group that is dealt block by block; the block that was asked for last is kept."""

    def __init__(self, store: ExampleStore, group: int, size: int, count: int, seed: int) -> None:
        self._store, self._group, self._size, self._seed = store, group, size, seed
        self._total = int(store.counts_G[group])
        self._num_blocks = self._total // BLOCK_ROWS  # the last one takes the rest as well
        self._per_block = [(stop - start) // size for start, stop in map(self._block, range(self._num_blocks))]
        self._dealt: tuple[tuple[int, int], np.ndarray] | None = None
        self.batch(0)  # so that a group that cannot be dealt is refused before the training

    def batch(self, turn: int) -> list[int]:
        """Numbers of the examples of the `turn`-th batch."""
        number, turn = divmod(turn, sum(self._per_block))
        block = 0
        while turn >= self._per_block[block]:
            turn, block = turn - self._per_block[block], block + 1
        if self._dealt is None or self._dealt[0] != (number, block):
            self._dealt = (number, block), self._deal(number, block)
        return self._dealt[1][turn].tolist()

    def _block(self, block: int) -> tuple[int, int]:
        is_last = block == self._num_blocks - 1
        return block * BLOCK_ROWS, self._total if is_last else (block + 1) * BLOCK_ROWS

    def _deal(self, number: int, block: int) -> np.ndarray:
        shuffle = Shuffle(self._total, np.random.default_rng([self._seed, 1, self._group, number]))
        own = self._store.member(self._group, shuffle(np.arange(*self._block(block))))
        rng = np.random.default_rng([self._seed, 1, self._group, number, block])
        name = str(self._store.groups[self._group])
        return own[deal(self._store.keys_N3.take(own), self._size, self._per_block[block], rng, name)]


def _weights(store: ExampleStore, mix: Sequence[MixRow], usable: list[int]) -> np.ndarray:
    counts_G = store.counts_G
    of_row = np.zeros(len(mix))
    for number in usable:
        of_row[store.groups[number].row] += counts_G[number]
    rows = [store.groups[number].row for number in usable]
    return np.array(
        [mix[row].weight * counts_G[number] / of_row[row] for number, row in zip(usable, rows, strict=True)]
    )


def _has_enough(store: ExampleStore, group: int, size: int) -> bool:
    """Whether, by counting, a batch could be filled: as many different queries, passages and topics as it has rows."""
    seen: list[set[int]] = [set(), set(), set()]
    without_topic = 0
    for start in range(0, int(store.counts_G[group]), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, int(store.counts_G[group]))
        keys_N3 = store.keys_N3.take(store.members(group, start, stop))
        for column, own in enumerate(seen):
            own.update(keys_N3[:, column].tolist())
        without_topic += int((keys_N3[:, 2] == 0).sum())
        topics = len(seen[2] - {0}) + without_topic
        if min(len(seen[0]), len(seen[1]), topics) >= size:
            return True
    return False
