"""Vectors on disk: rows that are only ever added, in files of a fixed number of rows that are mapped into memory.

Which rows count is not said here but by the transaction that names them (`diffembed.index.store`): what lies behind
the last row that it knows is left over from a writer that was killed, and is written over.
"""

import hashlib
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import IndexFormatError
from diffembed.index import exact
from diffembed.index.failures import damaged
from diffembed.index.folder import open_own
from diffembed.index.hits import NO_ROW, Hits, best

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SHARD_ROWS = 65_536
"""Rows of a file. At 384 dims in float16 that is 48 MiB: few files, and none that a file system minds."""
RESCORED = 10
"""int8 finds this many times the hits asked for, and their float16 values decide; never fewer than `LEAST_RESCORED`.
A row that is not among them can't be a hit, so int8, alone of the precisions, is not exact."""
LEAST_RESCORED = 200
KEPT_MAPPED_BYTES = 2**28
"""Larger indexes give their pages back after each search, so that a process never holds more than a shard of them; the
system keeps them in its cache as long as it has room."""
TOKEN = "[0-9a-f]{8}"
OWN_NAME = re.compile(rf"{TOKEN}-\d{{4,}}-(?:{'|'.join(PRECISIONS)})-\d{{5,}}\.bin")
"""Of a vector file, of this index or another one; what is called otherwise belongs to somebody else."""


