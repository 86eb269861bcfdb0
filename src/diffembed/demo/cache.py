"""The index of the library between two starts: kept in the user's cache, believed only when it fits."""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from diffembed import __version__
from diffembed.data.docstrings import library_digest, read_docstrings
from diffembed.demo.answers import Demo, documents
from diffembed.embedder.locate import find, fingerprint
from diffembed.errors import DataError, IndexFormatError
from diffembed.files import cache_folder
from diffembed.index.store import FORMAT, Store
from diffembed.library.account import Account
from diffembed.library.index import Index

OnProgress = Callable[[float], None]
"""Is told which share of the work is done."""
Say = Callable[[str], None]
"""Is told one line for the person."""


def open_demo(
    model: str | os.PathLike[str] = "builtin",
    *,
    cache: Path | None = None,
    on_progress: OnProgress = lambda share: None,
    say: Say = lambda line: None,
) -> Demo:
    """Take the demo's index from the cache, or make it and put it there.

    One that was begun and not finished is gone on with; a damaged one is made again.

    Args:
        model: What `Embedder.load` takes.
        cache: Folder of the cache; the user's cache folder when absent.
        on_progress: Told the share of the docstrings that is embedded.
        say: Told what is done and how long it took.

    Raises:
        DataError: Another process is making it, or the disk is full.
    """
    parts = (fingerprint(find(model)), sys.version, library_digest(), str(FORMAT), __version__)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = _writable(cache, say) / f"demo-{key}"
    if folder.is_dir():
        if index := _sound(folder, model):
            say(f"{_size(index)}, kept in {folder}")
            return Demo(index)
        say(f"{folder} is damaged: embedding the library again")
        shutil.rmtree(folder)
    begun = folder.with_suffix(".partial")
    try:
        _fill(begun, model, on_progress, say)
    except IndexFormatError:
        if not begun.is_dir():
            raise
        shutil.rmtree(begun)
        _fill(begun, model, on_progress, say)
    try:
        begun.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    say(f"kept in {folder}: `diffembed search {folder} QUESTION` asks it too")
    return Demo(Index.open(folder, model=model))


def _sound(folder: Path, model: str | os.PathLike[str]) -> Index | None:
    """The finished index of a folder; None where it is damaged or gone."""
    try:
        if not Store.is_begun(folder):
            return None
        index = Index.open(folder, model=model)
    except IndexFormatError:
        return None
    if index.check():
        index.close()
        return None
    return index


def _fill(folder: Path, model: str | os.PathLike[str], on_progress: OnProgress, say: Say) -> None:
    library = documents(read_docstrings())
    if not library:
        raise DataError(
            "there is no passage to search", hint="this Python's library has no source: use a usual CPython"
        )
    say(f"embedding {len(library):,} docstrings of Python {sys.version.split()[0]}'s standard library")
    index = Index.open(folder, model=model) if Store.is_begun(folder) else Index.create(folder, model=model)
    start = time.perf_counter()

    def progress(account: Account) -> None:
        on_progress(account.documents / len(library))

    account = index.add(library, on_progress=progress)
    seconds = time.perf_counter() - start
    say(f"{_size(index)}, embedded in {seconds:.1f} s ({account.tokens / seconds:,.0f} tokens/s)")
    index.close()


def _size(index: Index) -> str:
    counts = index.counts()
    return f"{counts.documents:,} docstrings, {counts.chunks:,} passages, {counts.size_bytes / 1e6:.1f} MB"


def _writable(cache: Path | None, say: Say) -> Path:
    """The cache folder, or a temporary one where nothing can be kept, which goes when this process ends."""
    try:
        cache = cache or cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        where = f" in {cache}" if cache else ""
        say(f"can't keep anything{where} ({error.strerror or error}): the index will be made again next time")
        folder = tempfile.mkdtemp(prefix="diffembed-demo-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)
