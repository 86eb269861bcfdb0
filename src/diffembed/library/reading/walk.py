"""Which files there are to read, without opening one."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.errors import DataError
from diffembed.library.paths import Roots, absolute, ancestors
from diffembed.library.reading.read import kind_of, unreadable

NEVER_ENTERED = frozenset(("__pycache__", "node_modules"))
QUERIES = frozenset(("queries.jsonl", "queries.jsonl.gz"))
CORPORA = frozenset(("corpus.jsonl", "corpus.jsonl.gz"))
NOT_UTF8 = "its name is not UTF-8"
NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


class NoSuchPath(DataError):
    """A path that was named and isn't there.

    Args:
        path: Absolute.
    """

    def __init__(self, path: str) -> None:
        super().__init__(f"there is no {_shown(path)}", hint="check the path; nothing was read")
        self.path = path


@dataclass(frozen=True, slots=True)
class Skipped:
    """A path that is not read."""

    path: str
    """As it can be shown: bytes that are no UTF-8 are spelled \\xff."""
    reason: str
    """A few words."""
    is_for_now: bool = False
    """Whether it, or what is in it, may be as sound as before: no permission, a disk that fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What there is below some paths."""

    files: tuple[Path, ...]
    """Absolute, links kept, each once, sorted; only the names were looked at."""
    skipped: tuple[Skipped, ...]
    """Sorted by path."""
    other_kinds: Mapping[str, int]
    """Suffix, in small letters and with its dot -> files of that kind, which nobody reads; "" for names without one."""
    roots: tuple[Path, ...]
    """The paths that were named, absolute, each once, in their order."""
    bare_roots: tuple[Path, ...] = ()
    """Those among them in which there is nothing to be seen, of whatever kind: the disk may not be mounted."""


def find_files(paths: Sequence[Path], *, leave_out: Path | None = None) -> Found:
    """List the files to be read below some folders, and the files among the paths, whatever these are called.

    In a folder, files of the kinds that are read count; hidden files and folders (a leading dot), `__pycache__` and
    `node_modules` don't. Folders are entered through no link, except where a path that was named is one.

    Args:
        paths: Files and folders.
        leave_out: A folder that is never entered: the index itself.

    Raises:
        NoSuchPath: A path isn't there; nothing was listed then.
        DataError: A path can't be looked at; likewise.
    """
    roots = dict.fromkeys(map(absolute, paths))
    for root in roots:
        _check(root)
    search = _Search(None if leave_out is None else absolute(leave_out))
    folders = []
    for root in roots:
        if search.is_left_out(root):
            search.skip(root, "part of the index itself")
        elif not _is_utf8(root):
            search.skip(root, NOT_UTF8)
        elif (mode := search.mode_behind(root)) is not None and stat.S_ISDIR(mode):
            folders.append(root)
        elif mode is not None and search.is_regular(root, mode):
            search.files.add(root)
            search.places.add(root)
    search.walk(folders)
    seen = {each for path in search.places for each in ancestors(path)}
    return Found(
        files=tuple(Path(path) for path in sorted(search.files, key=_parts)),
        skipped=tuple(search.skipped[path] for path in sorted(search.skipped)),
        other_kinds=dict(sorted(search.other_kinds.items())),
        roots=tuple(Path(root) for root in roots),
        bare_roots=tuple(Path(root) for root in roots if root not in seen),
    )


class _Search:
    def __init__(self, leave_out: str | None) -> None:
        self.files: set[str] = set()
        self.skipped: dict[str, Skipped] = {}
        self.other_kinds: Counter[str] = Counter()
        self.places: set[str] = set()
        """Files that were named, and folders in which something was seen."""
        self._leave_out = None if leave_out is None else Roots([leave_out])
        self._left_out_folder: tuple[int, int] | None = None
        if leave_out is not None and os.path.isdir(leave_out):
            status = os.stat(leave_out)
            self._left_out_folder = status.st_dev, status.st_ino

    def skip(self, path: str, reason: str, *, is_for_now: bool = False) -> None:
        self.skipped[path] = Skipped(_shown(path), reason, is_for_now)

    def is_left_out(self, path: str) -> bool:
        return self._leave_out is not None and self._leave_out.hold(path)

    def mode_behind(self, path: str) -> int | None:
        """The file type at the end of all links; None where there is no such end, which is noted."""
        try:
            return os.stat(path).st_mode
        except OSError as error:
            self._refuse(path, error, gone="a link to nothing")
            return None

    def is_regular(self, path: str, mode: int) -> bool:
        """Whether it is a file; anything else is noted (opening a pipe would wait for its other end)."""
        if not stat.S_ISREG(mode):
            self.skip(path, "not a regular file")
        return stat.S_ISREG(mode)

    def walk(self, folders: Iterable[str]) -> None:
        """Look into folders and the folders in them."""
        waiting, entered = list(folders), set()
        while waiting:
            folder = waiting.pop()
            if folder in entered:
                continue
            entered.add(folder)
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) == self._left_out_folder:
                    continue  # also when it goes by another name
                with os.scandir(folder) as listing:
                    entries = list(listing)
            except OSError as error:
                self._refuse(folder, error, gone="not there any more")
                continue
            has_corpus = not CORPORA.isdisjoint(entry.name for entry in entries)
            for entry in entries:
                if entry.name.startswith(".") or entry.name in NEVER_ENTERED:
                    continue
                try:
                    is_folder = self._look(entry, has_corpus)
                except OSError as error:  # of a file system that tells kinds one by one
                    self._refuse(entry.path, error, gone="not there any more")
                else:
                    if is_folder:
                        waiting.append(entry.path)
                    else:
                        self.places.add(folder)

    def _look(self, entry: os.DirEntry[str], has_corpus: bool) -> bool:
        """Note what an entry of a folder is, and say whether it is a folder to be entered."""
        if not _is_utf8(entry.name):
            self.skip(entry.path, NOT_UTF8)
        elif entry.is_dir(follow_symlinks=False):
            return True
        elif has_corpus and entry.name in QUERIES:
            self.skip(entry.path, "the queries of a task, not documents")
        elif self._is_file(entry):
            self._add(entry.path)
        return False

    def _refuse(self, path: str, error: OSError, *, gone: str) -> None:
        """Note what the system says of a path."""
        told = unreadable(error)
        self.skip(path, gone if error.errno in NOT_THERE else told.reason, is_for_now=told.is_for_now)

    def _is_file(self, entry: os.DirEntry[str]) -> bool:
        if entry.is_file(follow_symlinks=False):
            return True
        mode = self.mode_behind(entry.path)
        if mode is None:
            return False
        if stat.S_ISDIR(mode):
            self.skip(entry.path, "a link to a folder")
            return False
        return self.is_regular(entry.path, mode)

    def _add(self, path: str) -> None:
        if path in self.files:
            return  # it was named itself
        if kind_of(path):
            self.files.add(path)
        else:
            self.other_kinds[os.path.splitext(path)[1].lower()] += 1


def _check(root: str) -> None:
    try:
        os.lstat(root)
    except OSError as error:
        told = unreadable(error)
        if not told.is_for_now or error.errno == errno.ENAMETOOLONG:
            raise NoSuchPath(root) from None
        raise DataError(
            f"cannot look at {_shown(root)}: {told.reason}", hint="check who may read its folder; nothing was changed"
        ) from None
    except ValueError:  # a zero byte, which no path has
        raise NoSuchPath(root) from None


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _parts(path: str) -> list[str]:
    """What `Path` objects are sorted by, but faster."""
    return path.split(os.sep)
