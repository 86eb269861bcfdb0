"""Files on disk -> an index that is up to date with them."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from diffembed.errors import ConfigError, DataError
from diffembed.index.shards import Precision
from diffembed.index.snapshot import Settings
from diffembed.index.store import Store
from diffembed.library.account import Account
from diffembed.library.indexing import OnProgress, Run, plan, reasons
from diffembed.library.model import LibraryModel, new_settings
from diffembed.library.reading.walk import find_files

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

Name = str | os.PathLike[str]


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
    more, are dropped. A file that can't be read is named in the account, and the run goes on. What was moved is not
    embedded again.

    Args:
        paths: Files and folders.
        folder: Of the index.
        model: For a new index, the built-in one when absent; an index that is there must have been made with it.
        precision: See `Index.create`; like the next two fixed once the index is made.
        chunk_tokens: See `Index.create`.
        contextual: See `Index.create`.
        on_progress: Told the account after each document.

    Raises:
        DataError: A path isn't there, nothing could be read, or another process is writing.
        ConfigError: A setting can't be used, or the index was made with another one.
        IndexFormatError: The index is damaged, or holds vectors of another model.
    """
    folder = Path(folder)
    if not paths:
        raise ConfigError("there is no path to index", hint="name files or folders")
    found = find_files([Path(path) for path in paths], leave_out=folder)
    wanted = {"precision": precision, "chunk_tokens": chunk_tokens, "contextual": contextual}
    account = Account()
    with ExitStack() as held:
        opened: list[Store] = []
        if Store.is_begun(folder):
            opened.append(held.enter_context(closing(Store.open(folder))))
            _expect_settings(opened[0].settings, wanted)
            chosen = LibraryModel.of_index(opened[0].settings, model)
        else:
            Store.check_new(folder)
            chosen = LibraryModel.of("builtin" if model is None else model)
        known = opened[0].read(lambda snapshot: snapshot.files()) if opened else {}
        todo = plan(found, known, account)
        if opened and todo.changed:
            chosen.expect(opened[0].settings)

        def store() -> Store:
            if not opened:
                given = {name: value for name, value in wanted.items() if value is not None}
                opened.append(held.enter_context(closing(Store.create(folder, new_settings(chosen, **given)))))
            return opened[0]

        with Run(store, chosen, account, on_progress) as run:
            run.carry_out(todo, known)
    if not (account.files_read or account.files_unchanged or account.files_dropped):
        raise _nothing(paths, account)
    return account


def _expect_settings(settings: Settings, wanted: dict[str, object]) -> None:
    for name, value in wanted.items():
        if value is not None and value != getattr(settings, name):
            made_with = getattr(settings, name)
            if isinstance(value, bool):
                made_with = bool(made_with)  # which SQLite keeps as a number
            raise ConfigError(
                f"the index was made with {name} {made_with}, not {value}",
                hint="leave it out, or index into a new folder",
            )


def _nothing(paths: Sequence[Name], account: Account) -> DataError:
    where = ", ".join(str(path) for path in paths[:3])
    if account.skipped:
        return DataError(f"nothing in {where} could be read: {reasons(account.skipped)}", hint="see the reasons")
    kinds = ", ".join(sorted(account.other_kinds)[:5])
    return DataError(
        f"there is no document in {where}" + (f" (only {kinds})" if kinds else ""),
        hint="documents are .txt, .md, .rst, .html, .py, .pdf, .docx and .jsonl files",
    )
