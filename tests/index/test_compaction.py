import errno
from pathlib import Path

import numpy as np
import pytest
from small_indexes import DIMS, contents, contents_of, create, fill, named, put

from diffembed.errors import DataError
from diffembed.index import shards, writer
from diffembed.index.shards import PRECISIONS, Shards
from diffembed.index.snapshot import Snapshot
from diffembed.index.store import Store

FILES = {f"/{number}.txt": f"fox {number}\nhen {number}" for number in range(8)}
GONE = ("/0.txt", "/3.txt", "/4.txt")
LEFT = {path: text for path, text in FILES.items() if path not in GONE}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    monkeypatch.setattr(writer, "COPY_ROWS", 3)
    monkeypatch.setattr(writer, "LEAST_COMPACTED", 1)


def names(store: Store) -> list[str]:
    """Of the vector files, behind the token that they all share."""
    found = sorted(path.name for path in (store.folder / "vectors").iterdir())
    assert len({name[:9] for name in found}) <= 1
    return [name[9:] for name in found]


def stored_bytes(store: Store) -> dict[str, bytes]:
    """What the vector files hold of rows that are a chunk's, format by format."""

    def look(snapshot: Snapshot) -> dict[str, bytes]:
        rows = [row for (row,) in store._db.execute("SELECT row FROM chunks ORDER BY row")]
        held, count = snapshot.shards, snapshot.num_rows
        return {kind: np.concatenate(list(held.parts(kind, count)))[rows].tobytes() for kind in held.dtypes()}

    return store.read(look)


def drop(store: Store, *paths: str) -> None:
    with store.writing() as hand:
        for path in paths:
            assert hand.drop_file(path)
        hand.compact_if_due()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_changes_files_and_no_content(tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = create(tmp_path / "index", precision=precision)
    rng = np.random.default_rng(0)
    with store.writing() as hand:
        for path, text in FILES.items():
            # Of any value, so that a second rounding would show.
            vectors = rng.normal(size=(2, DIMS)).astype(np.float32)
            hand.put(path, path, digest=text, title="t", text=text, spans=[(0, 5), (6, 11)], vectors=vectors)
        hand.commit()
    query_BE = rng.normal(size=(3, DIMS)).astype(np.float32)

    def look(snapshot: Snapshot) -> tuple:
        dense = named(snapshot, snapshot.dense(query_BE, 7))
        lexical = named(snapshot, snapshot.lexical(["fox 2", "hen"], 7))
        return snapshot.contents(), snapshot.files(), dense, lexical

    with monkeypatch.context() as patch:
        patch.setattr(writer, "COMPACTED_SHARE", 1.0)
        drop(store, *GONE)
        before, bytes_before = store.read(look), stored_bytes(store)
        assert all(name.startswith("0001-") for name in names(store))
    with store.writing() as hand:
        assert hand.compact_if_due()
    assert store.read(look) == before and stored_bytes(store) == bytes_before
    assert store.check() == []
    kinds = ["float16", "int8"] if precision == "int8" else [precision]
    assert names(store) == [f"0002-{kind}-{shard:05d}.bin" for kind in kinds for shard in range(3)]
    row_bytes = {"float32": 4 * DIMS, "float16": 2 * DIMS, "int8": 3 * DIMS + 4}[precision]
    assert sum(path.stat().st_size for path in (store.folder / "vectors").iterdir()) == 10 * row_bytes
    fill(store, {"/new.txt": "a cow"})
    assert len(contents(store)) == 11 and store.check() == []
    store.close()


def test_rows_that_keep_their_place_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "COMPACTED_SHARE", 0.0)
    store = create(tmp_path / "index")
    fill(store, FILES)
    for times, (gone, moved) in enumerate([("/7.txt", 0), ("/5.txt", 2), ("/0.txt", 10)], start=1):
        said: list[str] = []
        with store.writing() as hand:
            assert hand.drop_file(gone)
            hand._db.set_trace_callback(said.append)
            assert hand.compact_if_due()
        assert sum(statement.startswith("UPDATE chunks") for statement in said) == moved
        assert {name[:5] for name in names(store)} == {f"000{1 + times}-"}
        assert store.check() == []
    left = {path: text for path, text in FILES.items() if path not in ("/7.txt", "/5.txt", "/0.txt")}
    assert contents(store) == contents_of(left)
    store.close()


