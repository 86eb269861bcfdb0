"""Files that hold a document in each row."""

import shutil
from collections.abc import Callable
from contextlib import closing

import pytest

from diffembed.library import indexing
from diffembed.library.account import Account
from diffembed.library.index import Index
from tests.library.conftest import CHUNK, ROWS, contents_of, expected, names, rows, write

Bring = Callable[..., Account]


def test_rows_are_taken_one_by_one(bring, tree, to, embedder) -> None:
    for path in tree.rglob("*.*"):
        path.unlink()
    write(tree, {"rows.jsonl": rows(*ROWS)})
    assert bring().documents == 6
    changed = ROWS[2] | {"text": "other words"}
    write(tree, {"rows.jsonl": rows(*ROWS[:2], changed, ROWS[4], {"_id": "new", "text": "one more"})})
    account = bring()
    assert (account.files_read, account.documents, account.reused) == (1, 5, 3)
    texts = ["T2 other words", "one more"]
    assert account.tokens == sum(embedder.embed_chunks(text, CHUNK).report.tokens for text in texts)
    assert contents_of(to) == expected(tree, embedder)


def test_a_title_alone_can_change(bring, tree, to) -> None:
    """Title and text make the row's text together: the same words, cut elsewhere, are embedded once but shown anew."""
    write(tree, {"rows.jsonl": rows({"_id": "a", "title": "one two", "text": "three"})})
    bring()
    write(tree, {"rows.jsonl": rows({"_id": "a", "title": "one", "text": "two three"})})
    account = bring()
    assert (account.reused, account.tokens) == (1, 0)
    with closing(Index.open(to)) as index:
        (hit,) = index.search("three", mode="lexical", where="rows.jsonl")
    assert (hit.title, hit.text) == ("one", "one two three")


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (b'{"_id": "x", "text":', "line 7 is not JSON"),
        (b"\xff\n", "line 7 is not UTF-8"),
        (rows({"_id": "row 1", "text": "again"}), "line 7: the id 'row 1' occurs twice"),
        (rows({"_id": 2, "text": "a"}, {"_id": "2", "text": "b"}), "line 8: the id '2' occurs twice"),
        (rows({"text": "no id"}), "line 7: `_id` must be"),
        (rows({"_id": "x"}), "line 7 has no text `text`"),
    ],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_broken_row_makes_the_file_unreadable_before_any_work(bring, tree, to, last, reason, is_known) -> None:
    shutil.rmtree(tree)
    write(tree, {"z.txt": b"good", "a.jsonl": rows(*ROWS) if is_known else None})
    bring()
    write(tree, {"a.jsonl": rows(*ROWS) + last, "z.txt": b"better"})
    account = bring()
    assert [each.path for each in account.skipped] == [str(tree / "a.jsonl")]
    assert account.skipped[0].reason.startswith(reason)
    assert (account.files_dropped, account.files_read, account.documents, account.chunks) == (is_known, 1, 1, 1)
    assert "a.jsonl" not in names(to)


@pytest.mark.parametrize(("commit_s", "together"), [(-1.0, 1), (10.0, 1), (-1.0, 4)])
def test_a_row_that_breaks_while_the_file_is_read_leaves_nothing_of_it(
    bring, tree, to, monkeypatch, commit_s, together
) -> None:
    monkeypatch.setattr(indexing, "COMMIT_S", commit_s)
    monkeypatch.setattr(indexing, "TOGETHER", together)
    shutil.rmtree(tree)
    write(tree, {"a.jsonl": rows(*ROWS), "b.txt": b"good"})

    def spoil(account: Account) -> None:
        if account.documents == 1:
            with (tree / "a.jsonl").open("ab") as file:
                file.write(b"no json\n")

    account = bring(on_progress=spoil)
    assert [each.reason[:18] for each in account.skipped] == ["line 7 is not JSON"]
    assert account.files_dropped == 0
    assert names(to) == {"b.txt"}


def test_a_long_file_of_rows_goes_on_where_it_was_stopped(bring, tree, to, embedder, monkeypatch) -> None:
    monkeypatch.setattr(indexing, "COMMIT_S", -1.0)
    shutil.rmtree(tree)
    write(tree, {"a.jsonl": rows(*ROWS)})

    def stop(account: Account) -> None:
        if account.documents == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(on_progress=stop)
    assert len({row[1] for row in contents_of(to)}) == 4
    account = bring()
    assert (account.documents, account.reused) == (6, 4)
    assert contents_of(to) == expected(tree, embedder)
    assert bring().files_unchanged == 1
