"""What a source is read from, and what becomes of its bad rows."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from diffembed.data.examples import Example
from diffembed.data.sources import Row
from diffembed.errors import DataError

T = TypeVar("T")
_VALUES = re.compile(r"""(["']).*\1|[\[{(].*[\])}]|(?<![\w`])-?\d[\d.e+…-]*""", re.DOTALL)
"""What a message shows of a row: quoted, in brackets, or a number."""


class Reading:
    """Refuses bad rows, or counts and passes over them.

    Args:
        skipped: Reason -> rows; None: a bad row is an error.
    """

    def __init__(self, skipped: Counter[str] | None) -> None:
        self._skipped = skipped
        self.rows = 0
        """Read so far, bad ones included."""
        self.bad = 0
        """Passed over so far."""

    def each(self, rows: Iterable[Row], make: Callable[[Row], Iterable[T]]) -> Iterator[T]:
        """Yield what is made of the rows. A file that is damaged raises out of `rows`, and is never passed over.

        Args:
            rows: Of a file.
            make: Raises a DataError if the row is bad; nothing of such a row is yielded.
        """
        for row in rows:
            self.rows += 1
            try:
                made = list(make(row))
            except DataError as error:
                self.refuse(row.place, error)
            else:
                yield from made

    def refuse(self, place: str, error: DataError) -> None:
        """Raise the error of a bad row, or count it by what is wrong, without place and values."""
        if self._skipped is None:
            raise error
        self.bad += 1
        reason = error.message.removeprefix(place).lstrip(",: ")
        self._skipped[_VALUES.sub("…", reason)] += 1


@dataclass(frozen=True, slots=True)
class Part:
    """A source on disk."""

    source: str
    files: tuple[Path, ...]
    read: Callable[[Reading], Iterator[Example]]


def read_parts(parts: Iterable[Part], reading: Reading) -> Iterator[Example]:
    """Every example of every part.

    Raises:
        DataError: A row is bad, a file is damaged, or no row of a part can be used.
    """
    for part in parts:
        rows, bad, examples = reading.rows, reading.bad, 0
        for example in part.read(reading):
            examples += 1
            yield example
        rows, bad = reading.rows - rows, reading.bad - bad
        if not examples and rows == bad:
            raise DataError(
                f"the source {part.source} ({part.files[0]}) has no row"
                + (f" that can be used: {bad} were passed over" if bad else ""),
                hint="leave it out, or see to its rows",
            )
