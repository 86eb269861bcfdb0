import os
import shutil
import sqlite3
import threading
import time
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from small_indexes import (
    DIMS,
    Model,
    contents,
    contents_of,
    create,
    fill,
    named,
    put,
    run_script,
    spans_of,
    start_script,
    vectors_of,
)

from diffembed.errors import DataError
from diffembed.index import shards, writer
from diffembed.index.shards import PRECISIONS
from diffembed.index.snapshot import Snapshot
from diffembed.index.store import Store

PATHS = ["", "/a/x.txt", "/a/b/y.md"]
KEYS = ["one", "two"]
LINES = ["red fox", "red red hen", "日本語 fox", "a blue hen"]
QUERIES = ["fox", "red hen", "日本", "absent"]

texts = st.lists(st.sampled_from([*LINES, ""]), max_size=4).map("\n".join)
steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(PATHS), st.sampled_from(KEYS), texts, st.sampled_from(["", "Red"])),
    st.tuples(st.just("drop_file"), st.sampled_from(PATHS)),
    st.tuples(st.just("drop_document"), st.sampled_from(PATHS), st.sampled_from(KEYS)),
    st.tuples(st.just("begin_file"), st.sampled_from(PATHS)),
    st.tuples(st.just("note_unreadable"), st.sampled_from(PATHS[1:]), st.sampled_from(["binary", "no text in it"])),
    st.tuples(st.just("forget_digest"), st.sampled_from([*PATHS[1:], "/never/heard.of"])),
    st.tuples(st.just("finish_file"), st.sampled_from(PATHS), st.sampled_from([None, ("one",), ()])),
    st.tuples(st.just("twin"), texts),
    st.sampled_from([("commit",), ("leave",), ("compact",)]),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


def step(hand, model: Model, committed: Model, name: str, *values) -> None:
    """One change of the index and of the dictionary."""
    if name == "put":
        path, key, text, title = values
        put(hand, path, key, text, title)
        model.put(path, key, text, title)
    elif name == "drop_file":
        (path,) = values
        assert hand.drop_file(path) is (path in model.files)
        model.files.pop(path, None)
        model.unreadable.pop(path, None)
        model.drop(path)
    elif name == "note_unreadable":
        path, reason = values
        assert hand.note_unreadable(path, "bytes", reason) is (path in model.files)
        model.files.pop(path, None)
        model.unreadable[path] = ("bytes", reason)
        model.drop(path)
    elif name == "forget_digest":
        (path,) = values
        hand.forget_digest(path)
        if path in model.files:
            model.files[path] = None
        if path in model.unreadable:
            model.unreadable[path] = ("", model.unreadable[path][1])
    elif name == "drop_document":
        assert hand.drop_document(*values) is model.drop(*values)
    elif name == "begin_file":
        hand.begin_file(*values)
        model.files[values[0]] = None
        model.unreadable.pop(values[0], None)
    elif name == "finish_file":
        path, keys = values
        hand.finish_file(path, "whole", None if keys is None else set(keys))
        model.files[path] = "whole"
        model.unreadable.pop(path, None)
        if keys is not None:
            model.drop(path, keep=keys)
    elif name == "twin":
        (text,) = values
        known = [each for place, each in model.documents.items() if each is committed.documents.get(place)]
        found = hand.twin(f"of {text}")
        if spans_of(text) and text in [each.text for each in known]:
            assert found is not None and found[0] == spans_of(text)
            assert np.array_equal(found[1], vectors_of(text))
        else:
            assert found is None
    elif name == "commit":
        hand.commit()
    else:
        hand.compact_if_due()


def compare(snapshot: Snapshot, model: Model) -> None:
    """See that an index says what the dictionary says."""
    assert snapshot.contents() == model.contents()
    assert snapshot.files() == {path: digest for path, digest in model.files.items() if path}
    assert snapshot.unreadable() == model.unreadable
    for path in PATHS:
        expected = {k: (f"of {e.text}", e.title) for (p, k), e in model.documents.items() if p == path}
        assert snapshot.documents(path) == expected
    counts = snapshot.counts()
    assert (counts.files, counts.documents, counts.chunks) == (
        len(snapshot.files()),
        len(model.documents),
        len(model.chunks()),
    )
    query_BE = np.array([[1, 0, -1, 2], [0, 0, 0, 0]], np.float32)
    for k, where in ((3, None), (50, "a"), (2, "y.md")):
        dense = named(snapshot, snapshot.dense(query_BE, k, where=where))
        assert dense == [model.dense(query_E, k, where) for query_E in query_BE]
        lexical = snapshot.lexical(QUERIES, k, where=where)
        assert named(snapshot, lexical) == [model.lexical(query, k, where) for query in QUERIES]
        # Padded: a place behind the last hit is a chunk that is wanted and shares no word with the query.
        assert lexical.rows.shape == (len(QUERIES), min(k, len(model.chunks(where))))


