"""How fast an index is made and searched, and how large it is. The last line of stdout is one JSON object.

    python benchmarks/index.py --sizes 1000 10000 100000 1000000 --text FOLDER --files 10000

- Making: files of --text (the running Python's library when absent) until --megabytes are read, with the model loaded
  beforehand; the share of the time that the model takes; the same again when nothing has changed.
- Asking: `diffembed search` from a cold start, each time a new process, and `Index.search` in a process that goes on,
  with everything that a person waits for: the question's vector, best sentences, words.
- Unchanged: a folder of --files small files is indexed, then again.
- Searching: indexes of --sizes chunks with random unit vectors and texts drawn from the words of the library, of which
  the share --dead was removed again; each searched in a process of its own, with vectors for questions and no model.
  `first` is the first query after opening, in a system that has just written the files.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffembed import Embedder, Index, hardware
from diffembed.data.docstrings import library_folder, read_docstrings
from diffembed.index import fusion
from diffembed.index.snapshot import Settings, Snapshot
from diffembed.index.store import Store
from diffembed.library.update import index_files

DIMS = 384
CHUNK_WORDS = 120
MADE_AT_ONCE = 10_000
MODES = ("dense", "lexical", "hybrid")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.child:
        print(json.dumps(_search(Path(options.child), options)))
        return 0
    hardware.limit_threads()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="diffembed-bench-") as scratch:
        folder = Path(scratch)
        facts: dict[str, Any] = {"making": _make(folder, options)}
        facts["asking"] = _ask_as_a_person(folder / "made", options)
        if options.files:
            facts["unchanged"] = _unchanged(folder, options.files)
        (folder / "words.json").write_text(json.dumps(_words()))
        facts["searching"] = [_measure(folder, size, options) for size in options.sizes]
    print(json.dumps(facts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=[1_000, 10_000, 100_000], metavar="N")
    parser.add_argument("--precision", choices=("float32", "float16", "int8"), default="float16")
    parser.add_argument("--queries", type=int, default=50, metavar="N")
    parser.add_argument("--starts", type=int, default=20, metavar="N", help="cold starts of each mode")
    parser.add_argument(
        "--dead", type=float, default=0.1, metavar="X", help="share of the chunks that is removed again"
    )
    parser.add_argument("--text", type=Path, metavar="FOLDER")
    parser.add_argument("--megabytes", type=float, default=2.0, metavar="X")
    parser.add_argument("--files", type=int, default=10_000, metavar="N")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where indexes are made; the temporary folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def _make(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    source, copied = options.text or library_folder(), 0
    for path in sorted(source.rglob("*.*")):
        if path.suffix in (".py", ".md", ".txt", ".rst") and "site-packages" not in path.parts and path.is_file():
            target = folder / "text" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            copied += path.stat().st_size
            if copied > options.megabytes * 1e6:
                break
    embedder = Embedder.load()
    account = index_files([folder / "text"], folder / "made", model=embedder)
    start = time.perf_counter()
    index_files([folder / "text"], folder / "made")
    again = time.perf_counter() - start
    facts = {
        "files": account.files_read,
        "megabytes": round(copied / 1e6, 2),
        "tokens": account.tokens,
        "chunks": account.chunks,
        "seconds": round(account.seconds, 2),
        "files_per_second": round(account.files_read / account.seconds, 1),
        "tokens_per_second": round(account.tokens / account.seconds),
        "model_share": round(account.model_seconds / account.seconds, 3),
        "unchanged_seconds": round(again, 3),
    }
    print("making", facts, flush=True)
    return facts


def _ask_as_a_person(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the command, and milliseconds of `Index.search`, over the index that `_make` made."""
    rng, words = random.Random(2), _words()
    questions = [" ".join(rng.choices(words, k=8)) for _ in range(options.queries)]
    facts: dict[str, Any] = {}
    for mode in MODES:
        times = []
        for question in questions[: options.starts]:
            command = [sys.executable, "-m", "diffembed", "search", str(folder), question, "--mode", mode]
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        facts[f"{mode}_cold_s"] = {"p50": _percentile(times, 50, 2), "p95": _percentile(times, 95, 2)}
    with Index.open(folder) as index:
        index.search(questions[0])
        for mode in MODES:
            times = []
            for question in questions:
                start = time.perf_counter()
                index.search(question, mode=mode)
                times.append(1000 * (time.perf_counter() - start))
            facts[f"{mode}_warm_ms"] = {"p50": _percentile(times, 50), "p95": _percentile(times, 95)}
    print("asking", facts, flush=True)
    return facts


