import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from small_indexes import DIMS, contents, create, fill, put, run_script

from diffembed.errors import ConfigError, DataError, DiffembedError, IndexFormatError
from diffembed.index import shards
from diffembed.index.failures import translating
from diffembed.index.shards import PRECISIONS
from diffembed.index.snapshot import Snapshot
from diffembed.index.store import Store

FILES = {f"/{number}.txt": f"fox {number}\n日本語 hen\n" + "long " * 300 for number in range(12)}


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with dead rows, closed, all of it in its main files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_ROWS", 20)
        folder = tmp_path_factory.mktemp("sound") / "index"
        store = create(folder)
        fill(store, FILES)
        fill(store, {"/0.txt": FILES["/0.txt"]})
        store.close()
    assert not (folder / "index.sqlite-wal").exists()
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "index")


def dense(snapshot: Snapshot, where: str | None = None) -> None:
    snapshot.chunks(snapshot.dense(np.ones((2, DIMS), np.float32), 5, where=where).rows[0].tolist())


def lexical(snapshot: Snapshot) -> None:
    snapshot.chunks(snapshot.lexical(["fox hen"], 5).rows[0].tolist())


def dense_below(snapshot: Snapshot) -> None:
    dense(snapshot, "*.txt")


LOOKS: list[Callable[[Snapshot], object]] = [
    dense,
    dense_below,
    lexical,
    Snapshot.contents,
    Snapshot.files,
    Snapshot.counts,
    lambda snapshot: snapshot.documents("/1.txt"),
]


def rewrite(store: Store) -> None:
    with store.writing() as hand:
        hand.twin(f"of {FILES['/2.txt']}")
        hand.drop_file("/3.txt")
        put(hand, "/4.txt", "/4.txt", "an ox")
        hand.commit()


def use(folder: Path) -> list[str]:
    """Use an index in every way; what went wrong. Anything but one of our errors goes through."""
    said: list[str] = []

    def attempt(action: Callable[[], object]) -> None:
        try:
            action()
        except DiffembedError as error:
            assert error.hint
            said.append(error.message)

    attempt(lambda: Store.is_begun(folder))
    attempt(lambda: Store.check_new(folder))
    try:
        store = Store.open(folder)
    except DiffembedError as error:
        return [error.message]
    for look in LOOKS:
        attempt(lambda look=look: store.read(look))
    said += store.check()
    attempt(lambda: rewrite(store))
    store.close()
    return said


def test_a_sound_index_is_sound(folder: Path) -> None:
    assert use(folder) == []


