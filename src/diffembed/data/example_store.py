"""Examples on disk: the texts end to end, and numbers that say which belong together, to which group, what clashes.

Texts, not tokens, are kept: a run draws only some of the examples, and tokenising a batch when its turn comes takes a
few hundredths of a step on a CPU. Writing a million pairs takes under a minute, tokenising them all would take ten.
Nothing that grows with the data is in memory: a hundred million examples need no more of it than ten thousand.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffembed.data.disk_array import DiskArray
from diffembed.data.examples import SAME_TEXT, Example
from diffembed.data.known import KnownPositives, sort_pairs
from diffembed.data.mix import Group, MixRow, find_row
from diffembed.errors import DataError
from diffembed.files import write_whole

STORE_FILE = "store.json"
TEXTS, ENDS, SCORES, ROWS = "texts.utf8", "ends.i64", "scores.f32", "rows.i64"
KEYS, GROUPS, MEMBERS, KNOWN = "keys.i64", "groups.i32", "members.i64", "known.i64"
FILES = (TEXTS, ENDS, SCORES, ROWS, KEYS, GROUPS, MEMBERS, KNOWN)
# An instruction of its own for each example would leave no batch of one instruction.
MOST_GROUPS = 4096


class ExampleStore:
    """Examples in files, read a few at a time.

    Attributes:
        groups: What the numbers of groups mean.
        counts_G: int64, examples of each group.
        scored_G: int64, those of them that have a teacher's scores.
        chunked_G: int64, those of them that have their document in pieces.
        keys_N3: int64 fingerprints of query, first positive and topic (0: no topic); examples that share one may not
            meet in a batch.
        known: What answers a query, over all examples.
        dropped: What was not kept, and why.
    """

    def __init__(self, folder: Path) -> None:
        """Open a whole store.

        Raises:
            DataError: Its files are not of the sizes that it was finished with.
        """
        try:
            facts = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
            is_whole = facts["sizes"] == _sizes(folder)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            is_whole = False
        if not is_whole:
            raise DataError(f"the example store {folder} is damaged", hint="remove that folder; --resume makes it anew")
        self.groups = tuple(Group(**group) for group in facts["groups"])
        names = ("counts", "scored", "chunked")
        self.counts_G, self.scored_G, self.chunked_G = (np.array(facts[name], np.int64) for name in names)
        self.dropped: dict[str, int] = facts["dropped"]
        self.keys_N3 = DiskArray(folder / KEYS, np.int64, 3)
        self.known = KnownPositives(folder / KNOWN)
        self._firsts_G = np.cumsum([0, *self.counts_G])
        self._members = DiskArray(folder / MEMBERS, np.int64)
        self._groups_N = DiskArray(folder / GROUPS, np.int32)
        self._rows_N4 = DiskArray(folder / ROWS, np.int64, 4)
        self._texts, self._ends = DiskArray(folder / TEXTS, np.uint8), DiskArray(folder / ENDS, np.int64)
        self._scores = DiskArray(folder / SCORES, np.float32)

    @classmethod
    def open(cls, folder: Path) -> "ExampleStore | None":
        """The finished store in a folder, or None where there is none."""
        return cls(folder) if (folder / STORE_FILE).exists() else None

    @classmethod
    def build(
        cls,
        folder: Path,
        examples: Iterable[Example],
        mix: Sequence[MixRow],
        max_chars: Sequence[int],
        *,
        least_negatives: int = 0,
        skipped: Mapping[str, int] | None = None,
    ) -> "ExampleStore":
        """Write examples into a folder. The small JSON file comes last and says that the store is whole.

        Args:
            folder: Made if missing.
            examples: Read once; only what is being written is in memory.
            mix: Rows that say which examples are wanted.
            max_chars: For each row, how much of a passage can matter; the rest is not kept.
            least_negatives: Examples with fewer hard negatives are dropped.
            skipped: What whoever reads the examples counts meanwhile; is added to what was dropped.

        Raises:
            DataError: No example fits any row, or they have too many instructions.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with _Writer(folder, mix, max_chars, least_negatives) as writer:
            for example in examples:
                writer.add(example)
        if not sum(writer.counts):
            lost = "; ".join(f"{count:,}: {reason}" for reason, count in writer.dropped.most_common(3))
            raise DataError(f"nothing of the data can be used ({lost or 'it is empty'})", hint="see docs/data.md")
        _write_members(folder, writer.counts)
        sort_pairs(folder / "unsorted.i64", folder / KNOWN)
        (folder / "unsorted.i64").unlink()
        facts = {
            "groups": [
                {"row": group.row, "source": group.source, "kind": group.kind, "instruction": group.instruction}
                for group in writer.groups
            ],
            "counts": writer.counts,
            "scored": writer.scored,
            "chunked": writer.chunked,
            "dropped": dict(writer.dropped + Counter(skipped)),
            "sizes": _sizes(folder),
        }
        write_whole(folder / STORE_FILE, json.dumps(facts, indent=2) + "\n")
        return cls(folder)

    def __len__(self) -> int:
        return len(self._rows_N4)

    def members(self, group: int, start: int, stop: int) -> np.ndarray:
        """Numbers of the examples of a group, from its `start`-th to before its `stop`-th."""
        first = int(self._firsts_G[group])
        return self._members.rows(first + start, first + stop)

    def member(self, group: int, places: Iterable[int]) -> np.ndarray:
        """Numbers of the examples at some places of a group."""
        first = int(self._firsts_G[group])
        return self._members.take(first + int(place) for place in places)

    def read(self, numbers: Iterable[int]) -> list[Example]:
        """Examples by number. Their topic is not kept: the keys have it."""
        return [self._read(int(number)) for number in numbers]

    def _read(self, number: int) -> Example:
        first, *counts = self._rows_N4.rows(number, number + 1)[0].tolist()
        total = 1 + sum(counts)
        # Where the text before the first ends; nothing stands before text 0.
        ends = self._ends.rows(max(first - 1, 0), first + total).tolist()
        ends = ends if first else [0, *ends]
        data = self._texts.rows(ends[0], ends[-1]).tobytes()
        query, *texts = (data[a - ends[0] : b - ends[0]].decode() for a, b in zip(ends, ends[1:], strict=False))
        positives, negatives, chunks = _cut(texts, counts)
        scores = self._scores.rows(first + 1, first + total)
        scored = [scores[0], *scores[len(positives) : len(positives) + len(negatives)]]
        group = self.groups[int(self._groups_N.rows(number, number + 1)[0])]
        return Example(
            query=query,
            positives=positives,
            negatives=negatives,
            source=group.source,
            kind=group.kind,
            instruction=group.instruction,
            scores=None if np.isnan(scored[0]) else tuple(float(score) for score in scored),
            chunks=chunks or None,
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    """An example as it is written, and its fingerprints."""

    example: Example
    query: int
    positives: tuple[int, ...]


class _Writer:
    """Appends examples to the files of a store."""

    def __init__(self, folder: Path, mix: Sequence[MixRow], max_chars: Sequence[int], least_negatives: int) -> None:
        self.mix, self.max_chars, self.least_negatives = mix, max_chars, least_negatives
        self.groups: list[Group] = []
        self.counts: list[int] = []
        self.scored: list[int] = []
        self.chunked: list[int] = []
        self.dropped: Counter[str] = Counter()
        self._folder, self._stack = folder, ExitStack()
        self._numbers: dict[tuple[str, str, str | None], int | None] = {}
        self._num_texts = self._num_bytes = 0

    def __enter__(self) -> "_Writer":
        names = {"texts": TEXTS, "ends": ENDS, "scores": SCORES, "rows": ROWS, "keys": KEYS, "groups": GROUPS}
        names["known"] = "unsorted.i64"
        self._files = {key: self._stack.enter_context((self._folder / name).open("wb")) for key, name in names.items()}
        return self

    def __exit__(self, *unused: object) -> None:
        self._stack.close()

    def add(self, example: Example) -> None:
        """Write an example, or count why not."""
        group = self._group_of(example)
        if group is None:
            self.dropped[f"no row of the mix fits {example.source} {example.kind}"] += 1
            return
        kept = self._keep(example, self.max_chars[self.groups[group].row])
        if kept is None:
            return
        example = kept.example
        # Two questions about one document must not meet: each would take the other's answer for a wrong chunk.
        topic = example.topic or ("".join(example.chunks) if example.chunks else "")
        chunks = example.chunks or ()
        counts = [len(example.positives), len(example.negatives), len(chunks)]
        scores = [np.nan] * (1 + sum(counts))
        if example.scores is not None:
            scores[1], scores[1 + counts[0] : 1 + counts[0] + counts[1]] = example.scores[0], example.scores[1:]
        self._write("rows", np.int64, [self._num_texts, *counts])
        self._write("keys", np.int64, [kept.query, kept.positives[0], fingerprint(topic)])
        self._write("known", np.int64, [key for positive in kept.positives for key in (kept.query, positive)])
        self._write("groups", np.int32, [group])
        self._write("scores", np.float32, scores)
        ends = []
        for text in (example.query, *example.positives, *example.negatives, *chunks):
            # JSON can spell half a surrogate pair, which no tokenizer takes: it becomes a question mark.
            self._num_bytes += self._files["texts"].write(text.encode("utf-8", "replace"))
            ends.append(self._num_bytes)
        self._write("ends", np.int64, ends)
        self._num_texts += len(ends)
        self.counts[group] += 1
        self.scored[group] += example.scores is not None
        self.chunked[group] += example.chunks is not None

    def _write(self, name: str, dtype: type[np.generic], values: Sequence[float]) -> None:
        self._files[name].write(np.array(values, dtype).tobytes())

    def _group_of(self, example: Example) -> int | None:
        name = (example.source, example.kind, example.instruction)
        if name not in self._numbers:
            row = find_row(self.mix, example.source, example.kind)
            if row is not None:
                if len(self.groups) == MOST_GROUPS:
                    raise DataError(
                        f"the data has more than {MOST_GROUPS} groups, the last with the instruction "
                        f"{str(example.instruction)[:60]!r}",
                        hint="a batch has one instruction: put what differs from row to row into the query",
                    )
                self.groups.append(Group(row, *name))
                for counts in (self.counts, self.scored, self.chunked):
                    counts.append(0)
            self._numbers[name] = None if row is None else len(self.groups) - 1
        return self._numbers[name]

    def _keep(self, example: Example, max_chars: int) -> _Kept | None:
        """What is left of an example without repeated texts; None, and counted, where that is too little."""
        limit = None if example.chunks else max_chars  # the positive stays one of the chunks
        query = fingerprint(example.query)
        positives: dict[int, str] = {}
        for text in (positive[:limit] for positive in example.positives):
            key = fingerprint(text)
            if key and (key != query or example.kind == SAME_TEXT):
                positives.setdefault(key, text)
        is_bound = example.scores is not None or example.chunks is not None  # to the first positive
        if not query or not positives or (is_bound and example.positives[0][:limit] not in positives.values()):
            self.dropped["a text is blank, or both are the same"] += 1
            return None
        useless = {0, query, *positives}
        negatives = [text[:limit] for text in example.negatives]
        places = [place for place, text in enumerate(negatives) if fingerprint(text) not in useless]
        if lost := len(negatives) - len(places):
            self.dropped["a negative is blank, or equal to the query or a positive"] += lost
        if len(places) < self.least_negatives:
            self.dropped[f"fewer than {self.least_negatives} hard negatives"] += 1
            return None
        scores = example.scores and (example.scores[0], *(example.scores[1 + place] for place in places))
        kept = replace(
            example,
            positives=tuple(positives.values()),
            negatives=tuple(negatives[place] for place in places),
            scores=scores,
        )
        return _Kept(kept, query, tuple(positives))


def fingerprint(text: str) -> int:
    """63 bits that are equal for texts that differ only in case and white space; 0 for blank text."""
    plain = " ".join(text.casefold().split())
    if not plain:
        return 0
    digest = hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) | 1


def _write_members(folder: Path, counts: Sequence[int]) -> None:
    """Numbers of the examples of group 0, then of group 1, ...: a counting sort on disk."""
    place_G = np.cumsum([0, *counts])
    groups_N = DiskArray(folder / GROUPS, np.int32)
    with (folder / MEMBERS).open("wb") as file:
        for first, block in groups_N.blocks():
            order = np.argsort(block, kind="stable")
            present, starts = np.unique(block[order], return_index=True)
            for group, own in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
                os.pwrite(file.fileno(), (own + first).astype(np.int64).tobytes(), int(place_G[group]) * 8)
                place_G[group] += len(own)


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in FILES}


def _cut(texts: Sequence[str], counts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    start = 0
    for count in counts:
        yield tuple(texts[start : start + count])
        start += count
