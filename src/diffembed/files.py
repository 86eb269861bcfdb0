"""Files: written whole or not at all, and recognised by what is in them."""

import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def temporary_sibling(path: Path, kind: str = "partial") -> Path:
    """A name beside `path` that nobody else has, neither another process nor another thread; hidden, never too long."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.{kind}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to, and put it in place of `path` if nothing fails.

    A reader sees the old file or the new one, never half of it, even after a power cut.
    """
    temporary = temporary_sibling(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8. Its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path, patterns: Sequence[str] = ("*",)) -> str:
    """A short hash of the names and contents of the files below a folder that match one of the patterns."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{file_digest(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where this user's rebuildable files go (XDG_CACHE_HOME, or what the platform uses instead).

    Raises:
        FileNotFoundError: The user has no home folder.
    """
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "diffembed"
    if sys.platform == "win32" and (root := os.environ.get("LOCALAPPDATA")):
        return Path(root) / "diffembed" / "cache"
    try:
        home = Path.home()
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder") from None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "diffembed"