def spoil(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute(statement)
        db.commit()


def test_what_is_no_database(folder: Path, tmp_path: Path) -> None:
    database = folder / "index.sqlite"
    whole = database.read_bytes()
    for data in (
        b"hello\n" * 500,
        bytes(10_000),
        whole[:100],
        whole[: len(whole) // 2],
        whole[: len(whole) // 4096 * 4096 - 4096],
    ):
        database.write_bytes(data)
        for left in (folder / "index.sqlite-wal", folder / "index.sqlite-shm"):
            left.unlink(missing_ok=True)
        assert use(folder)
    database.write_bytes(b"")
    with pytest.raises(DataError, match="never finished"):
        Store.open(folder)
    assert not Store.is_begun(folder)


def test_any_page_that_is_overwritten_is_found(sound: Path, tmp_path: Path) -> None:
    whole = (sound / "index.sqlite").read_bytes()
    for number, start in enumerate(range(0, len(whole), 4096)):
        folder = shutil.copytree(sound, tmp_path / str(number))
        (folder / "index.sqlite").write_bytes(whole[:start] + b"\xa5" * 4096 + whole[start + 4096 :])
        assert use(folder), number
        shutil.rmtree(folder)


@examples(40)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), data=st.data())
def test_any_byte_that_is_changed_is_told_or_harmless(sound: Path, place: float, flip: int, data) -> None:
    folder = sound.parent / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    database = folder / "index.sqlite"
    whole = bytearray(database.read_bytes())
    whole[int(place * len(whole))] ^= flip
    database.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_ROWS", 20)
        use(folder)


def test_missing_and_short_vectors(folder: Path) -> None:
    (shard,) = (folder / "vectors").glob("*-00001.bin")
    whole = shard.read_bytes()
    for damage, why in (
        (lambda: shard.write_bytes(whole[:-1]), "cut short"),
        (shard.unlink, "is missing"),
        (lambda: shutil.rmtree(shard.parent), "is missing"),
    ):
        damage()
        store = Store.open(folder)
        for look in (dense, dense_below, Snapshot.contents):
            with pytest.raises(IndexFormatError, match=why):
                store.read(look)
        # Words need no vectors.
        store.read(lexical)
        assert why in store.check()[0]
        with pytest.raises(IndexFormatError, match=why):
            rewrite(store)
        store.close()


def test_vectors_that_changed_are_found(folder: Path) -> None:
    (shard,) = (folder / "vectors").glob("*-00000.bin")
    data = bytearray(shard.read_bytes())
    data[9] ^= 1
    shard.write_bytes(data)
    store = Store.open(folder)
    # Of a document that is gone: its place is not used again, and no other's vectors are concerned.
    assert store.check() == ["36 vectors from 0 on are not as they were written"]
    data[9 + 3 * 2 * DIMS] ^= 1
    shard.write_bytes(data)
    assert store.check()[1:] == ["document '/1.txt' of '/1.txt' is not as it was written"]
    store.close()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_vectors_that_are_no_numbers_are_a_damage(tmp_path: Path, precision: str, value: float) -> None:
    store = create(tmp_path / "index", precision=precision)
    fill(store, FILES)
    query_BE = np.ones((1, DIMS), np.float32)
    for shard in sorted((store.folder / "vectors").glob("*-00000.bin")):
        whole = shard.read_bytes()
        if "-int8-" in shard.name:
            shard.write_bytes(whole[:DIMS] + np.float32(value).tobytes() + whole[DIMS + 4 :])
        else:
            data = np.dtype(precision if precision == "float32" else "float16").type(value).tobytes()
            shard.write_bytes(data + whole[len(data) :])
        with pytest.raises(IndexFormatError, match="vectors hold what is no number"):
            store.read(lambda snapshot: snapshot.dense(query_BE, 5))
        assert "36 vectors from 0 on are not as they were written" in store.check()
        shard.write_bytes(whole)
    # A question that is none is no fault of the index.
    with pytest.raises(DataError, match="a score is not finite"):
        store.read(lambda snapshot: snapshot.dense(value * query_BE, 5))
    store.close()


ORDERS = {
    "rows": ["UPDATE chunks SET row = row + 1000", "UPDATE chunks SET row = 1041 - row"],
    "chunks": [
        "UPDATE chunks SET document = 1000 WHERE document = 3",
        "UPDATE chunks SET document = 3 WHERE document = 4",
        "UPDATE chunks SET document = 4 WHERE document = 1000",
    ],
    "documents": [
        "UPDATE documents SET id = 1000 WHERE id = 3",
        "UPDATE documents SET id = 3 WHERE id = 4",
        "UPDATE documents SET id = 4 WHERE id = 1000",
    ],
}


@pytest.mark.parametrize("what", ORDERS)
def test_vectors_of_another_document_are_found(folder: Path, what: str) -> None:
    """Where each is there, as it was written, and belongs to somebody."""
    for statement in ORDERS[what]:
        spoil(folder / "index.sqlite", statement)
    store = Store.open(folder)
    assert "document '/2.txt' of '/2.txt' is not as it was written" in store.check()
    store.close()


ALTERED = "document '/2.txt' of '/2.txt' is not as it was written"


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE chunks SET row = 1000 WHERE row = 3", "1 chunks without a vector"),
        ("DELETE FROM dead WHERE row = 0", "1 rows that are neither dead nor a chunk's"),
        ("INSERT INTO dead SELECT 5", "1 rows both dead and a chunk's"),
        ("DELETE FROM appends WHERE first = 0", "36 rows that no append accounts for"),
        ("DELETE FROM documents WHERE id = 3", "3 chunks without a document"),
        ("DELETE FROM files WHERE path = '/5.txt'", "1 documents without a file"),
        ("UPDATE chunks SET stop = 9999 WHERE row = 7", "1 chunks that end outside their document"),
        ("DELETE FROM words_docsize WHERE id = 9", "1 chunks whose words are not indexed"),
        ("DELETE FROM chunks WHERE id = 9", "1 chunks that are gone and whose words are not"),
        ("INSERT INTO dead VALUES (1000)", "1 dead rows that were never there"),
        ("INSERT INTO dead VALUES (-1)", "1 dead rows that were never there"),
        ("UPDATE files SET unreadable = '' WHERE path = '/5.txt'", "1 documents of files that could not be read"),
        ("UPDATE documents SET text = replace(text, 'fox', 'fix') WHERE id = 3", ALTERED),
        ("UPDATE documents SET title = 'A' WHERE id = 3", ALTERED),
        ("UPDATE documents SET digest = 'of' WHERE id = 3", ALTERED),
        ("UPDATE documents SET content = '' WHERE id = 3", ALTERED),
        ("UPDATE documents SET text = CAST(text AS BLOB) WHERE id = 3", ALTERED),
        ("UPDATE chunks SET start = 1 WHERE document = 3 AND start = 0", ALTERED),
        ("UPDATE chunks SET line = 9 WHERE document = 3 AND start = 0", ALTERED),
        ("UPDATE chunks SET byte = byte + 1 WHERE document = 3 AND line = 2", ALTERED),
        ("UPDATE documents SET title = 'A'", "2 more documents are not as they were written"),
    ],
)
def test_what_does_not_add_up_is_found(folder: Path, statement: str, why: str) -> None:
    spoil(folder / "index.sqlite", statement)
    store = Store.open(folder)
    assert why in store.check()
    store.close()
    use(folder)