def _percentile(values: Sequence[float], share: int, digits: int = 1) -> float:
    return round(float(np.percentile(values, share)), digits)


def _unchanged(folder: Path, count: int) -> dict[str, Any]:
    rng = random.Random(0)
    words = _words()
    for number in range(count):
        path = folder / "many" / f"{number % 100:02}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(rng.choices(words, k=20)))
    first = index_files([folder / "many"], folder / "many-index")
    command = [sys.executable, "-m", "diffembed", "index", str(folder / "many"), "--to", str(folder / "many-index")]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    facts = {
        "files": count,
        "first_seconds": round(first.seconds, 1),
        "again_seconds_median": round(sorted(times)[2], 2),
        "again_seconds_worst": round(max(times), 2),
    }
    print("unchanged", facts, flush=True)
    return facts


def _words() -> list[str]:
    return [word for passage in read_docstrings() for word in passage.text.split()]


def _measure(folder: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Make an index of `size` chunks and search it in a fresh process."""
    to = folder / f"index-{size}"
    settings = Settings(
        model="builtin",
        fingerprint="",
        dims=DIMS,
        precision=options.precision,
        chunk_tokens=256,
        contextual=True,
        dtype="float32",
    )
    store = Store.create(to, settings)
    rng, words = random.Random(size), json.loads((folder / "words.json").read_text())
    numbers = np.random.default_rng(size)
    start = time.perf_counter()
    with store.writing() as writer:
        for first in range(0, size, MADE_AT_ONCE):
            for number in range(first, min(first + MADE_AT_ONCE, size)):
                # A run of text from a random place: words keep their company, and frequent ones are frequent.
                place = rng.randrange(len(words) - CHUNK_WORDS)
                text = " ".join(words[place : place + CHUNK_WORDS])
                vector = numbers.standard_normal((1, DIMS), np.float32)
                vector /= np.linalg.norm(vector)
                writer.put("", str(number), digest="", title="", text=text, spans=[(0, len(text))], vectors=vector)
            writer.commit()
    made = time.perf_counter() - start
    with store.writing() as writer:
        for number in rng.sample(range(size), int(options.dead * size)):
            writer.drop_document("", str(number))
        writer.commit()
    count = store.read(lambda snapshot: snapshot.counts())
    store.close()
    command = [sys.executable, __file__, "--child", str(to), "--queries", str(options.queries)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    facts = {
        "chunks": size,
        "dead": int(options.dead * size),
        "precision": options.precision,
        "megabytes": round(count.size_bytes / 1e6, 1),
        "written_seconds": round(made, 1),
        **found,
    }
    print("searching", facts, flush=True)
    shutil.rmtree(to)
    return facts


def _search(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Latencies in ms and the peak memory of this process, which holds no model: queries are vectors here."""
    rng, numbers = random.Random(1), np.random.default_rng(1)
    words = json.loads((folder.parent / "words.json").read_text())
    before = _peak_mb()
    store = Store.open(folder)
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(options.queries + 1):
        vector = numbers.standard_normal((1, DIMS)).astype(np.float32)
        vector /= np.linalg.norm(vector)
        text = " ".join(rng.choices(words, k=8))
        for mode in MODES:
            start = time.perf_counter()
            store.read(lambda snapshot, mode=mode, vector=vector, text=text: _ask(snapshot, mode, vector, text))
            times[mode].append(1000 * (time.perf_counter() - start))
    facts: dict[str, Any] = {}
    for mode, (first, *others) in times.items():
        facts[f"{mode}_ms"] = {
            "first": round(first, 1),
            "p50": _percentile(others, 50),
            "p95": _percentile(others, 95),
        }
    return {**facts, "peak_mb": round(_peak_mb()), "peak_before_mb": round(before)}


def _ask(snapshot: Snapshot, mode: str, vector: np.ndarray, text: str) -> None:
    depth = fusion.CANDIDATES
    if mode == "dense":
        found = snapshot.dense(vector, 10)
    elif mode == "lexical":
        found = snapshot.lexical([text], 10)
    else:
        found = fusion.hybrid(snapshot.dense(vector, depth), snapshot.lexical([text], depth), 10)
    snapshot.chunks([int(row) for row in found.rows[0] if row >= 0])


def _peak_mb() -> float:
    """The largest resident set of this program; `getrusage` counts what its parent had before it started, too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
