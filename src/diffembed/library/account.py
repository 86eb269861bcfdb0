"""What an indexing run did: nothing is left out in silence."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffembed.library.reading.document import NO_TEXT
from diffembed.library.reading.walk import Skipped


@dataclass(kw_only=True, slots=True)
class Account:
    """Counts of a run, as far as it has come."""

    files_found: int = 0
    """To be compared with what the index has."""
    files_looked_at: int = 0
    """Of them, so far."""
    files_read: int = 0
    """New or changed."""
    files_unchanged: int = 0
    files_kept: int = 0
    """Are in the index, can't be looked at for the moment, and stay as they were."""
    files_dropped: int = 0
    """Were in the index, and are gone or can't be read any more."""
    gone_elsewhere: Mapping[str, int] = field(default_factory=dict)
    """Folder or file that isn't there any more -> files that the index holds of it, outside the paths that were given:
    they stay, and are found, until they are taken out."""
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
    """Since the run began."""
    model_seconds: float = 0.0
    """Of them, time in the model."""
    lacked_room: bool = False
    """Whether many vectors are dead, and the disk has no room to write the others anew: the next run tries again."""
    bytes_done: int = 0
    """Of the files to be read."""
    bytes_total: int = 0
    started_s: float = field(default_factory=time.monotonic, repr=False)
    """When the run began, by the monotonic clock."""

    def tick(self) -> float:
        """Bring `seconds` up to date, and give the time by the monotonic clock."""
        now = time.monotonic()
        self.seconds = now - self.started_s
        return now

    @property
    def problems(self) -> list[Skipped]:
        """What was skipped, except sound files that say nothing: there may be very many."""
        return [each for each in self.skipped if each.reason != NO_TEXT]

    @property
    def without_text(self) -> list[Skipped]:
        """Sound files that say nothing."""
        return [each for each in self.skipped if each.reason == NO_TEXT]

    def facts(self) -> dict[str, Any]:
        """As one JSON object."""
        names = [name for name in self.__slots__ if not name.startswith(("bytes_", "started_"))]
        skipped = [{"path": each.path, "reason": each.reason} for each in self.skipped]
        return {**{name: getattr(self, name) for name in names}, "skipped": skipped}


OnProgress = Callable[[Account], None]
"""Is told the account now and then."""
