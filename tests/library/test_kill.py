"""An indexing run that is killed leaves each document as it was or as it is, and the next run completes it."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from diffembed.errors import DataError
from diffembed.library.index import Index
from tests.library.conftest import contents_of, rows, write

INDEXER = """
    import json, os, sys
    import torch
    torch.set_num_threads(1)
    from diffembed import Embedder
    from diffembed.index import writer
    from diffembed.library import indexing
    from diffembed.library.update import index_files
    # A commit after each document, and many compactions, to be killed in.
    indexing.COMMIT_S, writer.LEAST_COMPACTED = -1.0, 20
    embedder = Embedder.load(sys.argv[1], "cpu", sys.argv[2])
    print("ready", flush=True)
    for line in sys.stdin:
        tree, to = json.loads(line)
        child = os.fork()
        if not child:
            try:
                index_files([tree], to, model=embedder, chunk_tokens=48, precision=sys.argv[3])
            except BaseException as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Loads torch once; each run is a process of its own."""
KEYS = [f"{number:02}.txt" for number in range(14)] + [f"rows.jsonl#{number}" for number in range(10)]
EVERYTHING = 100_000

State = dict[str, int | None]
"""Key -> version of each document; None where there is none."""


class Indexer:
    """Starts indexing runs, and kills them."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def run(self, tree: Path, to: Path, *, kill_after_s: float | None = None) -> int:
        """The exit status of a run; -9 for one that was killed."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([str(tree), str(to)]) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())


@contextmanager
def an_indexer(model: Path, dtype: str, precision: str) -> Iterator[Indexer]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INDEXER), str(model), dtype, precision],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield Indexer(process)


def text_of(version: int) -> str:
    """A few chunks, with the version in each."""
    return "".join(f"v{version} the fox and the dog {line}.\n" for line in range(5 + version % 7)).strip()


def put_on_disk(tree: Path, state: State) -> None:
    texts = {key: None if version is None else text_of(version) for key, version in state.items()}
    files = {key: text and text.encode() for key, text in texts.items() if "#" not in key}
    in_rows = [{"_id": key.partition("#")[2], "text": text} for key, text in texts.items() if "#" in key and text]
    write(tree, {"there is always one.txt": b"v0 the fox", **files, "rows.jsonl": rows(*in_rows) if in_rows else None})


def found_in(to: Path) -> State:
    """What a search in each mode sees, which must be whole documents."""
    try:
        index = Index.open(to)
    except DataError as error:
        assert "there is no index" in error.message or "never finished" in error.message
        return dict.fromkeys(KEYS)
    with closing(index):
        assert index.check() == []
        seen = []
        for mode in ("dense", "lexical"):
            texts: dict[str, str] = {}
            for hit in sorted(index.search("fox", EVERYTHING, mode, details=False), key=lambda hit: hit.start):
                name = Path(hit.path).name
                key = name if hit.id == hit.path else f"{name}#{hit.id}"
                texts[key] = texts.get(key, "") + hit.text
            texts.pop("there is always one.txt", None)
            seen.append(dict.fromkeys(KEYS) | {key: version_of(text) for key, text in texts.items()})
    assert seen[0] == seen[1]
    return seen[0]


def version_of(text: str) -> int:
    version = int(text.split()[0].removeprefix("v"))
    assert text == text_of(version), "a document is there in part, or two versions of it are mixed"
    return version


def change(draw: random.Random, state: State, found: State) -> None:
    """Give some documents another version or none, and at least one a version that the index doesn't have."""
    for key in draw.sample(KEYS, draw.randrange(len(KEYS))):
        state[key] = draw.choice([None, draw.randrange(20), draw.randrange(20)])
    key = draw.choice(KEYS)
    state[key] = draw.choice([version for version in range(20) if version not in (state[key], found[key])])


def survive(
    folder: Path, model: Path, *, kills: int, seed: int, dtype: str = "float32", precision: str = "float16"
) -> None:
    """Index a folder that changes, with many kills at random moments, and look at what is left."""
    draw = random.Random(seed)
    tree, to = folder / "tree", folder / "index"
    state: State = {key: draw.randrange(20) for key in KEYS}
    put_on_disk(tree, state)
    with an_indexer(model, dtype, precision) as indexer:
        started = time.monotonic()
        assert indexer.run(tree, folder / "whole") == 0
        usual_s = time.monotonic() - started
        before, killed, attempts = dict.fromkeys(KEYS), 0, 0
        while killed < kills and attempts < 6 * kills:
            assert before != state, "there is nothing to be killed in"
            status = indexer.run(tree, to, kill_after_s=draw.uniform(0.0, usual_s))
            killed, attempts = killed + (status == -signal.SIGKILL), attempts + 1
            found = found_in(to)
            if status == 0:
                assert found == state
            else:
                assert status == -signal.SIGKILL
                assert [key for key in KEYS if found[key] not in (before[key], state[key])] == []
            change(draw, state, found)
            put_on_disk(tree, state)
            before = found
        assert killed >= kills, "too few kills to mean anything"
        assert indexer.run(tree, to) == 0
        assert indexer.run(tree, folder / "anew") == 0
    assert found_in(to) == state
    assert contents_of(to) == contents_of(folder / "anew")


@pytest.mark.slow
def test_an_index_survives_kills_at_random_moments(tmp_path: Path, model: Path) -> None:
    survive(tmp_path, model, kills=6, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "float16"), ("float32", "int8")])
def test_an_index_of_other_numbers_survives_kills_too(tmp_path: Path, model: Path, dtype: str, precision: str) -> None:
    survive(tmp_path, model, kills=3, seed=3, dtype=dtype, precision=precision)


def test_every_chunk_says_its_version() -> None:
    """Else half a document would look like a whole one, and mixed ones like one."""
    for version in range(20):
        assert version_of(text_of(version)) == version
        with pytest.raises(AssertionError):
            version_of(text_of(version).rpartition("\n")[0])
