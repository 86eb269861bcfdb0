"""What an indexing run has to do: files on disk, compared by content with what an index has of them."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from diffembed.errors import DataError
from diffembed.index.store import Store
from diffembed.library.account import Account, OnProgress
from diffembed.library.paths import Roots, ancestors
from diffembed.library.reading.document import Unreadable
from diffembed.library.reading.read import digest, unreadable
from diffembed.library.reading.walk import NOT_THERE, Found, Skipped

KEPT = "; kept as it was"
"""What a reason ends in where the index keeps what it has."""
TOLD_S = 0.1
"""Between two reports of progress while files are looked at: there may be very many small ones."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an index has of files."""

    files: Mapping[str, str | None]
    """Path -> digest; None while a file of many documents is being read."""
    unreadable: Mapping[str, tuple[str, str]]
    """Path -> digest and reason of files that gave no document."""

    @classmethod
    def of(cls, store: Store) -> "Known":
        """What there is at the moment."""
        return store.read(lambda snapshot: cls(snapshot.files(), snapshot.unreadable()))

    def below(self, roots: Roots) -> list[str]:
        """Paths of the files, read or not, that are or lie in some roots."""
        return [path for paths in (self.files, self.unreadable) for path in paths if roots.hold(path)]


NOTHING = Known({}, {})
"""Of an index that isn't there."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A file that has to be read."""

    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do."""

    changed: list[Changed]
    gone: list[str]
    """Paths that the index knows and shall not any more."""

    def still_due(self, then: Known, now: Known, account: Account) -> "Plan":
        """What is left of it after another process has been at the index.

        Args:
            then: What the index had when the plan was made.
            now: What it has.
            account: Counts what the other has brought in.
        """
        changed = [each for each in self.changed if not _is_settled(each.path, each.digest, now, account)]
        gone = [path for path in self.gone if _entry(path, then) == _entry(path, now)]
        account.bytes_total = sum(each.size_bytes for each in changed)
        return Plan(changed, gone)


def plan(found: Found, known: Known, account: Account, on_progress: OnProgress = lambda account: None) -> Plan:
    """Compare files with what is in the index, by content.

    What can't be looked at for the moment stays as it is. What could not be read is not tried again while it is the
    same.

    Args:
        found: Files on disk.
        known: What the index has. A file that no folder lists (a hidden one, of another kind) was named itself at some
            time, and is looked at as if it were named again.
        account: Counts what is unchanged and what can't be read.
        on_progress: Told the account now and then.

    Raises:
        DataError: A root in which the index has files is bare.
    """
    account.other_kinds = found.other_kinds
    below = known.below(Roots(map(str, found.roots)))
    account.gone_elsewhere = _gone(known.files.keys() - below)
    listed, kept = _candidates(found, known, below, account)
    account.files_found = len(listed)
    changed, present, told_s = [], set(kept), float("-inf")
    for path in listed:
        if (now := account.tick()) - told_s > TOLD_S:
            told_s = now
            on_progress(account)
        account.files_looked_at += 1
        try:
            of_file, size = digest(Path(path))
        except Unreadable as error:
            is_kept = error.is_for_now and path in known.files
            if is_kept or (error.is_for_now and path in known.unreadable):
                present.add(path)
            account.files_kept += is_kept
            account.skipped.append(Skipped(path, error.reason + (KEPT if is_kept else ""), error.is_for_now))
            continue
        present.add(path)
        if not _is_settled(path, of_file, known, account):
            changed.append(Changed(path, size, of_file))
    gone = [path for path in below if path not in present]
    _expect_something_left(found, known, present)
    account.bytes_total = sum(each.size_bytes for each in changed)
    account.tick()
    on_progress(account)
    return Plan(changed, gone)


def taken_out(root: str) -> str:
    """Make the hint about a root that is gone, and of which the index has files."""
    return f"is its disk mounted? if they shall go too, `--remove {root}` takes them out"


def _candidates(found: Found, known: Known, below: list[str], account: Account) -> tuple[list[str], list[str]]:
    """Paths to be looked at, and those that can't be for the moment and that the index knows."""
    out_of_reach = Roots(each.path for each in found.skipped if each.is_for_now)
    left_out = Roots(each.path for each in found.skipped if not each.is_for_now)
    listed = dict.fromkeys(map(str, found.files))
    kept, keepers, also_skipped = [], set(), []
    for path in below:
        if path in listed:
            continue
        if (keeper := next(out_of_reach.over(path), None)) is not None:
            kept.append(path)
            if path in known.files:
                keepers.add(keeper)
        elif not left_out.hold(path):  # links to folders are, for example
            try:
                if stat.S_ISREG(os.stat(path).st_mode):
                    listed[path] = None
            except OSError as error:
                if (told := unreadable(error)).is_for_now:
                    kept.append(path)
                    also_skipped.append(Skipped(path, told.reason + KEPT * (path in known.files), True))
    for each in found.skipped:
        is_keeper = each.path in keepers
        account.skipped.append(Skipped(each.path, each.reason + KEPT, True) if is_keeper else each)
    account.skipped += also_skipped
    account.files_kept += sum(path in known.files for path in kept)
    return list(listed), kept


def _is_settled(path: str, of_file: str, known: Known, account: Account) -> bool:
    """Whether the index has a file as it is, or knows that it can't be read; which is counted."""
    if known.files.get(path) == of_file:
        account.files_unchanged += 1
        return True
    then, reason = known.unreadable.get(path, ("", ""))
    if then == of_file:
        account.skipped.append(Skipped(path, reason))
        return True
    return False


def _entry(path: str, known: Known) -> object:
    return known.files.get(path, known.unreadable.get(path))


def _gone(paths: Iterable[str]) -> dict[str, int]:
    """Count the paths that aren't there, by the topmost folder that isn't; a file in one that is stands for itself."""
    is_gone = cache(_is_gone)
    counts = Counter[str]()
    for path in sorted(paths):
        if gone := list(takewhile(is_gone, ancestors(path))):
            counts[gone[-1]] += 1
    return dict(counts.most_common())


def _is_gone(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in NOT_THERE
    return False


def _expect_something_left(found: Found, known: Known, present: set[str]) -> None:
    bare = Roots(map(str, found.bare_roots))
    held, alive = Counter[str](), set[str]()
    for path in known.files:
        for root in bare.over(path):
            held[root] += 1
            if path in present:
                alive.add(root)
    for root, count in held.items():
        if root not in alive:
            raise DataError(
                f"nothing is left below {root}, the index holds {count:,} files of it", hint=taken_out(root)
            )