@pytest.mark.parametrize("nth", [1, 3])
def test_without_room_all_is_as_before_and_the_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    store = create(tmp_path / "index", precision="int8")
    fill(store, FILES)
    write_at, calls = shards._write_at, []

    def write_until_full(path: Path, offset: int, data: bytes) -> None:
        calls.append(path)
        if len(calls) == nth:
            write_at(path, offset, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_at(path, offset, data)

    with store.writing() as hand:
        for path in GONE:
            hand.drop_file(path)
        with monkeypatch.context() as patch:
            patch.setattr(shards, "_write_at", write_until_full)
            assert not hand.compact_if_due()
        assert len(calls) == nth and all(name.startswith("0001-") for name in names(store))
        assert contents(store) == contents_of(LEFT) and store.check() == []
        put(hand, "/new.txt", "/new.txt", "a cow")
        hand.commit()
        assert contents(store) == contents_of({**LEFT, "/new.txt": "a cow"}) and store.check() == []
        assert hand.compact_if_due()
        assert all(name.startswith("0002-") for name in names(store))
    assert contents(store) == contents_of({**LEFT, "/new.txt": "a cow"}) and store.check() == []
    store.close()


def test_what_else_goes_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = create(tmp_path / "index")
    fill(store, FILES)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(writer, "COMPACTED_SHARE", 0.0)
    with store.writing() as hand:
        hand.drop_file("/0.txt")
        monkeypatch.setattr(shards, "_write_at", fail)
        with pytest.raises(DataError, match="Input/output error"):
            hand.compact_if_due()
        with pytest.raises(DataError, match="stopped by an error"):
            hand.commit()
    store.close()


def test_it_is_done_when_many_rows_are_dead_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "COMPACTED_SHARE", 0.25)
    monkeypatch.setattr(writer, "LEAST_COMPACTED", 3)
    store = create(tmp_path / "index")
    fill(store, FILES)
    for path, generation in (("/0.txt", "0001-"), ("/1.txt", "0001-"), ("/2.txt", "0002-")):
        drop(store, path)
        assert {name[:5] for name in names(store)} == {generation}
    monkeypatch.setattr(writer, "LEAST_COMPACTED", 5)
    drop(store, "/3.txt", "/4.txt")
    assert {name[:5] for name in names(store)} == {"0002-"}
    assert store.check() == []
    store.close()


def test_what_was_put_in_the_same_block_is_kept(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    fill(store, FILES)
    with store.writing() as hand:
        for path in GONE:
            hand.drop_file(path)
        put(hand, "/new.txt", "/new.txt", "a cow")
        hand.compact_if_due()
        put(hand, "/newer.txt", "/newer.txt", "an ox")
        hand.commit()
    assert contents(store) == contents_of({**LEFT, "/new.txt": "a cow", "/newer.txt": "an ox"})
    assert store.check() == []
    store.close()


def test_nothing_left_and_filled_again(tmp_path: Path) -> None:
    store = create(tmp_path / "index")
    fill(store, FILES)
    drop(store, *FILES)
    assert names(store) == [] and contents(store) == [] and store.check() == []
    fill(store, LEFT)
    assert contents(store) == contents_of(LEFT) and store.check() == []
    store.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_reader_whose_files_are_taken_away_looks_again(tmp_path: Path, precision: str) -> None:
    store, other = create(tmp_path / "index", precision=precision), Store.open(tmp_path / "index")
    fill(store, FILES)
    looks = []

    def look(snapshot: Snapshot) -> tuple:
        looks.append(snapshot.num_rows)
        if len(looks) == 1:
            drop(other, *GONE)
        return snapshot.contents(), named(snapshot, snapshot.dense(np.ones((1, DIMS), np.float32), 99))

    found, (hits,) = store.read(look)
    assert looks == [16, 10]
    assert found == contents_of(LEFT) and len(hits) == 10
    store.close()
    other.close()


def test_a_check_whose_files_are_taken_away_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = create(tmp_path / "index"), Store.open(tmp_path / "index")
    fill(store, FILES)
    digest, calls = Shards.digest, []

    def slow_digest(self: Shards, first: int, count: int) -> str:
        calls.append(self.generation)
        if len(calls) == 1:
            drop(other, *GONE)
        return digest(self, first, count)

    monkeypatch.setattr(Shards, "digest", slow_digest)
    assert store.check() == []
    assert calls[0] == 1 and set(calls[1:]) == {2}
    store.close()
    other.close()
