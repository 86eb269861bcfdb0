"""Scores by vectors: the same bits in any order, however many are computed at once.

Vectors are scaled to unit length and rounded to multiples of 2^-24, which is what float32 holds of a component near 1.
Products of two such numbers and all their partial sums are multiples of 2^-48 and hardly larger than 1 (Cauchy and
Schwarz), which float64 holds exactly. So no sum is ever rounded, and neither the size of a block, nor the BLAS, nor the
number of threads can change a score or the order of two. It costs half the speed of float32.

Shape letters: B queries, P texts of a block, E embedding dims, K hits.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import CheckpointError, ConfigError
from diffembed.index.hits import best

UNIT = 2.0**24
ENCODE_BLOCK = 4_096
"""Texts that are embedded at a time. Apart from the blocks of the search: on a GPU the bits of a vector can depend on
its neighbours."""

Rows = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called now and then: what is being done, how much of it is done, and how much there is."""


class TextEmbedder(Protocol):
    """What makes vectors: `diffembed.Embedder` and whatever else has these two."""

    def encode_query(self, texts: list[str], /, *, instruction: str | None = None) -> NDArray[np.float32]: ...

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]: ...


class Vectors:
    """Vectors of numbered texts. Each is made when it is first asked for, and kept in a file that has no name.

    Such a file is gone when the process ends, however it ends.

    Args:
        size: Number of texts.
        encode: Makes the vectors of texts with these numbers.
        folder: Where there is room for size x dims x 4 bytes; None: where temporary files go.
    """

    def __init__(self, size: int, encode: Callable[[Rows], NDArray], folder: Path | None = None) -> None:
        self._encode = encode
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, for as long as the vectors are used
        self._is_made = np.zeros(size, bool)
        self._vectors: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self._is_made)

    def close(self) -> None:
        """Give the file's room back."""
        self._vectors = None
        self._file.close()

    def make(self, rows: Rows, progress: Callable[[int, int], None] | None = None) -> None:
        """Make vectors that are not there yet.

        Raises:
            CheckpointError: One is no vector.
            ConfigError: The model gives several vectors a text.
            OSError: There is no room for them.
        """
        new = rows[~self._is_made[rows]]
        for start in range(0, len(new), ENCODE_BLOCK):
            block = new[start : start + ENCODE_BLOCK]
            self._write(block, _fixed_point(np.asarray(self._encode(block))))
            if progress is not None:
                progress(start + len(block), len(new))

    def __getitem__(self, rows: Rows) -> NDArray[np.float64]:
        """Vectors of shape (rows, dims)."""
        self.make(rows)
        assert self._vectors is not None
        return self._vectors[rows].astype(np.float64)

    def _write(self, rows: Rows, vectors_NE: NDArray[np.float32]) -> None:
        # Written to the file, not through the mapping: that would end the process where the disk is full.
        row_bytes = vectors_NE.shape[1] * vectors_NE.itemsize
        if self._vectors is None:
            self._file.truncate(len(self) * row_bytes)
        for row, vector_E in zip(rows, vectors_NE, strict=True):
            self._file.seek(int(row) * row_bytes)
            self._file.write(vector_E.tobytes())
        self._file.flush()
        if self._vectors is None:
            shape = len(self), vectors_NE.shape[1]
            self._vectors = np.memmap(self._file, np.float32, "r", shape=shape)  # type: ignore[call-overload]
        self._is_made[rows] = True


def _fixed_point(vectors_NE: NDArray) -> NDArray[np.float32]:
    if vectors_NE.ndim != 2:
        raise ConfigError(
            f"the model gives vectors of shape {vectors_NE.shape[1:]} a text, and mining compares single ones",
            hint="use a readout with one vector a text",
        )
    vectors_NE = vectors_NE.astype(np.float64)
    length_N1 = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    if not (np.isfinite(length_N1) & (length_N1 > 0)).all():
        raise CheckpointError(
            "the model gave zeros, NaN or infinity for a text", hint="check the model: diffembed doctor"
        )
    # Whole numbers up to 2^24: float32 has them all.
    return (np.rint(vectors_NE / length_N1 * UNIT) / UNIT).astype(np.float32)