def test_hits_that_belong_to_nothing_are_told(folder: Path) -> None:
    spoil(folder / "index.sqlite", "DELETE FROM chunks WHERE document = 3")
    store = Store.open(folder)
    with pytest.raises(IndexFormatError, match="vectors that belong to no chunk"):
        store.read(lambda snapshot: snapshot.dense(np.ones((1, DIMS), np.float32), 99))
    with pytest.raises(IndexFormatError, match="chunks that it does not have"):
        store.read(lambda snapshot: snapshot.chunks(snapshot.lexical(["2"], 5).rows[0, :1].tolist()))
    store.close()


@pytest.mark.parametrize("change", ["DELETE FROM documents WHERE id = 3", "DELETE FROM files WHERE path = '/2.txt'"])
def test_chunks_of_no_document_are_told(folder: Path, change: str) -> None:
    spoil(folder / "index.sqlite", change)
    store = Store.open(folder)
    with pytest.raises(IndexFormatError, match="whose documents it does not have"):
        store.read(lambda snapshot: snapshot.chunks([6, 7, 8]))
    store.close()


CHUNK_CHANGES = [
    "byte = byte + 1",
    "byte = 10000",
    "byte = -1",
    "start = stop",
    "stop = 9223372036854775807",
    "line = ''",
]


@pytest.mark.parametrize("change", [*CHUNK_CHANGES, "start = start - 10000"])
def test_chunks_that_are_not_where_they_say_are_told(folder: Path, change: str) -> None:
    # Its first line ends in characters of three bytes.
    spoil(folder / "index.sqlite", f"UPDATE chunks SET {change} WHERE document = 3 AND line = 2")
    store = Store.open(folder)
    with pytest.raises(IndexFormatError):
        store.read(lambda snapshot: snapshot.chunks(range(1, 37)))
    store.close()


