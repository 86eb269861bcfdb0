"""What an indexing run did: nothing is left out in silence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffembed.library.reading.walk import Skipped


@dataclass(kw_only=True, slots=True)
class Account:
    """Counts of a run, as far as it has come."""

    files_read: int = 0
    """New or changed."""
    files_unchanged: int = 0
    files_dropped: int = 0
    """Were in the index, and are gone or can't be read any more."""
    skipped: list[Skipped] = field(default_factory=list)
    """Files and folders that could not be read, each with its reason."""
    other_kinds: Mapping[str, int] = field(default_factory=dict)
    """Suffix -> files of kinds that are not read."""
    documents: int = 0
    """Of the files read: more than files where they hold rows."""
    reused: int = 0
    """Documents among them whose text was in the index already, here or elsewhere: nothing was embedded."""
    empty: int = 0
    """Rows among them without text."""
    chunks: int = 0
    """Written: not those of rows that are as they were."""
    tokens: int = 0
    """Embedded."""
    windowed: int = 0
    """Documents over the model's limit, read in windows; none of their text is left out."""
    truncated: int = 0
    """Documents of which a part was left out: always 0, indexing reads all."""
    seconds: float = 0.0
    model_seconds: float = 0.0
    """Of them, time in the model."""
    bytes_done: int = 0
    """Of the files to be read."""
    bytes_total: int = 0

    def facts(self) -> dict[str, Any]:
        """As one JSON object."""
        names = [name for name in self.__slots__ if not name.startswith("bytes_")]
        skipped = [{"path": each.path, "reason": each.reason} for each in self.skipped]
        return {**{name: getattr(self, name) for name in names}, "skipped": skipped}
