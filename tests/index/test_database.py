"""What an index asks of SQLite and of the disk."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_indexes import contents, contents_of, create, fill, run_script

from diffembed.errors import ConfigError
from diffembed.index import database, shards, words
from diffembed.index.store import Store


@pytest.fixture
def unasked() -> Iterator[None]:
    """SQLite has not been looked at yet."""
    database.expect_sqlite.cache_clear()
    yield
    database.expect_sqlite.cache_clear()


@pytest.mark.usefixtures("unasked")
def test_a_sqlite_that_is_too_old_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    for attempt in (create, Store.open):
        with pytest.raises(ConfigError, match=r"an index needs 3\.27"):
            attempt(tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.usefixtures("unasked")
def test_a_sqlite_without_fts5_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "SCHEMA", words.SCHEMA.replace("fts5", "fts99"))
    for attempt in (create, Store.open):
        with pytest.raises(ConfigError, match="FTS5.*no such module"):
            attempt(tmp_path / "index")
    assert not (tmp_path / "index").exists()


class Recorder:
    """What is made to last, and when something is committed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.said: list[str | os.stat_result] = []
        fsync, execute = os.fsync, database.Connection.execute

        def recording_fsync(file: int) -> None:
            self.said.append(os.fstat(file))
            fsync(file)

        def recording_execute(db: database.Connection, statement: str, *values: Any) -> sqlite3.Cursor:
            if statement == "COMMIT":
                self.said.append(statement)
            return execute(db, statement, *values)

        patch.setattr(os, "fsync", recording_fsync)
        patch.setattr(database.Connection, "execute", recording_execute)

    def before_commit(self, number: int = 1) -> list[tuple[int, int]]:
        """What lasts when the commit of that number comes, in the order in which it was made to."""
        ends = [place for place, said in enumerate(self.said) if said == "COMMIT"]
        found = [(said.st_dev, said.st_ino) for said in self.said[: ends[number - 1]] if not isinstance(said, str)]
        self.said.clear()
        return found


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


def test_names_last_before_what_is_in_them_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    folder = tmp_path / "new" / "deep" / "index"
    recorder = Recorder(monkeypatch)
    store = create(folder, precision="int8")
    assert {identity(path) for path in (folder, *list(folder.parents)[:3])} <= set(recorder.before_commit())

    fill(store, {"/a.txt": "one\ntwo\nthree"})
    lasting, vectors = recorder.before_commit(), folder / "vectors"
    shown = [identity(path) for path in vectors.iterdir()]
    assert len(shown) == 2 and {*shown, identity(vectors), identity(folder)} <= set(lasting)
    # A file first, then its name: else a name could last without what it names.
    assert lasting.index(shown[0]) < len(lasting) - 1 - lasting[::-1].index(identity(vectors))

    # One more row goes on in the file, the next begins another one.
    fill(store, {"/b.txt": "four"})
    assert sorted(recorder.before_commit()) == sorted(shown)
    fill(store, {"/c.txt": "five"})
    new = {identity(path) for path in vectors.iterdir()} - set(shown)
    assert len(new) == 2 and {*new, identity(vectors)} == set(recorder.before_commit())
    store.close()


def test_a_killed_writer_leaves_no_name_that_does_not_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders that it made are there, and their names may be lost with the power all the same."""
    store = create(tmp_path / "index")
    fill(store, {"/a.txt": "one"})
    (shard,) = (tmp_path / "index" / "vectors").iterdir()
    store.close()
    shutil.rmtree(tmp_path / "index")
    store = create(tmp_path / "index")
    with store.writing() as hand:
        left = hand._shards.path("float16", 0)
        assert left.name != shard.name
        left.parent.mkdir()
        left.write_bytes(b"rows of a writer that was killed")
        recorder = Recorder(monkeypatch)
        vectors = np.ones((1, 4), np.float32)
        hand.put("/a.txt", "a", digest="d", title="", text="one", spans=[(0, 3)], vectors=vectors)
        hand.commit()
    wanted = {identity(path) for path in (left, left.parent, tmp_path / "index")}
    assert wanted <= set(recorder.before_commit())
    store.close()


READER = """
import os, sys
from pathlib import Path
from typing import Any
import numpy as np
import numpy.ma
from small_indexes import contents, contents_of, fill
from diffembed.index.store import Store

