"""Files that can't be looked at, that are known to be unreadable, or that another process was faster with."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from diffembed.errors import DataError
from diffembed.index.store import Store
from diffembed.library import plan
from diffembed.library.account import Account
from diffembed.library.index import Index
from diffembed.library.plan import Known
from diffembed.library.reading import plain, read
from diffembed.library.reading import rows as rows_reader
from diffembed.library.reading.document import Document, MissingParser
from tests.library.conftest import TREE, contents_of, expected, rows, write

Bring = Callable[..., Account]
PASSING = [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT]


def fail(patch: pytest.MonkeyPatch, place: Path, number: int, calls: tuple[str, ...]) -> None:
    """Let the system fail at a path and below it, as a disk or a network folder does."""

    def failing(name: str) -> Callable:
        real = getattr(os, name)

        def call(path: Any, *args: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and place in (Path(path), *Path(path).parents):
                raise OSError(number, os.strerror(number), os.fspath(path))
            return real(path, *args, **options)

        return call

    for name in calls:
        patch.setattr(os, name, failing(name))


def told(account: Account, tree: Path) -> dict[str, str]:
    return {os.path.relpath(each.path, tree): each.reason for each in account.skipped}


def unreadable(to: Path) -> dict[str, str]:
    with Index.open(to) as index:
        found = index.read(lambda snapshot: snapshot.unreadable())
    return {Path(path).name: reason for path, (_, reason) in found.items()}


# What can't be looked at for the moment


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("name", ["notes.txt", "rows.jsonl"])
def test_a_file_out_of_reach_stays_as_it_was(bring, tree, to, embedder, number, name) -> None:
    bring()
    before = expected(tree, embedder)
    write(tree, {name: b"nobody can know that it has changed", "guide.md": None})
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, tree / name, number, ("open",))
        account = bring()
    assert list(told(account, tree)) == [name] and account.skipped[0].reason.endswith("; kept as it was")
    assert (account.files_kept, account.files_dropped, account.files_unchanged) == (1, 1, len(TREE) - 2)
    assert contents_of(to) == [row for row in before if not row[0].endswith("guide.md")]
    assert unreadable(to) == {}
    account = bring()  # it is looked at again
    assert account.files_kept == 0 and name in {os.path.relpath(row[0], tree) for row in contents_of(to)} | {
        os.path.relpath(each.path, tree) for each in account.skipped
    }


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("calls", [("scandir",), ("stat", "scandir", "open", "lstat")])
def test_what_lies_in_a_folder_out_of_reach_stays_as_it_was(bring, tree, to, embedder, number, calls) -> None:
    bring()
    write(tree, {"deep/more.txt": b"one more"})
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, tree / "deep", number, calls)
        account = bring()
    ((name, reason),) = told(account, tree).items()
    assert name == "deep" and reason.endswith("; kept as it was")
    assert (account.files_kept, account.files_dropped, account.files_unchanged) == (3, 0, len(TREE) - 3)
    assert bring().files_read == 1
    assert contents_of(to) == expected(tree, embedder)


def test_a_file_that_was_named_itself_stays_when_it_is_out_of_reach(bring, tree, to) -> None:
    hidden = tree / ".cache" / "hidden.txt"
    write(tree, {".cache/hidden.txt": b"a secret"})
    bring(hidden)
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, hidden, errno.EIO, ("stat", "open"))
        account = bring()
    assert told(account, tree) == {".cache/hidden.txt": "input/output error; kept as it was"}
    assert (account.files_kept, account.files_dropped) == (1, 0)
    assert str(hidden) in {row[0] for row in contents_of(to)}


def test_what_is_out_of_reach_and_unknown_is_only_named(bring, tree, to) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, tree / "notes.txt", errno.EACCES, ("open",))
        fail(patch, tree / "deep", errno.EACCES, ("scandir",))
        account = bring()
    assert told(account, tree) == {"notes.txt": "no permission", "deep": "no permission"}
    assert (account.files_kept, account.files_read) == (0, len(TREE) - 4)
    assert unreadable(to) == {}


def test_a_root_out_of_reach_changes_nothing(bring, tree, to) -> None:
    bring()
    before = contents_of(to)
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, tree, errno.ESTALE, ("lstat",))
        with pytest.raises(DataError, match="cannot look at .*tree: stale file handle"):
            bring()
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, tree, errno.EIO, ("scandir",))
        with pytest.raises(DataError, match="could be read: .*tree: input/output error; kept as it was"):
            bring()
    assert contents_of(to) == before


def test_a_disk_that_fails_while_rows_are_read(bring, tree, to, embedder, monkeypatch) -> None:
    bring()
    write(tree, {"rows.jsonl": rows({"_id": "new", "text": "a new row"})})
    real = rows_reader.sources.read_rows

    def failing(path: Path, opened: BinaryIO):
        yield from real(path, opened)
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError as error:
            raise DataError(f"cannot read {path}: {error}", hint="") from error

    monkeypatch.setattr(rows_reader.sources, "read_rows", failing)
    account = bring()
    assert told(account, tree) == {"rows.jsonl": "input/output error; kept as it was"}
    assert (account.files_kept, account.files_dropped) == (1, 0)
    monkeypatch.undo()
    assert bring().files_read == 1
    assert contents_of(to) == expected(tree, embedder)


def test_a_missing_parser_takes_nothing_out_and_is_tried_again(bring, tree, to, monkeypatch) -> None:
    def missing(path: Path, data: bytes) -> Document:
        raise MissingParser

    monkeypatch.setitem(read.KINDS, ".html", plain.read)
    write(tree, {"page.html": b"the first page"})
    bring()
    monkeypatch.setitem(read.KINDS, ".html", missing)
    write(tree, {"page.html": b"the second page", "new.html": b"new"})
    for _ in range(2):
        account = bring()
        reasons = told(account, tree)
        assert reasons["page.html"].endswith("(pip install 'diffembed[docs]'); kept as it was")
        assert reasons["new.html"].endswith("(pip install 'diffembed[docs]')")
        assert (account.files_kept, account.files_dropped) == (1, 0)
    assert unreadable(to) == {}
    with Index.open(to) as index:
        assert index.search("page", mode="lexical")[0].text == "the first page"
    monkeypatch.setitem(read.KINDS, ".html", plain.read)
    assert bring().files_read == 2


# What can't be read

BROKEN = {"a.txt": b"\0binary", "b.txt": b"caf\xe9", "c.jsonl": b"{", "__init__.py": b"", "d.jsonl": b""}


def test_a_file_that_can_not_be_read_is_read_once(bring, tree, to, monkeypatch) -> None:
    write(tree, BROKEN)
    first = told(bring(), tree)
    assert set(first) == set(BROKEN)
    assert unreadable(to) == first
    before = contents_of(to), (to / "index.sqlite").read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("it was read again")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_document", "Rows"):
            patch.setattr(f"diffembed.library.indexing.{name}", refuse)
        account = bring()
    assert told(account, tree) == first
    assert (account.files_unchanged, account.files_dropped, account.files_read) == (len(TREE), 0, 0)
    assert (contents_of(to), (to / "index.sqlite").read_bytes()) == before
    write(tree, {"a.txt": b"readable now", "b.txt": b"caf\xe9 au lait", "c.jsonl": None})
    account = bring()
    assert (account.files_read, account.files_dropped) == (1, 0)
    assert unreadable(to) == {name: first[name] for name in ("b.txt", "__init__.py", "d.jsonl")}
    assert str(tree / "a.txt") in {row[0] for row in contents_of(to)}


def test_unreadable_files_alone(bring, tree, to, monkeypatch) -> None:
    """No index is made for them; one that is there remembers them all the same."""
    shutil.rmtree(tree)
    write(tree, BROKEN)
    with pytest.raises(DataError, match="nothing in .* could be read: .*; and 2 more"):
        bring()
    assert not to.exists()
    write(tree.with_name("good"), {"good.txt": b"good"})
    bring(tree.with_name("good"))
    for _ in range(2):
        with pytest.raises(DataError, match="could be read"):
            bring()
    assert set(unreadable(to)) == set(BROKEN)


def test_removing_a_folder_forgets_its_unreadable_files(bring, tree, to) -> None:
    write(tree, {"deep/bad.txt": b"\0"})
    bring()
    with Index.open(to) as index:
        assert index.remove(paths=[tree / "deep"], must_exist=True) == 3
    assert unreadable(to) == {}


# What another process did


def test_what_another_process_brought_in_meanwhile_is_left_alone(bring, tree, to, monkeypatch, embedder) -> None:
    """It came between the plan and the lock."""
    bring()
    write(tree, {"notes.txt": b"changed notes", "a.txt": b"new", "b.txt": b"\0", "guide.md": None})
    runs: list[Account] = []

    def meanwhile(account: Account) -> None:
        if not runs:
            runs.append(Account())
            runs[0] = bring()
            write(tree, {"guide.md": b"another guide"})  # and it is back before the first process goes on
            bring()

    account = bring(on_progress=meanwhile)
    assert (runs[0].files_read, runs[0].files_dropped) == (2, 1)
    assert (account.files_read, account.tokens, account.files_dropped) == (0, 0, 0)
    assert account.files_unchanged == len(TREE) - 2 + 2
    assert told(account, tree) == {"b.txt": "binary"}
    (tree / "b.txt").unlink()
    assert contents_of(to) == expected(tree, embedder)


def test_two_processes_that_make_the_same_index(bring, tree, to) -> None:
    def meanwhile(account: Account) -> None:
        if not to.exists():
            bring(tree / "notes.txt")

    with pytest.raises(DataError, match="another process has just made the index in .*\n.*run this again"):
        bring(on_progress=meanwhile)
    assert {Path(row[0]).name for row in contents_of(to)} == {"notes.txt"}
    assert bring().files_read == len(TREE) - 1


# What is told meanwhile


def test_looking_at_files_is_told_and_timed(bring, tree, to, monkeypatch) -> None:
    bring()
    monkeypatch.setattr(plan, "TOLD_S", -1.0)
    seen: list[tuple[int, int, float]] = []

    def slow(account: Account) -> None:
        time.sleep(0.01)
        seen.append((account.files_looked_at, account.files_found, account.seconds))

    account = bring(on_progress=slow)
    assert [looked for looked, _, _ in seen] == list(range(len(TREE) + 1))
    assert {found for _, found, _ in seen} == {len(TREE)}
    assert account.files_looked_at == account.files_found == len(TREE)
    times = [seconds for _, _, seconds in seen]
    assert times == sorted(times) and account.seconds > times[-1] >= 0.01 * (len(TREE) - 1)
    assert not {"started_s", "bytes_done"} & set(account.facts())


def test_the_plan_needs_no_lock(bring, tree, to) -> None:
    """Whoever has nothing to do is not in the way of one who writes, nor is told to wait."""
    bring()
    store = Store.open(to)
    with store.writing():
        assert bring().files_unchanged == len(TREE)
    assert Known.of(store).files.keys() == {str(tree / name) for name in TREE}
    store.close()