FIXED = ["model", "fingerprint", "dtype", "dims", "precision", "chunk_tokens", "contextual", "format", "token"]
SETTINGS = [*FIXED, "rows", "generation", "commits"]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_missing_or_make_no_sense(folder: Path, name: str) -> None:
    for statement in (
        f"UPDATE settings SET value = x'00ff' WHERE key = '{name}'",
        f"UPDATE settings SET value = -3.5 WHERE key = '{name}'",
        f"DELETE FROM settings WHERE key = '{name}'",
    ):
        spoil(folder / "index.sqlite", statement)
        with pytest.raises(IndexFormatError):
            Store.open(folder)
        assert use(folder)


@pytest.mark.parametrize(
    ("name", "value"), [("dims", 2**40), ("dims", 0), ("precision", "'int4'"), ("rows", -1), ("token", "'../../..'")]
)
def test_settings_out_of_range(folder: Path, name: str, value: object) -> None:
    spoil(folder / "index.sqlite", f"UPDATE settings SET value = {value} WHERE key = '{name}'")
    with pytest.raises(IndexFormatError, match="is damaged"):
        Store.open(folder)


def test_more_rows_than_there_are(folder: Path) -> None:
    for rows in (61, 2**62):
        spoil(folder / "index.sqlite", f"UPDATE settings SET value = {rows} WHERE key = 'rows'")
        store = Store.open(folder)
        for look in (dense, dense_below):
            with pytest.raises(IndexFormatError):
                store.read(look)
        store.close()
        assert use(folder)


def test_a_format_of_another_version(folder: Path) -> None:
    spoil(folder / "index.sqlite", "UPDATE settings SET value = 1 WHERE key = 'format'")
    with pytest.raises(IndexFormatError, match="has format 1, this version reads 3"):
        Store.open(folder)
    # Also where that format had other tables.
    spoil(folder / "index.sqlite", "ALTER TABLE documents ADD COLUMN language TEXT")
    with pytest.raises(IndexFormatError, match="has format 1, this version reads 3"):
        Store.open(folder)


ENDLESS = (
    "CREATE VIEW settings AS WITH RECURSIVE c(key, value) AS "
    "(SELECT 'format', 3 UNION ALL SELECT key, value FROM c) SELECT key, value FROM c"
)


@pytest.mark.parametrize(
    ("statements", "names"),
    [
        (["CREATE TRIGGER t AFTER UPDATE ON settings BEGIN DELETE FROM files; END"], "'t'"),
        (["DROP TABLE settings", ENDLESS], "'settings'"),
        (["CREATE TABLE notes (text)"], "'notes'"),
        (["DROP INDEX chunks_of_document"], "'chunks_of_document'"),
        (["DROP TABLE dead", "CREATE TABLE dead (row)"], "'dead'"),
        (["ALTER TABLE files ADD COLUMN size INTEGER"], "'files'"),
    ],
)
def test_tables_that_were_not_made_so_are_told_before_they_are_read(
    folder: Path, statements: list[str], names: str
) -> None:
    for statement in statements:
        spoil(folder / "index.sqlite", statement)
    with pytest.raises(IndexFormatError, match=f"its tables are not as they were made: {names}\n"):
        Store.open(folder)


CREATE = "CREATE TABLE notes (text TEXT NOT NULL, number INTEGER UNIQUE)"
GLOB = "SELECT 1 FROM notes WHERE text GLOB ?"
INSERT = "INSERT INTO notes VALUES (?, 1)"