folder = Path(sys.argv[1])
stranger = 65534 if os.getuid() == 0 else os.getuid()


def as_reader():
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    os.setresuid(stranger, stranger, 0) if os.getuid() == 0 else None


def as_owner():
    os.setresuid(0, 0, 0) if stranger == 65534 else None
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def change(version):
    as_owner()
    store = Store.open(folder)
    fill(store, {"/a.txt": version}, compact=True)
    store.close()
    as_reader()


as_reader()
store = Store.open(folder)
assert not store._db.sees_changes
for version in ("first", "second", "third"):
    change(version)
    assert contents(store) == contents_of({"/a.txt": version}), version
    assert len(store.read(lambda snapshot: snapshot.lexical([version], 5)).rows[0]) == 1
    assert store.check() == []
# Where somebody else has it open, SQLite's files are there, and it is read as usual.
as_owner()
other = Store.open(folder)
fill(other, {"/a.txt": "fourth"})
as_reader()
assert contents(store) == contents_of({"/a.txt": "fourth"})
assert store._db.sees_changes
store.close()
other.close()
as_owner()
print("read")
"""


def test_a_reader_who_may_not_write_sees_what_others_write(reachable: Path) -> None:
    store = create(reachable / "index")
    fill(store, {"/a.txt": "zeroth"})
    store.close()
    assert run_script(READER, reachable / "index") == (0, "read\n")


def test_a_reader_who_may_not_write_never_sees_two_commits_mixed(reachable: Path) -> None:
    """SQLite takes the file for one that never changes, and reads on when it did."""
    store = create(reachable / "index")
    fill(store, {f"/{number}.txt": f"zeroth {number} " + "pad " * 999 for number in range(40)})
    store.close()
    setup = READER.partition("as_reader()\nstore =")[0]
    assert run_script(setup + MIXING, reachable / "index") == (0, "read\n")


MIXING = """
from diffembed.errors import DataError

as_reader()
store = Store.open(folder)
assert not store._db.sees_changes
versions = iter(range(9))


def look(snapshot, times):
    files = snapshot.files()
    if len(calls) < times:
        calls.append(snapshot)
        change(f"version {next(versions)}")
    return files.get("/a.txt"), [row for row in snapshot.contents() if row[0] == "/a.txt"]


for times, last in ((1, 0), (2, 2)):
    calls = []
    text = f"version {last}"
    assert store.read(lambda snapshot: look(snapshot, times)) == (f"of {text}", contents_of({"/a.txt": text}))
calls = []
try:
    store.read(lambda snapshot: look(snapshot, 9))
except DataError as error:
    assert "in use: it was written while it was read" in error.message, error
    assert len(calls) == 3
    print("read")
as_owner()
"""


def test_a_log_that_may_not_be_read_is_not_left_out(reachable: Path) -> None:
    """What was committed last is in it: without it an old state would be shown, or half of one."""
    script = """
import os, sys
from pathlib import Path
from typing import Any
from small_indexes import contents
from diffembed.errors import DataError
from diffembed.index.store import Store
folder = Path(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
try:
    print(contents(Store.open(folder)))
except DataError as error:
    print(error.message)
"""
    folder = reachable / "index"
    store = create(folder)
    fill(store, {"/a.txt": "one"})
    copy = shutil.copytree(folder, reachable / "copy")
    store.close()
    assert (copy / "index.sqlite-wal").stat().st_size
    (copy / "index.sqlite-shm").unlink()
    (copy / "index.sqlite-wal").chmod(0)
    copy.chmod(0o555)
    status, said = run_script(script, copy)
    copy.chmod(0o755)
    assert status == 0 and "cannot read or write" in said, said


def test_numbers_in_the_header_tell_an_index(tmp_path: Path) -> None:
    create(tmp_path / "index").close()
    with closing(sqlite3.connect(tmp_path / "index" / "index.sqlite")) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"dfem"),)
    # Where `file` and others look for it.
    assert (tmp_path / "index" / "index.sqlite").read_bytes()[68:72] == b"dfem"
    assert contents(store := Store.open(tmp_path / "index")) == contents_of({})
    store.close()