@examples(30)
@given(precision=st.sampled_from(PRECISIONS), sequence=st.lists(steps, min_size=3, max_size=14))
def test_any_changes_commits_and_rollbacks_equal_a_dictionary(base: Path, precision, sequence) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_ROWS", 4)
        patch.setattr(writer, "LEAST_COMPACTED", 2)
        patch.setattr(writer, "COPY_ROWS", 3)
        folder = base / str(sum(1 for _ in base.iterdir()))
        store, committed = create(folder, precision=precision), Model()
        left = [*sequence, ("commit",), ("leave",)]
        while left:
            model = committed.copy()
            with store.writing() as hand:
                while (change := left.pop(0)) != ("leave",):
                    step(hand, model, committed, *change)
                    if change in (("commit",), ("compact",)):
                        committed = model.copy()
                        store.read(lambda snapshot, said=committed: compare(snapshot, said))
        store.read(lambda snapshot: compare(snapshot, committed))
        assert store.check() == []
        store.close()
        again = Store.open(folder)
        again.read(lambda snapshot: compare(snapshot, committed))
        again.close()


def test_a_chunk_shows_its_text_and_line(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    text = "first 🙂\n\nthird 日本\nlast"
    with store.writing() as hand:
        put(hand, "/x.txt", "key", text, "A title")
        hand.commit()
    hits = store.read(lambda snapshot: snapshot.lexical(["日本", "last"], 5))
    chunks = store.read(lambda snapshot: snapshot.chunks(hits.rows[:, 0].tolist()))
    third, last = (chunks[row] for row in hits.rows[:, 0].tolist())
    assert (third.text, third.line, third.start, third.stop) == ("third 日本", 3, 9, 17)
    assert (last.text, last.line, last.title, last.id, last.path) == ("last", 4, "A title", "key", "/x.txt")
    assert text[last.start : last.stop] == last.text
    store.close()


OLD = {"/a.txt": "old fox\nold hen", "/b.txt": "old cow"}
NEW = {"/a.txt": "new ox", "/b.txt": "new cow\nnew hen", "/c.txt": "new fox"}


def test_a_reader_sees_one_commit_while_another_comes(tmp_path: Path) -> None:
    reader, other = create(tmp_path / "index"), Store.open(tmp_path / "index")
    fill(reader, OLD)
    query_BE = np.ones((1, DIMS), np.float32)

    def look(snapshot: Snapshot) -> tuple:
        dense = named(snapshot, snapshot.dense(query_BE, 9))
        lexical = named(snapshot, snapshot.lexical(["old new cow"], 9))
        return snapshot.contents(), snapshot.files(), dense, lexical

    def look_twice(snapshot: Snapshot) -> tuple[tuple, tuple]:
        before = look(snapshot)
        thread = threading.Thread(target=fill, args=(other, NEW))
        thread.start()
        thread.join()
        return before, look(snapshot)

    before, after = reader.read(look_twice)
    assert before == after
    assert before[0] == contents_of(OLD)
    assert reader.read(look)[0] == contents_of(NEW) == contents(other)
    reader.close()
    other.close()


def test_readers_in_threads_never_see_half_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LEAST_COMPACTED", 3)
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    versions = [{f"/{name}.txt": f"v{number} {name}\nv{number}" for name in "abc"} for number in range(12)]
    allowed = [contents_of(files) for files in versions]
    shared = create(tmp_path / "index")
    fill(shared, versions[0])
    is_over, seen, wrong = threading.Event(), set(), []

    def keep_reading(store: Store) -> None:
        while not is_over.is_set():
            try:
                seen.add(allowed.index(contents(store)))
            except Exception as error:
                wrong.append(error)
                return

    stores = [shared, shared, Store.open(tmp_path / "index")]
    threads = [threading.Thread(target=keep_reading, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for files in versions[1:]:
        fill(shared, files, compact=True)
    is_over.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and seen
    assert contents(shared) == allowed[-1] and shared.check() == []
    shared.close()
    stores[-1].close()


def test_there_is_one_writer(tmp_path: Path) -> None:
    store, other = create(tmp_path / "index"), Store.open(tmp_path / "index")
    with store.writing() as hand:
        put(hand, "/a.txt", "a", "a fox")
        for each in (store, other):
            with pytest.raises(DataError, match=f"number {os.getpid()}.*is writing"), each.writing():
                pass
        hand.commit()
    with other.writing() as hand:
        assert hand.drop_file("/a.txt")
    assert len(contents(store)) == 1
    store.close()
    other.close()


HOLD = """
import sys
from pathlib import Path
from diffembed.index.store import Store
with Store.open(Path(sys.argv[1])).writing() as hand:
    hand.begin_file("/never.txt")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_another_process_that_writes_is_named_and_its_end_frees_the_index(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    with start_script(HOLD, tmp_path / "index") as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "writing\n"
        with pytest.raises(DataError, match=f"number {holder.pid}.*is writing"), store.writing():
            pass
        assert contents(store) == []
        holder.kill()
        holder.wait()
        fill(store, OLD)
    assert contents(store) == contents_of(OLD)
    store.close()


def test_nothing_is_deleted_while_somebody_else_may_be_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the lock file locks nothing out, as on some network drives, SQLite's own lock does.
    monkeypatch.setattr("diffembed.index.database.BUSY_S", 0.05)
    store = create(tmp_path / "index")
    fill(store, OLD)
    (shard,) = (tmp_path / "index" / "vectors").iterdir()
    next_one = shard.with_name(shard.name.replace("-0001-", "-0002-"))
    next_one.write_bytes(b"half a compaction")
    with closing(sqlite3.connect(tmp_path / "index" / "index.sqlite", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="in use"):
            fill(store, NEW)
        assert next_one.exists()
    fill(store, NEW)
    assert not next_one.exists() and contents(store) == contents_of(NEW)
    store.close()


@pytest.mark.parametrize("is_kept", [False, True], ids=["all anew", "old vectors left"])
def test_an_index_that_was_made_anew_is_another_one(tmp_path: Path, is_kept: bool) -> None:
    folder = tmp_path / "index"
    old = create(folder)
    fill(old, OLD)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
        elif not is_kept:
            shutil.rmtree(path)
    new = create(folder)
    fill(new, NEW)
    expect_refusals(old, "made anew")
    assert contents(new) == contents_of(NEW) and new.check() == []
    old.close()
    new.close()


def expect_refusals(store: Store, why: str) -> None:
    """Of all that can be done with an open index; what only the database is asked for, too."""
    looks = [Snapshot.contents, Snapshot.counts, Snapshot.files, lambda snapshot: snapshot.lexical(["old"], 9)]
    attempts = [lambda look=look: store.read(look) for look in looks]
    for attempt in (*attempts, lambda: fill(store, OLD), store.check):
        with pytest.raises(DataError, match=why) as told:
            attempt()
        assert "open it" in told.value.hint


@pytest.mark.parametrize("is_moved", [False, True])
def test_an_index_that_is_gone_answers_no_more(tmp_path: Path, is_moved: bool) -> None:
    folder = tmp_path / "index"
    store = create(folder)
    fill(store, OLD)
    folder.rename(tmp_path / "moved") if is_moved else shutil.rmtree(folder)
    for _ in range(2):
        expect_refusals(store, "is gone: since it was opened, it was deleted or moved")
        assert not (folder / "lock").exists()
        # What comes in its place is nobody's business.
        folder.mkdir(exist_ok=True)
    folder.rmdir()
    folder.write_text("mine")
    expect_refusals(store, "is gone")
    store.close()
    assert folder.read_text() == "mine"
    if is_moved:
        moved = Store.open(tmp_path / "moved")
        assert contents(moved) == contents_of(OLD) and moved.check() == []
        moved.close()


FORK = """
import os, sys, traceback
from contextlib import closing
from pathlib import Path
from small_indexes import contents, contents_of, fill
from diffembed.errors import DataError
from diffembed.index.store import Store

folder, files = Path(sys.argv[1]), {}


def refused(attempt):
    try:
        attempt()
    except DataError as error:
        return "open it again in this process" in error.hint


def as_child():
    while (version := os.read(turns, 1)):
        assert refused(lambda: contents(store)) and refused(lambda: fill(store, {"/x.txt": "x"}))
        # Nor is what it opens itself misled by what it has inherited.
        with closing(Store.open(folder)) as own:
            files[f"/{version.decode()}.txt"] = "of the parent " + "pad " * 999
            assert contents(own) == contents_of(files)
            files[f"/{version.decode()}-child.txt"] = "of the child " + "pad " * 999
            fill(own, files)
            assert own.check() == []
        os.write(done_by_child, b".")
    store.close()


def as_parent(version, store):
    files[f"/{version}.txt"] = "of the parent " + "pad " * 999
    fill(store, files)
    os.write(begin_turn, version.encode())
    assert os.read(dones, 1), "the child is gone"
    files[f"/{version}-child.txt"] = "of the child " + "pad " * 999
    assert contents(store) == contents_of(files) and store.check() == []


store = Store.open(folder)
contents(store)
(turns, begin_turn), (dones, done_by_child) = os.pipe(), os.pipe()
child = os.fork()
if not child:
    os.close(begin_turn)
    try:
        as_child()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
os.close(done_by_child)
as_parent("1", store)
store.close()
for version in "234":
    with closing(Store.open(folder)) as store:
        as_parent(version, store)
os.close(begin_turn)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_opens_an_index_for_itself(tmp_path: Path) -> None:
    create(tmp_path / "index").close()
    assert run_script(FORK, tmp_path / "index") == (0, "0\n")


def test_a_look_inside_a_look_is_refused(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    fill(store, OLD)
    with pytest.raises(DataError, match="is being read already"):
        store.read(lambda snapshot: contents(store))
    assert contents(store) == contents_of(OLD)
    store.close()


def test_dead_rows_are_read_once_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LEAST_COMPACTED", 99)
    store, other = create(tmp_path / "index"), Store.open(tmp_path / "index")
    said: list[str] = []
    store._db.set_trace_callback(said.append)

    def found() -> list[tuple]:
        look = store.read(lambda snapshot: named(snapshot, snapshot.dense(np.ones((1, DIMS), np.float32), 99)))
        return sorted(place for _, place in look[0])

    # The first removes one row of two, the second the other in its place: as many rows, as many dead.
    for number, files in enumerate([OLD, {"/a.txt": "x"}, {"/a.txt": "y", "/b.txt": "z"}, {"/a.txt": ""}], start=1):
        fill(other, files)
        expected = sorted(row[:4] for row in contents(other))
        assert found() == found() == found() == expected
        assert sum("FROM dead" in statement for statement in said) == number
    other.close()
    with store.writing() as hand:
        hand.commit()
        hand.compact_if_due()
    found()
    assert sum("FROM dead" in statement for statement in said) == 4
    store.close()


def test_a_chunk_of_a_book_is_read_without_the_book(tmp_path: Path) -> None:
    # A line is 100 characters, of which some have two bytes.
    lines = [f"{number:06} é {'word ' * 17}.".ljust(99, "x") for number in range(40_000)]
    text = "\n".join(lines)
    spans = [(100 * line, 100 * line + 99) for line in range(0, 40_000, 500)]
    store = create(tmp_path / "index")
    with store.writing() as hand:
        vectors = np.ones((len(spans), DIMS), np.float32)
        hand.put("/book.txt", "book", digest="d", title="", text=text, spans=spans, vectors=vectors)
        hand.commit()
    best_s = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        chunks = store.read(lambda snapshot: snapshot.chunks(range(1, 81)))
        best_s = min(best_s, time.perf_counter() - start)
    for number, chunk in chunks.items():
        assert chunk.text == lines[500 * (number - 1)] and chunk.line == 500 * (number - 1) + 1
    assert best_s < 0.25  # a few ms; to read 4 MB for each of 80 chunks takes more than this
    store.close()


def test_a_file_of_many_documents_goes_one_by_one(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    with store.writing() as hand:
        for number in range(40):
            put(hand, "/rows.jsonl", str(number), f"row {number} " + "x" * 200_000)
        hand.finish_file("/rows.jsonl", "d")
        hand.commit()
    with store.writing() as hand:
        tracemalloc.start()
        assert hand.drop_file("/rows.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        hand.commit()
    assert peak < 2_000_000, "8 MB of text were in memory at once"
    assert contents(store) == [] and store.check() == []
    store.close()


def test_the_log_of_a_large_commit_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffembed.index.database.KEPT_LOG_BYTES", 300_000)
    store = create(tmp_path / "index")  # open all the time, so that the log is never deleted
    fill(store, {"/large.txt": "large " * 300_000})
    log = tmp_path / "index" / "index.sqlite-wal"
    assert log.stat().st_size > 1_000_000
    for number in range(2):
        fill(store, {"/small.txt": f"small {number}"})
    assert log.stat().st_size <= 300_000
    store.close()


def test_a_twin_is_committed_or_none(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    with store.writing() as hand:
        put(hand, "/a.txt", "a", "one\ntwo")
        assert hand.twin("of one\ntwo") is None
        hand.commit()
        put(hand, "/b.txt", "b", "one\ntwo")
        spans, vectors = hand.twin("of one\ntwo")  # type: ignore[misc]
        assert spans == spans_of("one\ntwo") and np.array_equal(vectors, vectors_of("one\ntwo"))
        hand.drop_file("/a.txt")
        assert hand.twin("of one\ntwo") is None
    store.close()


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    fill(store, OLD)
    bad = [np.ones((1, DIMS)), np.ones((2, DIMS + 1)), np.full((2, DIMS), np.nan), np.full((2, DIMS), np.inf)]
    for vectors in bad:
        with pytest.raises(DataError, match="vectors of document 'a'"), store.writing() as hand:
            hand.put("/a.txt", "a", digest="d", title="", text="one\ntwo", spans=[(0, 3), (4, 7)], vectors=vectors)
    assert contents(store) == contents_of(OLD) and store.check() == []
    store.close()


def test_after_an_error_nothing_more_is_written(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    fill(store, OLD)
    with store.writing() as hand:
        hand.drop_file("/a.txt")
        with pytest.raises(DataError, match="half a surrogate pair"):
            put(hand, "/b.txt", "/b.txt", "good", title="\ud800")
        for call in (hand.commit, hand.compact_if_due, lambda: put(hand, "/c.txt", "c", "c")):
            with pytest.raises(DataError, match="stopped by an error"):
                call()
    assert contents(store) == contents_of(OLD)
    fill(store, NEW)
    assert contents(store) == contents_of(NEW) and store.check() == []
    store.close()


def test_a_closed_index_says_so(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    with store.writing() as hand:
        pass
    with pytest.raises(DataError, match="was closed"):
        hand.commit()
    store.close()
    with pytest.raises(DataError, match="was closed"):
        contents(store)


def test_names_that_mean_something_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # To an address of SQLite's, to GLOB, to SQL.
    path = "/odd/50%?[a]'\"*;é 日本.txt"
    monkeypatch.chdir(tmp_path)
    store = create(Path("an index?mode=ro&x#100%"))
    fill(store, {path: "a fox", "/odd/other.txt": "a fox"})
    monkeypatch.chdir("/")
    assert contents(store) == contents_of({path: "a fox", "/odd/other.txt": "a fox"})
    for where, expected in (("odd", 2), ("*日本.txt", 1), ("nowhere", 0), ("[", 0), ("'", 0)):
        found = store.read(lambda snapshot, where=where: snapshot.lexical(["fox"], 5, where=where))
        assert found.rows.shape == (1, expected)
        dense = store.read(lambda snapshot, where=where: snapshot.dense(np.ones((1, DIMS), np.float32), 5, where=where))
        assert dense.rows.shape == (1, expected)
    with pytest.raises(DataError, match="half a surrogate pair"):
        store.read(lambda snapshot: snapshot.lexical(["fox"], 5, where="\udcff"))
    with store.writing() as hand:
        assert hand.drop_file(path)
        hand.commit()
    assert store.check() == []
    store.close()
