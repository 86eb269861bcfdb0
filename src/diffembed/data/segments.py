"""Text -> token store -> batches of segments. A batch depends on the seed and its number alone: resuming is exact."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from diffembed.errors import DataError
from diffembed.files import write_whole
from diffembed.text.tokenizer import Tokenizer

ENDS_FILE, STORE_FILE = "ends.i64", "store.json"
# Two bytes a token where the table has no more rows than that can count; other families have 150,000.
TOKEN_FILES = {2: "tokens.u16", 4: "tokens.u32"}
# Texts handed to the tokenizer at once: enough to keep its threads busy.
TEXTS_PER_CALL = 512
# A segment shorter than this teaches little and costs an attention call of its own.
MIN_SEGMENT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Token ids of many documents in one array; memory-mapped when it comes from disk.

    Attributes:
        tokens: uint16 or uint32 ids, documents end to end, without EOS.
        ends: int64; where each document ends in `tokens`.
    """

    tokens: np.ndarray
    ends: np.ndarray

    @classmethod
    def from_texts(cls, texts: Iterable[str], tokenizer: Tokenizer) -> "TokenStore":
        """Tokenize texts into memory."""
        dtype = _dtype(tokenizer)
        ids = [np.array(row, dtype) for some in _batches(texts) for row in tokenizer.encode(some)]
        lengths = np.array([len(row) for row in ids], np.int64)
        return cls(np.concatenate(ids) if ids else np.zeros(0, dtype), np.cumsum(lengths))

    @classmethod
    def open(cls, folder: Path) -> "TokenStore | None":
        """The finished store in a folder, or None where there is none.

        Raises:
            DataError: Its files are not of the size that it was finished with.
        """
        if not (folder / STORE_FILE).exists():
            return None
        try:
            facts = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
            width = facts.get("token_bytes", 2)
            path = folder / TOKEN_FILES[width]
            wanted = [width * facts["tokens"], 8 * facts["documents"]]
            is_whole = [each.stat().st_size for each in (path, folder / ENDS_FILE)] == wanted
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            is_whole = False
        if not is_whole:
            raise DataError(f"the token store {folder} is damaged", hint="remove that folder; --resume makes it anew")
        return cls(np.memmap(path, f"u{width}", mode="r"), np.fromfile(folder / ENDS_FILE, np.int64))

    @classmethod
    def build(cls, folder: Path, texts: Iterable[str], tokenizer: Tokenizer) -> "TokenStore":
        """Tokenize texts into a folder. The small JSON file comes last and says that the store is whole."""
        dtype = _dtype(tokenizer)
        folder.mkdir(parents=True, exist_ok=True)
        ends: list[int] = []
        total = 0
        with (folder / TOKEN_FILES[dtype.itemsize]).open("wb") as file:
            for some in _batches(texts):
                for ids in tokenizer.encode(some):
                    file.write(np.array(ids, dtype).tobytes())
                    total += len(ids)
                    ends.append(total)
        if not total:
            raise DataError("the data holds no text", hint="check the folder given to --data")
        np.array(ends, np.int64).tofile(folder / ENDS_FILE)
        facts = {"documents": len(ends), "tokens": total, "token_bytes": dtype.itemsize}
        write_whole(folder / STORE_FILE, json.dumps(facts) + "\n")
        store = cls.open(folder)
        assert store is not None
        return store