@pytest.mark.parametrize(
    ("statement", "values", "kind", "why"),
    [
        (GLOB, ["*" * 60_000], ConfigError, "pattern is too long"),
        (INSERT, ["x" * 2_000], DataError, "too big for SQLite"),
        ("SELECT zeroblob(5000)", [], DataError, "too big for SQLite"),
        ("SELECT * FROM absent", [], IndexFormatError, "damaged: no such table"),
        ("SELECT absent FROM notes", [], IndexFormatError, "damaged: no such column"),
        (INSERT, ["x"], IndexFormatError, "damaged: UNIQUE constraint"),
        (INSERT, [None], IndexFormatError, "damaged: NOT NULL constraint"),
        ("SELECT CAST(x'ff' AS TEXT)", [], IndexFormatError, "damaged: Could not decode"),
        ("SELEKT 1", [], DataError, "could not do its work on the index.*syntax error"),
        ("SELECT json('{')", [], DataError, "could not do its work on the index"),
        ("SELECT ?", ["\ud800"], DataError, "half a surrogate pair"),
    ],
)
def test_an_error_of_sqlite_is_told_as_what_it_is(statement: str, values: list, kind: type, why: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(CREATE)
        db.execute(INSERT, ["first"])
        if "too big" in why:
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000)
        with pytest.raises(kind, match=why) as told, translating(Path("x")):
            db.execute(statement, values).fetchall()
    assert told.value.hint
    # Only of an index that is damaged does anybody say that it should be deleted.
    assert ("delete" in told.value.hint) is (kind is IndexFormatError)


def test_a_mistake_of_ours_is_no_fault_of_the_index() -> None:
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(sqlite3.ProgrammingError), translating(Path("x")):
        db.execute("SELECT ?", [])


def test_a_pattern_that_is_too_long(folder: Path) -> None:
    store = Store.open(folder)
    with pytest.raises(ConfigError, match="pattern is too long"):
        store.read(lambda snapshot: snapshot.lexical(["fox"], 5, where="*" * 60_000))
    store.close()


def test_what_belongs_to_somebody_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "vectors" / "weights.bin").write_text("mine")
    fill(store := Store.open(folder), {"/new.txt": "a cow"})
    store.close()
    mine = tmp_path / "mine"
    for name in ("weights.bin", "0001-float16-00000.bin"):
        shutil.rmtree(mine, ignore_errors=True)
        (mine / "vectors").mkdir(parents=True)
        (mine / "vectors" / name).write_text("mine")
        with pytest.raises(DataError, match=f"vectors holds '{name}'"):
            create(mine)
    shutil.rmtree(mine)
    mine.mkdir()
    (mine / "vectors").write_text("mine")
    with pytest.raises(DataError, match="holds 'vectors'"):
        create(mine)
    (mine / "vectors").unlink()
    for change in ("CREATE TABLE settings (key, value)", "PRAGMA application_id = 5"):
        (mine / "index.sqlite").unlink(missing_ok=True)
        spoil(mine / "index.sqlite", change)
        before = (mine / "index.sqlite").read_bytes()
        assert not Store.is_begun(mine)
        for attempt in (create, Store.open):
            with pytest.raises(DataError, match="holds 'index.sqlite', which belongs to no index"):
                attempt(mine)
        assert {path.name: path.read_bytes() for path in mine.iterdir()} == {"index.sqlite": before}
    assert (folder / "vectors" / "weights.bin").read_text() == "mine"


