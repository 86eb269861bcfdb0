"""Numbers in a file, read a few at a time: an array that costs no memory, whatever its length."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

# Rows that are looked at together where all are.
BLOCK_ROWS = 2**18


class DiskArray:
    """A matrix of numbers in a file, row after row.

    Not a memory map: the pages of one count as this process's memory once they have been read.
    """

    def __init__(self, path: Path, dtype: type[np.generic], width: int = 1) -> None:
        """Open a file of `width` numbers a row."""
        self.dtype, self.width = np.dtype(dtype), width
        self._row_bytes = self.dtype.itemsize * width
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __len__(self) -> int:
        return os.fstat(self._descriptor).st_size // self._row_bytes

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The (stop - start, width) rows, or (stop - start,) where the width is 1."""
        found = np.frombuffer(self._read(start, stop - start), self.dtype)
        return found if self.width == 1 else found.reshape(-1, self.width)

    def take(self, numbers: Iterable[int]) -> np.ndarray:
        """Rows by number, in that order."""
        found = np.frombuffer(b"".join(self._read(int(number), 1) for number in numbers), self.dtype)
        return found if self.width == 1 else found.reshape(-1, self.width)

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Neighbouring rows, some at a time, each block with the number of its first row."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, BLOCK_ROWS):
            yield first, self.rows(first, min(first + BLOCK_ROWS, stop))

    def _read(self, start: int, count: int) -> bytes:
        return os.pread(self._descriptor, count * self._row_bytes, start * self._row_bytes)