class Dense:
    """Cosines of queries and texts.

    Args:
        embedder: Makes the vectors.
        queries: Texts of the queries.
        instructions: What each of them asks for; None: as the model has it.
        texts: What is compared with them.
        folder: See `Vectors`.
    """

    def __init__(
        self,
        embedder: TextEmbedder,
        queries: Sequence[str],
        instructions: Sequence[str | None],
        texts: Sequence[str],
        folder: Path | None = None,
    ) -> None:
        self._queries = Vectors(
            len(queries), lambda rows: _encode_queries(embedder, queries, instructions, rows), folder
        )
        self._texts = Vectors(
            len(texts), lambda rows: embedder.encode_document([texts[int(row)] for row in rows]), folder
        )

    def close(self) -> None:
        """Give the files' room back."""
        self._queries.close()
        self._texts.close()

    def make(self, num_texts: int, progress: Progress | None = None) -> None:
        """Make the vectors of all queries and of the first texts, which a search is going to need."""
        for what, vectors, size in (("queries", self._queries, len(self._queries)), ("texts", self._texts, num_texts)):
            vectors.make(np.arange(size), progress and (lambda *done, what=what: progress(f"embedding {what}", *done)))

    def scores(self, query: int, rows: Rows) -> NDArray[np.float64]:
        """Of some texts, for one query."""
        return self._texts[rows] @ self._queries[np.array([query])][0]

    def search(self, queries: range, hidden: Sequence[Rows], num_texts: int, k: int, block: int) -> list[Rows]:
        """Find the k texts with the largest score for each query; equal scores stand in the order of their rows.

        Args:
            queries: Their numbers.
            hidden: For each of them rows that are not to be found, ascending.
            num_texts: The first so many are searched.
            k: How many; fewer where there are fewer.
            block: Texts that are looked at together. With the number of queries it bounds the memory.
        """
        query_BE = self._queries[np.arange(queries.start, queries.stop)]
        rows: list[Rows] = [np.empty(0, np.int64) for _ in queries]
        scores: list[NDArray[np.float64]] = [np.empty(0) for _ in queries]
        for start in range(0, num_texts, block):
            stop = min(start + block, num_texts)
            scores_BP = query_BE @ self._texts[np.arange(start, stop)].T
            for each, hidden_N in enumerate(hidden):
                low, high = np.searchsorted(hidden_N, (start, stop))
                scores_BP[each, hidden_N[low:high] - start] = -np.inf
            top_B = scores_BP.max(axis=1)
            for each in range(len(queries)):
                # Kept ones stand in front, so at equal scores the lower row wins.
                if len(rows[each]) == k and top_B[each] <= scores[each][-1]:
                    continue
                all_scores = np.concatenate([scores[each], scores_BP[each]])
                kept = best(all_scores, k)
                kept = kept[all_scores[kept] > -np.inf]
                rows[each] = np.concatenate([rows[each], np.arange(start, stop)])[kept]
                scores[each] = all_scores[kept]
        return rows


def _encode_queries(
    embedder: TextEmbedder, queries: Sequence[str], instructions: Sequence[str | None], rows: Rows
) -> NDArray:
    """With few calls: one for each instruction that occurs."""
    places: dict[str | None, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(instructions[int(row)], []).append(place)
    found: dict[int, NDArray] = {}
    for instruction, of_it in places.items():
        texts = [queries[int(rows[place])] for place in of_it]
        # Without an instruction none is passed, so that an embedder that knows none can be used too.
        keywords = {} if instruction is None else {"instruction": instruction}
        found.update(zip(of_it, embedder.encode_query(texts, **keywords), strict=True))
    return np.stack([found[place] for place in range(len(rows))])
