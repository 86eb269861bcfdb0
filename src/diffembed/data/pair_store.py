"""Pairs on disk: the texts end to end, and small arrays that say which group a pair is of and what it clashes with.

Texts, not tokens, are kept: a run draws only some of the pairs, and tokenising a batch when its turn comes takes a few
hundredths of a step on a CPU. Writing a million pairs takes under a minute, tokenising them all would take ten.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffembed.data.pairs import Pair
from diffembed.errors import ConfigError, DataError
from diffembed.files import write_whole

STORE_FILE = "store.json"
ARRAY_FILES = ("queries.utf8", "passages.utf8", "queries.i64", "passages.i64", "groups.i32", "keys.i64")
ANY = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class MixRow:
    """What a training does with the pairs of one source and kind."""

    source: str
    """Folder name of the source, or `*`. A pair belongs to the first row that fits it."""
    kind: str
    """Kind of pair, or `*`. Kinds never share a batch; they share the row's weight by their number of pairs."""
    weight: float
    """Share of the batches, relative to the other rows' sum."""
    instruction: str
    """Says to the model what the query asks for; may be empty."""
    passage_tokens: int
    """Passages are cut to this, EOS included."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(
                f"weight must be positive, got {self.weight} for {self.source} {self.kind}", hint="leave out the row"
            )
        if self.passage_tokens < 2:
            raise ConfigError(
                f"passage_tokens must be at least 2, got {self.passage_tokens}", hint="96 to 512 is usual"
            )

    def fits(self, source: str, kind: str) -> bool:
        return self.source in (ANY, source) and self.kind in (ANY, kind)


@dataclass(frozen=True, slots=True)
class Group:
    """The pairs of one source and kind.

    Attributes:
        row: Number of its row of the mix.
        source: As in `Pair`.
        kind: As in `Pair`.
    """

    row: int
    source: str
    kind: str

    def __str__(self) -> str:
        return f"{self.source} {self.kind}"


@dataclass(frozen=True, slots=True)
class PairStore:
    """Pairs in arrays; the texts are memory-mapped.

    Attributes:
        groups: What the numbers in `group_N` mean.
        group_N: int32; group of each pair.
        keys_N3: int64 fingerprints of query, passage and topic (0: no topic); pairs that share one may not meet.
        dropped: Pairs that were not kept, and why.
        texts: Per side (query, passage) the UTF-8 bytes end to end, and int64 where each text ends.
    """

    groups: tuple[Group, ...]
    group_N: np.ndarray
    keys_N3: np.ndarray
    dropped: dict[str, int]
    texts: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

    @classmethod
    def open(cls, folder: Path) -> "PairStore | None":
        """The finished store in a folder, or None where there is none.

        Raises:
            DataError: Its files are not of the sizes that it was finished with.
        """
        if not (folder / STORE_FILE).exists():
            return None
        try:
            facts = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
            is_whole = facts["sizes"] == _sizes(folder)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            is_whole = False
        if not is_whole:
            raise DataError(f"the pair store {folder} is damaged", hint="remove that folder; --resume makes it anew")
        queries, passages = (
            (np.memmap(folder / f"{side}.utf8", np.uint8, mode="r"), np.fromfile(folder / f"{side}.i64", np.int64))
            for side in ("queries", "passages")
        )
        return cls(
            groups=tuple(Group(**group) for group in facts["groups"]),
            group_N=np.fromfile(folder / "groups.i32", np.int32),
            keys_N3=np.fromfile(folder / "keys.i64", np.int64).reshape(-1, 3),
            dropped=facts["dropped"],
            texts=(queries, passages),
        )

    @classmethod
    def build(cls, folder: Path, pairs: Iterable[Pair], mix: Sequence[MixRow], max_chars: Sequence[int]) -> "PairStore":
        """Write pairs into a folder. The small JSON file comes last and says that the store is whole.

        Args:
            folder: Made if missing.
            pairs: Read once; only what is being written is in memory.
            mix: Rows that say which pairs are wanted.
            max_chars: For each row, how much of a passage can matter; the rest is not kept.

        Raises:
            DataError: No pair fits any row.
        """
        folder.mkdir(parents=True, exist_ok=True)
        numbers: dict[tuple[str, str], int | None] = {}
        groups: list[Group] = []
        dropped: Counter[str] = Counter()
        group_N, keys_N3, query_ends, passage_ends = array("i"), array("q"), array("q"), array("q")
        with (folder / "queries.utf8").open("wb") as queries, (folder / "passages.utf8").open("wb") as passages:
            for pair in pairs:
                name = (pair.source, pair.kind)
                if name not in numbers:
                    numbers[name] = _new_group(groups, mix, *name)
                number = numbers[name]
                if number is None:
                    dropped[f"no row of the mix fits {pair.source} {pair.kind}"] += 1
                    continue
                query, passage = pair.query, pair.passage[: max_chars[groups[number].row]]
                keys = fingerprint(query), fingerprint(passage), fingerprint(pair.topic or "")
                if not keys[0] or not keys[1] or keys[0] == keys[1]:
                    dropped["a text is blank, or both are the same"] += 1
                    continue
                group_N.append(number)
                keys_N3.extend(keys)
                # JSON can spell half a surrogate pair, which no tokenizer takes: it becomes a question mark.
                queries.write(query.encode("utf-8", "replace"))
                passages.write(passage.encode("utf-8", "replace"))
                query_ends.append(queries.tell())
                passage_ends.append(passages.tell())
        if not group_N:
            raise DataError("the data holds no pair that a row of the mix fits", hint="see the data page in docs/")
        arrays = {"queries.i64": query_ends, "passages.i64": passage_ends, "groups.i32": group_N, "keys.i64": keys_N3}
        for file_name, values in arrays.items():
            (folder / file_name).write_bytes(values.tobytes())
        facts = {
            "groups": [{"row": group.row, "source": group.source, "kind": group.kind} for group in groups],
            "dropped": dict(dropped),
            "sizes": _sizes(folder),
        }
        write_whole(folder / STORE_FILE, json.dumps(facts, indent=2) + "\n")
        store = cls.open(folder)
        assert store is not None
        return store

    def __len__(self) -> int:
        return len(self.group_N)

    def read(self, numbers: Iterable[int]) -> tuple[list[str], list[str]]:
        """Queries and passages of some pairs."""
        chosen = list(numbers)
        queries, passages = ([_read(data, ends, number) for number in chosen] for data, ends in self.texts)
        return queries, passages


def fingerprint(text: str) -> int:
    """63 bits that are equal for texts that differ only in case and white space; 0 for blank text."""
    plain = " ".join(text.casefold().split())
    if not plain:
        return 0
    digest = hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) | 1


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in ARRAY_FILES}


def _new_group(groups: list[Group], mix: Sequence[MixRow], source: str, kind: str) -> int | None:
    row = next((number for number, row in enumerate(mix) if row.fits(source, kind)), None)
    if row is None:
        return None
    groups.append(Group(row, source, kind))
    return len(groups) - 1


def _read(data: np.ndarray, ends: np.ndarray, number: int) -> str:
    start = int(ends[number - 1]) if number else 0
    return data[start : int(ends[number])].tobytes().decode("utf-8")