def test_folders_that_are_none_of_ours(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    nowhere = {
        tmp_path / "file": "is a file",
        tmp_path / "mine": "holds 'diary.txt'",
        tmp_path / "file" / "index": "cannot read or write",
        tmp_path / "link": "cannot read or write",
        tmp_path / ("x" * 300): "cannot read or write",
    }
    for place, why in nowhere.items():
        with pytest.raises(DataError, match=why):
            create(place)
        with pytest.raises(DataError, match=f"{place.name[:20]}"):
            Store.open(place)
    with pytest.raises(DataError, match="there is an index"):
        create(folder)
    with pytest.raises(DataError, match="there is no index"):
        Store.open(tmp_path / "absent")
    assert not Store.is_begun(tmp_path / "mine") and not (tmp_path / "absent").exists()
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["diary.txt"]
    assert use(folder) == []


def test_entries_of_another_kind_than_ours(tmp_path: Path) -> None:
    for name, why in (("index.sqlite", "cannot read or write"), ("lock", "holds 'lock', which belongs to no index")):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(DataError, match=why):
            create(tmp_path / name)
    for name in ("vectors", "lock"):
        store = create(tmp_path / f"later {name}")
        (tmp_path / f"later {name}" / "lock").unlink()
        if name == "vectors":
            (tmp_path / "later vectors" / "vectors").write_text("a file")
        else:
            (tmp_path / "later lock" / "lock").mkdir()
        with pytest.raises(DataError, match="cannot read or write"):
            fill(store, FILES)
        assert contents(store) == []
        store.close()


def test_a_writer_that_never_ends_makes_others_say_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffembed.index.database.BUSY_S", 0.05)
    store = Store.open(folder)
    with closing(sqlite3.connect(folder / "index.sqlite", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="in use"):
            rewrite(store)
        assert len(contents(store)) == 36
    rewrite(store)
    store.close()


READ_ONLY = """
import os, sys
from pathlib import Path
import numpy as np
import numpy.ma  # np.unique wants it later, when root's files can't be read any more
from small_indexes import DIMS, create, fill
from diffembed.errors import DataError
from diffembed.index.store import Store

if os.getuid() == 0:
    os.setuid(65534)
os.chdir("/")
folder, hidden = map(Path, sys.argv[1:])
store = Store.open(folder)
assert store.read(lambda snapshot: snapshot.dense(np.ones((1, DIMS), np.float32), 5)).rows.shape == (1, 5)
assert len(store.read(lambda snapshot: snapshot.contents())) == 36
assert store.check() == []
attempts = [
    lambda: fill(store, {"/new.txt": "new"}),
    lambda: create(folder / "inner"),
    lambda: Store.open(hidden / "index"),
    lambda: Store.is_begun(hidden / "index"),
    lambda: create(hidden / "index"),
]
for attempt in attempts:
    try:
        attempt()
    except DataError as error:
        assert "ermission denied" in error.message, error
        print("told", end=" ")
"""


def test_a_folder_that_may_only_be_read(sound: Path, reachable: Path) -> None:
    folder, hidden = shutil.copytree(sound, reachable / "index"), reachable / "hidden"
    shutil.copytree(sound, hidden / "index")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    hidden.chmod(0)
    try:
        status, said = run_script("import diffembed.index.shards as s; s.SHARD_ROWS = 20\n" + READ_ONLY, folder, hidden)
        assert (status, said) == (0, "told " * 5)
    finally:
        hidden.chmod(0o755)
        for path in (folder, folder / "vectors"):
            path.chmod(0o755)


FULL_DISK = """
import resource, sys
from pathlib import Path
from small_indexes import contents, contents_of, fill
from diffembed.errors import DataError
from diffembed.index import shards
from diffembed.index.store import Store

shards.SHARD_ROWS = 10**6
folder, room, count, width = Path(sys.argv[1]), *map(int, sys.argv[2:])
store = Store.open(folder)
before = contents(store)
big = {"/0.txt": "\\n".join("x " * width + str(number) for number in range(count))}
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
try:
    fill(store, big)
except DataError as error:
    print(error.message)
assert contents(store) == before
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert store.check() == []
fill(store, big)
assert contents(store) == contents_of(big) and store.check() == []
"""


@pytest.mark.parametrize(
    ("room", "count", "width", "why"),
    [(40_000, 6_000, 1, "File too large"), (100_000, 1, 100_000, "disk")],
    ids=["vectors", "database"],
)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, room: int, count: int, width: int, why: str) -> None:
    store = create(tmp_path / "index")
    fill(store, {"/0.txt": "old\nolder"})
    store.close()
    status, said = run_script(FULL_DISK, tmp_path / "index", room, count, width)
    assert status == 0, said
    assert said.count("\n") == 1 and "cannot read or write" in said and why in said
