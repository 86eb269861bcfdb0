"""What lies in an index's folder and is somebody else's stays as it is."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_indexes import DIMS, contents, contents_of, create, fill

from diffembed.errors import DataError, IndexFormatError
from diffembed.index.folder import DATABASE
from diffembed.index.snapshot import Snapshot
from diffembed.index.store import Store

FILES = {"/a.txt": "red fox\nred hen", "/b.txt": "blue cow"}
ELSEWHERE = "is a link, or not what an index puts there"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of an index that is closed."""
    store = create(tmp_path / "index")
    fill(store, FILES)
    store.close()
    return tmp_path / "index"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    (tmp_path / "victim").write_bytes(b"thesis" * 2_000)
    return tmp_path / "victim"


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def dense(snapshot: Snapshot) -> None:
    snapshot.dense(np.ones((1, DIMS), np.float32), 5)


@pytest.mark.parametrize("notes", ["my notes", "12 eggs", "12\n13", "1" * 50, "日"])
def test_a_lock_of_somebody_else_keeps_what_it_holds(tmp_path: Path, folder: Path, notes: str) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "lock").write_text(notes)
    with pytest.raises(DataError, match="holds 'lock', which belongs to no index"):
        create(mine)
    assert only(mine).read_text() == notes
    (folder / "lock").write_text(notes)
    store = Store.open(folder)
    with pytest.raises(DataError, match="holds 'lock'"):
        fill(store, {"/new.txt": "new"})
    assert contents(store) == contents_of(FILES) and (folder / "lock").read_text() == notes
    store.close()


@pytest.mark.parametrize("left", ["", "12345"])
def test_a_lock_that_a_killed_maker_left_is_no_obstacle(tmp_path: Path, left: str) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "lock").write_text(left)
    create(tmp_path / "index").close()
    assert (tmp_path / "index" / "lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("name", ["lock", f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal"])
def test_nothing_is_written_through_a_link(tmp_path: Path, folder: Path, victim: Path, name: str) -> None:
    before = victim.read_bytes()
    (folder / name).unlink(missing_ok=True)
    store = Store.open(folder)
    # Nothing but the lock is looked at by its name while an index is open.
    if name == "lock":
        (folder / name).symlink_to("../victim")
        with pytest.raises(IndexFormatError, match=f"{name} {ELSEWHERE}"):
            fill(store, {"/new.txt": "new"})
        assert contents(store) == contents_of(FILES)
        (folder / name).unlink()
    store.close()
    (folder / name).symlink_to("../victim")
    with pytest.raises(IndexFormatError, match=f"{name} {ELSEWHERE}"):
        Store.open(folder)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).symlink_to("../victim")
    with pytest.raises(DataError, match=f"holds '{name}', which belongs to no index"):
        create(tmp_path / "new")
    assert victim.read_bytes() == before


def test_no_vectors_are_written_through_a_link(folder: Path, victim: Path) -> None:
    before = victim.read_bytes()
    shard = only(folder / "vectors")
    whole = shard.read_bytes()
    shard.unlink()
    shard.symlink_to("../../victim")
    store = Store.open(folder)
    for attempt in (lambda: fill(store, {"/new.txt": "new"}), lambda: store.read(dense)):
        with pytest.raises(IndexFormatError, match=f"{shard.name} {ELSEWHERE}"):
            attempt()
    assert ELSEWHERE in store.check()[0] and victim.read_bytes() == before
    shard.unlink()
    shard.write_bytes(whole)
    fill(store, {"/new.txt": "new"})
    assert contents(store) == contents_of({**FILES, "/new.txt": "new"}) and store.check() == []
    store.close()


def test_no_index_deletes_the_vectors_of_another_through_a_link(tmp_path: Path, folder: Path) -> None:
    store = create(tmp_path / "other")
    (tmp_path / "other" / "vectors").symlink_to(folder / "vectors")
    with pytest.raises(IndexFormatError, match=f"vectors {ELSEWHERE}"):
        fill(store, {"/new.txt": "new"})
    store.close()
    with pytest.raises(IndexFormatError, match=f"vectors {ELSEWHERE}"):
        Store.open(tmp_path / "other")
    store = Store.open(folder)
    assert contents(store) == contents_of(FILES) and store.check() == []
    store.close()


def test_the_whole_folder_may_be_a_link(tmp_path: Path, folder: Path) -> None:
    shutil.move(folder, tmp_path / "large disk")
    folder.symlink_to(tmp_path / "large disk")
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").symlink_to(tmp_path / "empty")
    create(tmp_path / "new").close()
    for place, before in ((folder, FILES), (tmp_path / "new", {})):
        store = Store.open(place)
        fill(store, {"/new.txt": "new"})
        assert contents(store) == contents_of({**before, "/new.txt": "new"}) and store.check() == []
        store.close()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_told_and_not_waited_for(folder: Path, make) -> None:
    shard = only(folder / "vectors")
    shard.unlink()
    make(shard)
    store = Store.open(folder)
    with pytest.raises(IndexFormatError, match=f"{shard.name} {ELSEWHERE}"):
        store.read(dense)
    assert ELSEWHERE in store.check()[0]
    (folder / "lock").unlink()
    os.mkfifo(folder / "lock")
    with pytest.raises(IndexFormatError, match=f"lock {ELSEWHERE}"):
        fill(store, {"/new.txt": "new"})
    store.close()