class SegmentBatches:
    """Cuts documents into segments of a few lengths and deals them out in batches of about equal token counts.

    Each batch has one nominal length (document ends give shorter segments); the share of a length is its share of the
    batches. In a pass no segment is seen twice; its order is drawn anew, and its last, unfilled batch is dropped.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        lengths: Sequence[int],
        shares: Sequence[float],
        tokens_per_batch: int,
        num_batches: int,
        eos_id: int,
        seed: int,
    ) -> None:
        """Plan `num_batches` batches.

        Args:
            store: The tokens.
            lengths: Segment lengths in tokens, the closing EOS included.
            shares: How often each length comes, relative to their sum.
            tokens_per_batch: Most tokens of a batch, EOS included; at least the longest length.
            num_batches: Batches in the whole run.
            eos_id: Closes every segment, as it closes every text at encoding time.
            seed: Of every choice made here.

        Raises:
            DataError: The documents give no full batch of a length.
        """
        self.store, self.eos_id = store, eos_id
        weights = np.array(shares, np.float64)
        self.kinds = np.random.default_rng([seed, 0]).choice(len(lengths), size=num_batches, p=weights / weights.sum())
        # How many batches of the same kind came before each one: the place in that kind's own order.
        self.turns = np.zeros(num_batches, np.int64)
        for kind in range(len(lengths)):
            own = self.kinds == kind
            self.turns[own] = np.arange(own.sum())
        self.queues = [
            _Queue(_cut(store.ends, length - 1), tokens_per_batch, seed=(seed, 1, kind), name=f"{length} tokens")
            for kind, length in enumerate(lengths)
        ]

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, number: int) -> list[list[int]]:
        """Token ids of each segment of a batch, EOS included."""
        pieces = self.queues[self.kinds[number]].batch(int(self.turns[number]))
        return [[*self.store.tokens[start:end].tolist(), self.eos_id] for start, end in pieces]


class _Queue:
    """The segments of one nominal length, pass after pass, each in a new order, cut into batches by token count."""

    def __init__(self, pieces: np.ndarray, tokens_per_batch: int, *, seed: tuple[int, ...], name: str) -> None:
        self.pieces, self.tokens_per_batch, self.seed = pieces, tokens_per_batch, seed
        self._passes: list[tuple[int, int]] = []  # first batch and number of batches of each pass so far
        self._current: tuple[int, np.ndarray, np.ndarray] | None = None
        self._num_batches(0)
        if not self._passes[0][1]:
            raise DataError(
                f"the data does not fill one batch of {tokens_per_batch} tokens with segments of {name}",
                hint="add text, or lower tokens_per_step",
            )

    def batch(self, turn: int) -> np.ndarray:
        """(segments, 2) start and end of the segments of batch `turn` of this queue."""
        number = 0
        while turn >= sum(self._num_batches(number)):
            number += 1
        order, bounds = self._order(number)
        own = turn - self._passes[number][0]
        return self.pieces[order[bounds[own] : bounds[own + 1]]]

    def _num_batches(self, number: int) -> tuple[int, int]:
        while len(self._passes) <= number:
            first = sum(self._passes[-1]) if self._passes else 0
            self._passes.append((first, len(self._order(len(self._passes))[1]) - 1))
        return self._passes[number]

    def _order(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of pass `number`, and where its batches begin; an unfilled last batch is dropped."""
        if self._current is None or self._current[0] != number:
            order = np.random.default_rng([*self.seed, number]).permutation(len(self.pieces))
            ends = np.cumsum(self.pieces[order, 1] - self.pieces[order, 0] + 1)  # + 1: EOS
            bounds = [0]
            while bounds[-1] < len(order):
                begun = ends[bounds[-1] - 1] if bounds[-1] else 0
                bound = int(np.searchsorted(ends, begun + self.tokens_per_batch, side="right"))
                if bound == len(order):
                    break
                bounds.append(bound)
            self._current = (number, order, np.array(bounds))
        return self._current[1], self._current[2]


def _cut(ends: np.ndarray, length: int) -> np.ndarray:
    """(segments, 2) start and end of the pieces of at most `length` tokens that each document falls into."""
    starts = np.concatenate([[0], ends[:-1]])
    counts = -(-(ends - starts) // length)
    first = np.repeat(starts, counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = first + number * length
    end = np.minimum(begin + length, np.repeat(ends, counts))
    pieces = np.stack([begin, end], axis=1)
    return pieces[(pieces[:, 1] - pieces[:, 0]) >= min(MIN_SEGMENT_TOKENS, length)]


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= np.iinfo(np.uint16).max + 1 else np.uint32)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while some := list(islice(rest, TEXTS_PER_CALL)):
        yield some
