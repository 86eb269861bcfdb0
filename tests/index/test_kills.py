import os
import signal
import time
from pathlib import Path

import pytest
from small_indexes import contents, contents_of, create, fill, run_script, start_script

from diffembed.index import shards, writer
from diffembed.index.store import Store

OLD = {f"/{number}.txt": f"old fox {number}\nold hen" for number in range(6)}
NEW = {f"/{number}.txt": f"new fox {number}\nnew hen" for number in range(5)} | {"/6.txt": "new ox"}
BOTH = OLD | NEW

# Puts NEW over OLD and is killed at the given call of something, before it, in its middle, or after it.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from small_indexes import fill
from test_kills import NEW
from diffembed.index import database, shards, store, words, writer

folder, place, nth, compact = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
shards.SHARD_ROWS, writer.COPY_ROWS, writer.LEAST_COMPACTED = 4, 3, 1
calls = 0


def is_now():
    global calls
    calls += 1
    return calls == nth


def die():
    os.kill(os.getpid(), signal.SIGKILL)


add, write_at, execute = words.add, shards._write_at, database.Connection.execute


def dying_add(db, rows):
    add(db, rows)
    if place == "put" and is_now():
        die()


def dying_write_at(path, offset, data):
    if place == "write" and is_now():
        write_at(path, offset, data[: len(data) // 2 + 1])
        die()
    write_at(path, offset, data)


def dying_execute(self, statement, *values):
    is_place = statement == "COMMIT" and place.endswith("COMMIT") and is_now()
    if is_place and place == "before COMMIT":
        die()
    result = execute(self, statement, *values)
    if is_place:
        die()
    return result


words.add, shards._write_at, database.Connection.execute = dying_add, dying_write_at, dying_execute
fill(store.Store.open(folder), NEW, compact=compact)
"""


def small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shards, "SHARD_ROWS", 4)
    patch.setattr(writer, "COPY_ROWS", 3)
    patch.setattr(writer, "LEAST_COMPACTED", 1)


# Place, at which call, whether the run compacts, whether what is new must be there.
POINTS = [
    ("put", 4, False, False),
    ("write", 1, False, False),
    ("write", 4, False, False),
    ("before COMMIT", 1, False, False),
    ("after COMMIT", 1, False, True),
    ("write", 9, True, True),
    ("before COMMIT", 2, True, True),
    ("after COMMIT", 2, True, True),
]


@pytest.mark.parametrize(("place", "nth", "compact", "is_new"), POINTS)
def test_a_killed_writer_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, nth: int, compact: bool, is_new: bool
) -> None:
    small(monkeypatch)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    folder = tmp_path / "index"
    store = create(folder, precision="int8")
    fill(store, OLD)
    status, said = run_script(SCRIPT, folder, place, nth, compact)
    assert status == -signal.SIGKILL, said
    expected = contents_of(BOTH if is_new else OLD)
    # The reader that was there all the time, and one that comes now.
    for each in (store, Store.open(folder)):
        assert contents(each) == expected
        assert each.check() == []
        each.close()
    store = Store.open(folder)
    fill(store, NEW, compact=True)
    assert contents(store) == contents_of(BOTH) and store.check() == []
    assert len({path.name[:13] for path in (folder / "vectors").iterdir()}) == 1
    store.close()


def test_a_killed_maker_leaves_no_index_and_is_no_obstacle(tmp_path: Path) -> None:
    script = SCRIPT.partition("fill(store")[0].replace("from test_kills import NEW\n", "")
    making = "from small_indexes import create\ncreate(folder)\n"
    folder = tmp_path / "index"
    status, said = run_script(script + making, folder, "before COMMIT", 1, False)
    assert status == -signal.SIGKILL, said
    assert (folder / "index.sqlite").is_file() and not Store.is_begun(folder)
    store = create(folder)
    assert Store.is_begun(folder)
    fill(store, OLD)
    assert contents(store) == contents_of(OLD) and store.check() == []
    store.close()


ENDLESS = """
import itertools, sys
from pathlib import Path
from small_indexes import fill
from diffembed.index.store import Store
from diffembed.index import shards, writer
shards.SHARD_ROWS, writer.COPY_ROWS, writer.LEAST_COMPACTED = 4, 3, 1
store = Store.open(Path(sys.argv[1]))
for version in itertools.count():
    fill(store, {f"/{name}.txt": f"version {version} of {name}" for name in "abc"}, compact=True)
    print(version, flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    folder = tmp_path / "index"
    create(folder).close()
    for wait_s in (0.0, 0.003, 0.011):
        with start_script(ENDLESS, folder) as process:
            assert process.stdout is not None
            for _ in range(3):
                process.stdout.readline()
            time.sleep(wait_s)
            os.kill(process.pid, signal.SIGKILL)
            said = process.stdout.read().split()
        last = int(said[-1]) if said else 2
        store = Store.open(folder)
        # The last that was told, or the next, whose commit was done and not yet told.
        versions = [{f"/{name}.txt": f"version {last + more} of {name}" for name in "abc"} for more in (0, 1)]
        assert contents(store) in [contents_of(files) for files in versions]
        assert store.check() == []
        store.close()
