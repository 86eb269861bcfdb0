"""Files: written whole or not at all, and recognised by what is in them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the place, then put it there; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def folder_digest(folder: Path, patterns: Sequence[str] = ("*",)) -> str:
    """A short hash of the names and contents of the files below a folder that match one of the patterns."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
