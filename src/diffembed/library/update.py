"""Files on disk -> an index that is up to date with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.errors import ConfigError, DataError
from diffembed.index.settings import Settings
from diffembed.index.shards import Precision
from diffembed.index.store import Store
from diffembed.library.account import Account, OnProgress
from diffembed.library.arguments import Name, several_paths
from diffembed.library.indexing import IndexingRun
from diffembed.library.model import LibraryModel, check_settings, new_settings
from diffembed.library.paths import Roots
from diffembed.library.plan import NOTHING, Known, plan, taken_out
from diffembed.library.reading.walk import Found, NoSuchPath, find_files

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

SHOWN = 3
"""Paths, or skipped files, in an error's line."""


def index_files(
    paths: Sequence[Name],
    folder: Name,
    *,
    model: "Name | Embedder | None" = None,
    precision: Precision | None = None,
    chunk_tokens: int | None = None,
    contextual: bool | None = None,
    on_progress: OnProgress = lambda account: None,
) -> Account:
    """Bring files into an index, which is made if it isn't there.

    Files that are as they were are skipped, by content; files that are gone from a given folder, or can't be read any
    more, are dropped. What can't be looked at for the moment stays as it was: for want of a permission, a parser or a
    disk that answers. What is gone from elsewhere stays too, and is counted. A file that can't be read is named in the
    account, and the run goes on. What was moved is not embedded again.

    Args:
        paths: Files and folders.
        folder: Of the index.
        model: For a new index, the built-in one when absent; an index that is there must have been made with it.
        precision: See `Index.create`; like the next two fixed once the index is made.
        chunk_tokens: See `Index.create`.
        contextual: See `Index.create`.
        on_progress: Told the account now and then while files are looked at, and after each document.

    Raises:
        DataError: A path isn't there or bare of the files that the index has of it, nothing could be read, or another
            process is writing.
        CheckpointError: There is no such model.
        ConfigError: A setting can't be used, or the index was made with another one.
        IndexFormatError: The index is damaged, or holds vectors of another model.
    """
    account = Account()
    places = [Path(path) for path in several_paths(paths)]
    if not places:
        raise ConfigError("there is no path to index", hint="name files or folders")
    wanted = {"precision": precision, "chunk_tokens": chunk_tokens, "contextual": contextual}
    target = _Target(Path(folder), {name: value for name, value in wanted.items() if value is not None})
    try:
        found = target.find(places)
        chosen = target.choose(model)
        known = target.known()
        todo = plan(found, known or NOTHING, account, on_progress)
        if todo.changed:
            target.expect(chosen)
        with IndexingRun(lambda: target.store(chosen), chosen, account, on_progress) as run:
            run.carry_out(todo, known)
    finally:
        target.close()
    account.tick()
    if not (account.files_read or account.files_unchanged or account.files_dropped):
        raise _nothing(places, account)
    return account


class _Target:
    """The index that files are brought into: open where there is one, made when there is something to write.

    Args:
        folder: Of the index.
        settings: Those that were named.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = settings
        self._store = Store.open(folder) if Store.is_begun(folder) else None

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def find(self, places: Sequence[Path]) -> Found:
        """List the files below some paths; of one that isn't there, say what the index has of it."""
        try:
            return find_files(places, leave_out=self._folder)
        except NoSuchPath as error:
            held = 0
            if self._store is not None:
                roots = Roots([error.path])
                held = sum(map(roots.hold, Known.of(self._store).files))
            if not held:
                raise
            raise DataError(
                f"{error.message}, and the index holds {held:,} files of it", hint=taken_out(error.path)
            ) from None

    def choose(self, model: "Name | Embedder | None") -> LibraryModel:
        """The model to embed with, once it is clear that the index can have the settings that were named."""
        if self._store is not None:
            _expect_settings(self._store.settings, self._settings)
            return LibraryModel.of_index(self._store.settings, model)
        Store.check_new(self._folder)
        check_settings(self._settings.get("precision", "float16"), self._settings.get("chunk_tokens"))
        return LibraryModel.of("builtin" if model is None else model)

    def known(self) -> Known | None:
        """What the index has; None where there is no index."""
        return None if self._store is None else Known.of(self._store)

    def expect(self, model: LibraryModel) -> None:
        """See that an index that is there can have documents of this model."""
        if self._store is not None:
            model.expect_for_documents(self._store.settings)

    def store(self, model: LibraryModel) -> Store:
        """The index, made if need be."""
        if self._store is None:
            settings = new_settings(model, **self._settings)
            try:
                self._store = Store.create(self._folder, settings)
            except DataError:
                if not Store.is_begun(self._folder):
                    raise
                raise DataError(
                    f"another process has just made the index in {self._folder}", hint="run this again"
                ) from None
        return self._store


def _expect_settings(settings: Settings, wanted: Mapping[str, object]) -> None:
    for name, value in wanted.items():
        if value != (made_with := getattr(settings, name)):
            raise ConfigError(
                f"the index was made with {name} {made_with}, not {value}",
                hint="leave it out, or index into a new folder",
            )


def _nothing(places: Sequence[Path], account: Account) -> DataError:
    where = ", ".join(map(str, places[:SHOWN]))
    if account.skipped:
        return DataError(f"nothing in {where} could be read: {reasons(account)}", hint="see the reasons")
    kinds = ", ".join(sorted(account.other_kinds)[:5])
    return DataError(
        f"there is no document in {where}" + (f" (only {kinds})" if kinds else ""),
        hint="documents are .txt, .md, .rst, .html, .py, .pdf, .docx and .jsonl files",
    )


def reasons(account: Account) -> str:
    """The first few skipped files in one line."""
    skipped = [*account.problems, *account.without_text]
    shown = [f"{each.path}: {each.reason}" for each in skipped[:SHOWN]]
    return "; ".join(shown) + (f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else "")
