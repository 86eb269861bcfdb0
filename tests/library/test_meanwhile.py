"""Files that change, go away or can't be dealt with while they are read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diffembed.library.account import Account
from diffembed.library.index import Index
from diffembed.library.reading import plain, read
from diffembed.library.reading import rows as rows_reader
from diffembed.library.reading.document import Document
from tests.library.conftest import TREE, contents_of, expected, names, rows, write
from tests.library.test_plan import told, unreadable

Bring = Callable[..., Account]


def once_planned(change: Callable[[], object]) -> Callable[[Account], None]:
    """Make the change when all files have been looked at and none has been read."""
    is_done = False

    def on_progress(account: Account) -> None:
        nonlocal is_done
        if not is_done and account.files_looked_at == account.files_found > 0:
            is_done = True
            change()

    return on_progress


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "rows.jsonl"])
def test_a_file_that_is_gone_for_a_moment(bring, tree, to, embedder, name, is_known) -> None:
    before = {tree / name} if is_known else set()
    bring(*sorted({tree / "guide.md", *before}))
    data = rows({"_id": "new", "text": "the bees and their honey"}) if name == "rows.jsonl" else b"bees and honey"
    write(tree, {name: data})
    account = bring(on_progress=once_planned(lambda: (tree / name).rename(tree.parent / name)))
    assert told(account, tree) == {name: "not there any more" + "; kept as it was" * is_known}
    assert (account.files_kept, account.files_dropped) == (is_known, 0)
    assert (name in names(to)) == is_known and unreadable(to) == {}
    (tree.parent / name).rename(tree / name)
    assert bring().files_read == 1
    assert contents_of(to) == expected(tree, embedder)
    (tree / name).unlink()
    assert bring().files_dropped == 1


@pytest.mark.parametrize("instead", [b"\0binary", b"other words", None])
@pytest.mark.parametrize("name", ["notes.txt", "rows.jsonl", "deep/er/more.jsonl.gz"])
def test_what_is_noted_is_what_was_read(bring, tree, to, embedder, name, instead) -> None:
    """A file that changes after it was looked at, and changes back, is read again."""
    first = TREE[name]
    if instead == b"other words" and name == "rows.jsonl":
        instead = rows({"_id": "one", "text": "other words"})
    bring(on_progress=once_planned(lambda: write(tree, {name: instead})))
    write(tree, {name: first})
    bring()
    assert contents_of(to) == expected(tree, embedder) and unreadable(to) == {}
    assert bring().files_unchanged == len(TREE)


def test_a_file_that_broke_meanwhile_is_read_once(bring, tree, to) -> None:
    broken = b"[1]\n" + b" " * 3_000_000
    account = bring(on_progress=once_planned(lambda: write(tree, {"rows.jsonl": broken})))
    again = bring()
    assert told(account, tree) == told(again, tree) == unreadable(to)
    assert told(account, tree) == {"rows.jsonl": "line 1 is not a JSON object but list"}
    assert again.files_unchanged == len(TREE) - 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ZeroDivisionError("division\n by  zero " + "0" * 1000),
            "internal error: ZeroDivisionError: division by zero 00",
        ),
        (MemoryError(), "not enough memory to read it"),
    ],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_what_nobody_expects_of_a_file_does_not_end_the_run(
    bring, tree, to, embedder, monkeypatch, error, reason, is_known
) -> None:
    def fail(*_: object) -> Document:
        raise error

    monkeypatch.setitem(read.KINDS, ".html", plain.read)
    if is_known:
        write(tree, {"page.html": b"first"})
        bring()
    write(tree, {"page.html": b"second", "rows.jsonl": rows({"_id": 1, "text": "changed"}), "z.txt": b"zebra"})
    monkeypatch.setitem(read.KINDS, ".html", fail)
    monkeypatch.setattr(rows_reader.sources, "read_rows", fail)
    account = bring()
    skipped = {name: each for name, each in told(account, tree).items() if not name.startswith("deep")}
    assert set(skipped) == {"page.html", "rows.jsonl"}
    for each in skipped.values():
        assert each.startswith(reason) and len(each) < 200 and each.endswith("; kept as it was") == is_known
    assert "z.txt" in names(to) and ("page.html" in names(to)) == is_known and unreadable(to) == {}
    monkeypatch.undo()
    monkeypatch.setitem(read.KINDS, ".html", plain.read)
    assert bring().files_dropped == 0
    with Index.open(to) as index:
        assert index.search("second", mode="lexical")[0].path == str(tree / "page.html")


def test_a_parser_that_lacks_memory_says_nothing_about_the_file(bring, tree, to, monkeypatch) -> None:
    from diffembed.library.reading.document import refusing

    def fail(path: Path, data: bytes) -> Document:
        with refusing("HTML"):
            raise MemoryError

    monkeypatch.setitem(read.KINDS, ".html", fail)
    write(tree, {"page.html": b"page"})
    assert told(bring(), tree) == {"page.html": "not enough memory to read it"}
    assert unreadable(to) == {}
