"""Which files there are to read, without opening one."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.errors import DataError
from diffembed.library.reading.read import kind_of

NEVER_ENTERED = frozenset(("__pycache__", "node_modules"))
QUERIES = frozenset(("queries.jsonl", "queries.jsonl.gz"))
CORPORA = frozenset(("corpus.jsonl", "corpus.jsonl.gz"))
REASONS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "a link to nothing",
    errno.ENOTDIR: "a link to nothing",
    errno.ELOOP: "a link that leads back to itself",
    errno.ENAMETOOLONG: "its path is too long",
}
NOT_UTF8 = "its name is not UTF-8"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A path that is not read."""

    path: str
    """As it can be shown: bytes that are no UTF-8 are spelled \\xff."""
    reason: str
    """A few words."""


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


def find_files(paths: Sequence[Path], *, leave_out: Path | None = None) -> Found:
    """List the files to be read below some folders, and the files among the paths, whatever these are called.

    In a folder, files of the kinds that are read count; hidden files and folders (a leading dot), `__pycache__` and
    `node_modules` don't. Folders are entered through no link, except where a path that was named is one.

    Args:
        paths: Files and folders.
        leave_out: A folder that is never entered: the index itself.

    Raises:
        DataError: A path isn't there; nothing was listed then.
    """
    roots = dict.fromkeys(os.path.abspath(path) for path in paths)
    for root in roots:
        _check(root)
    search = _Search(None if leave_out is None else os.path.abspath(leave_out))
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
    search.walk(folders)
    return Found(
        files=tuple(Path(path) for path in sorted(search.files, key=_parts)),
        skipped=tuple(Skipped(_shown(path), search.skipped[path]) for path in sorted(search.skipped)),
        other_kinds=dict(sorted(search.other_kinds.items())),
        roots=tuple(Path(root) for root in roots),
    )


class _Search:
    def __init__(self, leave_out: str | None) -> None:
        self.files: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.other_kinds: Counter[str] = Counter()
        self._leave_out = leave_out
        self._left_out_folder: tuple[int, int] | None = None
        if leave_out is not None and os.path.isdir(leave_out):
            status = os.stat(leave_out)
            self._left_out_folder = status.st_dev, status.st_ino

    def skip(self, path: str, reason: str) -> None:
        self.skipped[path] = reason

    def is_left_out(self, path: str) -> bool:
        return self._leave_out is not None and (path == self._leave_out or path.startswith(self._leave_out + os.sep))

    def mode_behind(self, path: str) -> int | None:
        """The file type at the end of all links; None where there is no such end, which is noted."""
        try:
            return os.stat(path).st_mode
        except OSError as error:
            self.skip(path, _reason(error))
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
                self.skip(folder, "not there any more" if error.errno == errno.ENOENT else _reason(error))
                continue
            names = {entry.name for entry in entries}
            has_corpus = not CORPORA.isdisjoint(names)
            for entry in entries:
                if entry.name.startswith(".") or entry.name in NEVER_ENTERED:
                    continue
                if not _is_utf8(entry.name):
                    self.skip(entry.path, NOT_UTF8)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif has_corpus and entry.name in QUERIES:
                    self.skip(entry.path, "the queries of a task, not documents")
                elif self._is_file(entry):
                    self._add(entry.path)

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
    except (OSError, ValueError) as error:  # ValueError: a zero byte, which no path has
        if isinstance(error, PermissionError):
            raise DataError(f"no permission to look at {_shown(root)}", hint="check who may read its folder") from None
        raise DataError(f"there is no {_shown(root)}", hint="check the path; nothing was read") from None


def _reason(error: OSError) -> str:
    return REASONS.get(error.errno or 0) or str(error.strerror or error).lower()


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