@dataclass(frozen=True, slots=True)
class Shards:
    """The vector files of one generation.

    Attributes:
        folder: Where they lie.
        token: Of the index, 8 hexadecimal digits; part of their names. An index that is made in the place of another
            has another one, so that nobody who still has the old one open finds new vectors under old names.
        generation: Part of their names too. A compaction writes a new one beside the old.
        dims: Of a vector.
        precision: What is scanned; `int8` keeps float16 beside it, from which the best hits get their scores.
    """

    folder: Path
    token: str
    generation: int
    dims: int
    precision: Precision

    def dtypes(self) -> dict[str, np.dtype]:
        """What is kept of each row, the scanned format first."""
        if self.precision == "int8":
            return {"int8": exact.scaled_int8(self.dims), "float16": np.dtype((np.float16, self.dims))}
        return {self.precision: np.dtype((self.precision, self.dims))}

    def path(self, kind: str, shard: int) -> Path:
        return self.folder / f"{self._prefix}-{kind}-{shard:05d}.bin"

    @property
    def _prefix(self) -> str:
        return f"{self.token}-{self.generation:04d}"

    def write(self, first: int, vectors_NE: NDArray[np.float32]) -> str:
        """Put rows behind the first `first` ones, down to the disk, and return a digest of their bytes.

        Raises:
            FileNotFoundError: The file that they go on in is not there.
            IndexFormatError: It is too short.
        """
        digest = hashlib.blake2b(digest_size=16)
        self.folder.mkdir(exist_ok=True)
        if first == 0:
            # Also when the folder is there: whoever made it may have been killed before its name would last.
            sync_folder(self.folder.parent)
        for kind, dtype in self.dtypes().items():
            rows = _as_stored(vectors_NE, kind, dtype)
            digest.update(rows.tobytes())
            for shard, start, part in _by_shard(first, rows):
                _write_at(self.path(kind, shard), start * dtype.itemsize, part.tobytes())
        return digest.hexdigest()

    def digest(self, first: int, count: int) -> str:
        """The digest that `write` returned for these rows, if they are as they were."""
        digest = hashlib.blake2b(digest_size=16)
        for kind in self.dtypes():
            skipped = first // SHARD_ROWS
            position = skipped * SHARD_ROWS
            for part in self.parts(kind, first + count, skipped=skipped):
                digest.update(part[max(first - position, 0) :].tobytes())
                position += len(part)
        return digest.hexdigest()

    def parts(self, kind: str, num_rows: int, *, skipped: int = 0) -> Iterator[NDArray]:
        """The first rows, a file at a time, mapped into memory; without so many files at the beginning.

        Raises:
            FileNotFoundError: A file is not there (a newer generation may be).
            IndexFormatError: A file is too short.
        """
        for shard in range(skipped, -(-num_rows // SHARD_ROWS)):
            yield self._map(kind, shard, min(SHARD_ROWS, num_rows - shard * SHARD_ROWS))

    def expect(self, num_rows: int) -> None:
        """See that there are so many rows, before anything is made of their size; raises what `parts` does."""
        for kind in self.dtypes() if num_rows else ():
            shard, row = divmod(num_rows - 1, SHARD_ROWS)
            self._map(kind, shard, row + 1)

    def search(
        self, query_BE: NDArray[np.float32], num_rows: int, k: int, *, is_wanted: NDArray[np.bool_] | None = None
    ) -> Hits:
        """The nearest rows among the first `num_rows`; see `exact.search_parts`.

        Exact for float32 and float16. With int8, rows outside the best of the rough scan (see `RESCORED`) can't be
        hits; the scores of the hits are those of their float16 values.

        Raises:
            FileNotFoundError: A file is not there (a newer generation may be).
            IndexFormatError: A file is too short, or holds what is no number.
            DataError: The queries don't fit, or hold what is no number.
        """
        scanned, *finer = self.dtypes()
        gives_back = num_rows * self.dtypes()[scanned].itemsize > KEPT_MAPPED_BYTES
        parts = _giving_back(self.parts(scanned, num_rows)) if gives_back else self.parts(scanned, num_rows)
        candidates = max(RESCORED * k, LEAST_RESCORED) if finer else k
        try:
            rough = exact.search_parts(query_BE, parts, candidates, is_wanted_P=is_wanted)
        except exact.NotFiniteError:
            if all(_is_finite(part) for part in self.parts(scanned, num_rows)):
                raise  # the queries are to blame
            raise self._not_finite() from None
        return self._rescore(query_BE, rough, num_rows, k)

    def take(self, rows: NDArray[np.int64], num_rows: int) -> NDArray[np.float32]:
        """Single rows, in any order, in the finest format that is kept; raises what `parts` does."""
        kind, _ = self._finest
        if len(rows) and not 0 <= rows.min() <= rows.max() < num_rows:
            raise damaged(self.folder.parent, f"it names vectors {rows.min()} to {rows.max()} and has {num_rows}")
        taken = np.empty((len(rows), self.dims), np.float32)
        for shard in np.unique(rows // SHARD_ROWS):
            is_here = rows // SHARD_ROWS == shard
            part = self._map(kind, int(shard), min(SHARD_ROWS, num_rows - int(shard) * SHARD_ROWS))
            taken[is_here] = part[rows[is_here] % SHARD_ROWS]
        return taken

    def rounded(self, vectors_NE: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors as `take` gives them back once they were written."""
        return vectors_NE.astype(self._finest[1].base).astype(np.float32)

    @property
    def _finest(self) -> tuple[str, np.dtype]:
        return list(self.dtypes().items())[-1]

    def _rescore(self, query_BE: NDArray[np.float32], rough: Hits, num_rows: int, k: int) -> Hits:
        """The best of the hits of a scan, by the finest format that is kept.

        Each score is worked out by itself, so that equal vectors have equal scores: in the products of whole blocks,
        the last bit depends on the place of a row.
        """
        width = min(k, rough.rows.shape[1])
        scores_BK = np.zeros((len(query_BE), width), np.float32)
        rows_BK = np.full((len(query_BE), width), NO_ROW, np.int64)
        for i, rows_M in enumerate(rough.rows):
            rows_M = np.sort(rows_M)  # equal scores then stand in the order of their rows
            scores_M = np.empty(len(rows_M), np.float32)
            for start in range(0, len(rows_M), exact.PASSAGE_BLOCK):
                block = slice(start, start + exact.PASSAGE_BLOCK)
                with np.errstate(over="ignore", invalid="ignore"):  # told below
                    scores_M[block] = (self.take(rows_M[block], num_rows) * query_BE[i]).sum(axis=1)
            if not np.isfinite(scores_M).all():
                raise self._not_finite()
            kept = best(scores_M, width)
            scores_BK[i], rows_BK[i] = scores_M[kept], rows_M[kept]
        return Hits(scores_BK, rows_BK)

    def _map(self, kind: str, shard: int, num_rows: int) -> NDArray:
        path, dtype = self.path(kind, shard), self.dtypes()[kind]
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size < num_rows * dtype.itemsize:
                raise _cut_short(path)
            mapped = mmap.mmap(file.fileno(), num_rows * dtype.itemsize, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype=dtype.base, count=num_rows * dtype.itemsize // dtype.base.itemsize).reshape(
            num_rows, *dtype.shape
        )

    def _not_finite(self) -> IndexFormatError:
        return damaged(self.folder.parent, "its vectors hold what is no number")

    def remove_others(self) -> None:
        """Delete what an older generation, an older index, or a compaction that was killed left behind."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if OWN_NAME.fullmatch(path.name) and not path.name.startswith(f"{self._prefix}-"):
                    path.unlink(missing_ok=True)


def _is_finite(part: NDArray) -> bool:
    return bool(np.isfinite(part["scale"] if part.dtype.names else part).all())


def _as_stored(vectors_NE: NDArray[np.float32], kind: str, dtype: np.dtype) -> NDArray:
    if kind != "int8":
        return np.ascontiguousarray(vectors_NE, dtype=dtype.base)
    # Of what is kept beside it, so that rows that are read and written again keep their bytes.
    vectors_NE = vectors_NE.astype(np.float16).astype(np.float32)
    rows = np.zeros(len(vectors_NE), dtype)
    largest_N = np.abs(vectors_NE).max(axis=1, initial=0.0)
    scale_N = np.maximum(largest_N, np.float32(1e-30)) / 127
    rows["values"] = np.rint(vectors_NE / scale_N[:, None])
    rows["scale"] = scale_N
    return rows


def _by_shard(first: int, rows: NDArray) -> Iterator[tuple[int, int, NDArray]]:
    """Cut rows at the ends of files: number of the file, first row in it, rows."""
    done = 0
    while done < len(rows):
        shard, start = divmod(first + done, SHARD_ROWS)
        part = rows[done : done + SHARD_ROWS - start]
        yield shard, start, part
        done += len(part)


def _write_at(path: Path, offset: int, data: bytes) -> None:
    # Rows that were lost must not come back as the zeros in front of what is written behind the end of a file.
    file = open_own(path, os.O_RDWR | (0 if offset else os.O_CREAT))
    try:
        if os.fstat(file).st_size < offset:
            raise _cut_short(path)
        # What a writer that was killed left behind the last row goes away.
        os.ftruncate(file, offset)
        view, written = memoryview(data), 0
        while written < len(data):
            written += os.pwrite(file, view[written:], offset + written)
        os.fsync(file)
    finally:
        os.close(file)
    if offset == 0:
        # Not only when the file is new: whoever made it may have been killed before its name would last.
        sync_folder(path.parent)


def _cut_short(path: Path) -> IndexFormatError:
    return damaged(path.parent.parent, f"the vectors in {path.name} are cut short: rows at its end are missing")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _giving_back(parts: Iterator[NDArray]) -> Iterator[NDArray]:
    for part in parts:
        yield part
        mapped = part
        while isinstance(mapped, np.ndarray):
            mapped = mapped.base
        if isinstance(mapped, memoryview):
            mapped = mapped.obj
        if isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)
