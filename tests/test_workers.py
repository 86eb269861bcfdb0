"""A pool of processes gives the vectors of one embedder, whatever happens to the processes."""

import fcntl
import gc
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.backbone.adapter import Adapter, save_adapter
from diffembed.embedder import layout, worker, workers
from diffembed.embedder.report import Encoded
from diffembed.embedder.workers import Workers
from diffembed.errors import CheckpointError, ConfigError, DataError
from diffembed.readout.spec import Readout, masks
from tests.tiny_embedders import LIMIT, LONG, ODD, TOKENIZER, WORDS, make_backbone

TEXTS = [*ODD, LONG, *(" ".join(WORDS[n % 7 : n % 16]) for n in range(60)), LONG[:300]]
NO_VECTOR = "<|pad|>"
"""The models of these tests have none for it."""
SECONDS = 30
"""More than anything here should take."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers") / "model"
    backbone = make_backbone()
    with torch.no_grad():
        backbone.embed_tokens.weight[TOKENIZER.pad_id] = torch.nan
    Embedder.from_backbone(backbone, TOKENIZER, max_tokens=LIMIT, dtype="float32", device="cpu").save(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(folder) -> Embedder:
    return Embedder.load(folder, "cpu", "float32")


@pytest.fixture(scope="module", autouse=True)
def _two_cpus() -> Iterator[None]:
    """So that each of two workers has one thread, as this process has: then the bits are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "cpu_quota", lambda: 2)
        yield


@pytest.fixture(scope="module")
def pool(folder) -> Iterator[Workers]:
    """For tests that harm no worker."""
    with Workers(folder, ["cpu", torch.device("cpu")], dtype="float32") as pool:
        pids = pool.pids
        yield pool
        assert pool.pids == pids, "a worker died"


def part_by_part(embedder: Embedder, texts: list[str], num_workers: int = 2, **options) -> np.ndarray:
    parts = list(workers._cut(texts, len(texts), num_workers))
    return np.concatenate([embedder.embed(part.texts, **options).vectors for part in parts])


def assert_same(found: Encoded, embedder: Embedder, texts: list[str], num_workers: int = 2, **options) -> None:
    wanted = embedder.embed(texts, **options)
    assert np.array_equal(found.vectors, part_by_part(embedder, texts, num_workers, **options))
    assert found.vectors.dtype == wanted.vectors.dtype and found.vectors.shape == wanted.vectors.shape
    if wanted.vectors.dtype == np.float32:
        assert np.abs(found.vectors - wanted.vectors).max(initial=0.0) < 1e-6
    for name in ("texts", "tokens", "truncated", "windowed", "windows", "empty"):
        assert getattr(found.report, name) == getattr(wanted.report, name)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def settle(pool: Workers) -> None:
    """Until every worker has loaded its model and answered for calls that were broken off."""
    wait_until(lambda: {each.state for each in pool._workers} == {"idle"} or not pool.embed(WORDS))


def freeze(pid: int) -> None:
    """Stop a process, and wait until no thread of it can read what is sent from now on."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_until(lambda: all(" T " in (task / "stat").read_text() for task in tasks.iterdir()))


def has_mail(pid: int) -> bool:
    """Whether bytes wait in the stdin of a process that was stopped."""
    with open(f"/proc/{pid}/fd/0", "rb", buffering=0) as pipe:
        return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0] > 0


# The same vectors


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"role": "query", "instruction": "a judge's fox 🙂"},
        {"role": None, "dims": 8, "overflow": "truncate"},
        {"precision": "int8"},
        {"precision": "binary", "dims": 16},
    ],
)
def test_vectors_and_report_are_those_of_an_embedder(pool, embedder, options) -> None:
    with pytest.warns(match="were cut") if "overflow" in options else threading.Lock():
        embedder._has_warned = False
        assert_same(pool.embed(TEXTS, **options), embedder, TEXTS, **options)
    assert pool.embed(TEXTS[:1], **options).report.seconds > 0


def test_another_readout(pool, embedder) -> None:
    plain = pool.embed(WORDS, "query").vectors
    for changes in (
        {"readout": Readout(pooling="last")},
        {"readout": masks(2, 3)},
        {"prompts": {"query": "a fox<|query|>"}},
        {"prompts": {}, "template": "judge {text} quietly"},
    ):
        other = embedder.with_readout(changes.get("readout"), **{k: v for k, v in changes.items() if k != "readout"})
        found = pool.embed(WORDS, "query", **changes)
        assert found.vectors.shape != plain.shape or np.abs(found.vectors - plain).max() > 1e-3
        assert_same(found, other, WORDS, role="query")
    assert np.array_equal(pool.embed(WORDS, "query").vectors, plain)
    with pytest.raises(CheckpointError) as wanted:
        embedder.with_readout(template="no place for it")
    with pytest.raises(CheckpointError) as found:
        pool.embed(WORDS, template="no place for it")
    assert found.value.message == wanted.value.message


@pytest.mark.parametrize(("precision", "shape"), [("float32", (0, 32)), ("binary", (0, 4))])
def test_no_texts(pool, embedder, precision, shape) -> None:
    found = pool.embed([], precision=precision)
    assert found.vectors.shape == shape
    assert_same(found, embedder, [], precision=precision)
    with pytest.raises(ConfigError, match="role is 'passage'"):
        pool.embed([], "passage")


def test_parts_are_bounded_cover_all_and_are_shared_out(monkeypatch) -> None:
    monkeypatch.setattr(workers, "PART_TEXTS", 10)
    monkeypatch.setattr(workers, "PART_CHARACTERS", 100)
    texts = ["a" * (n * 7 % 40) for n in range(300)] + [""] * 25 + ["b" * 500]
    for total in (None, len(texts)):
        parts = list(workers._cut(iter(texts), total, 2))
        assert [text for part in parts for text in part.texts] == texts
        assert [part.first for part in parts] == list(np.cumsum([0] + [len(part.texts) for part in parts])[:-1])
        assert max(len(part.texts) for part in parts) == 10
        assert all(len(part.texts) == 1 or sum(map(len, part.texts)) <= 100 for part in parts)
    assert [part.texts for part in workers._cut(texts[:8], 8, 2)] == [[text] for text in texts[:8]]


def test_texts_are_read_as_they_are_needed(pool, embedder, monkeypatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_TEXTS", 8)
    monkeypatch.setattr(workers, "PART_TEXTS", 4)
    texts, num_read, seen = TEXTS * 5, 0, []

    def read() -> Iterator[str]:
        nonlocal num_read
        for text in texts:
            num_read += 1
            yield text

    def progress(done: int, total: int | None) -> None:
        seen.append((num_read - done, total))

    found = pool.embed(read(), progress=progress)
    assert np.abs(found.vectors - embedder.embed(texts).vectors).max() < 1e-6
    assert len(seen) >= len(texts) // 4
    # In the workers' hands, one part read ahead, and the rest of its chunk and the text that ended it.
    assert max(ahead for ahead, _ in seen) <= 2 * 4 + 4 + 8 + 1
    assert {total for _, total in seen} == {None}


def test_progress_counts_up_to_all(pool) -> None:
    seen = []
    pool.embed(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 2 and seen == sorted(set(seen))
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def test_threads_share_a_pool(pool, embedder) -> None:
    wanted, found = [part_by_part(embedder, TEXTS[n:]) for n in range(6)], {}

    def work(n: int) -> None:
        found[n] = pool.embed(TEXTS[n:]).vectors

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert all(np.array_equal(found[n], wanted[n]) for n in range(6))


def test_arguments_of_load_reach_the_workers(folder, tmp_path) -> None:
    name = "layers.0.mlp.down_proj.weight"
    pair = torch.ones(1, 48) / 9, torch.ones(32, 1)
    save_adapter(Adapter(rank=1, alpha=1, pairs={name: pair}), tmp_path)
    options = {"dtype": "bfloat16", "direction": "forward", "adapter": tmp_path}
    wanted = Embedder.load(folder, "cpu", **options)
    with Workers(os.path.relpath(folder), ["cpu"], **options) as pool:
        assert_same(pool.embed(WORDS), wanted, WORDS, 1)
    for changes in ({"dtype": "float32"}, {"direction": "both"}, {"adapter": None}):
        other = Embedder.load(folder, "cpu", **{**options, **changes}).embed(WORDS)
        assert np.abs(other.vectors - wanted.embed(WORDS).vectors).max() > 1e-4, "each can be told"


def test_workers_on_the_cpu_share_it(pool, monkeypatch) -> None:
    for pid in pool.pids:
        assert b"RAYON_NUM_THREADS=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    monkeypatch.setattr(workers, "cpu_quota", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "31")
    devices = ["cpu", "cuda:0", "cpu", "cpu"]
    threads = [workers._environment(device, devices)["OMP_NUM_THREADS"] for device in devices]
    assert threads == ["2", "31", "2", "2"]
    assert workers._environment("cpu", ["cpu"] * 8)["OMP_NUM_THREADS"] == "1"


@pytest.mark.gpu
def test_two_workers_on_one_gpu(folder) -> None:
    wanted = Embedder.load(folder, "cuda:0").embed(TEXTS)
    with Workers(folder, ["cuda:0", "cuda:0"]) as pool:
        found = pool.embed(TEXTS)
    assert (found.vectors * wanted.vectors).sum(1).min() > 0.999
    assert found.report.tokens == wanted.report.tokens


# Errors


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ([*WORDS, LONG, *WORDS, "", LONG], {"overflow": "error"}),
        ([*WORDS, "", *WORDS, LONG], {"overflow": "error"}),
        ([*WORDS, NO_VECTOR, *WORDS], {}),
        ([*WORDS, "\ud800"], {}),
        ([*WORDS, None], {}),
        ("a bare string", {}),
        (np.array("no list"), {}),
        (WORDS, {"role": "passage"}),
        (WORDS, {"dims": 33}),
        (WORDS, {"role": "query", "instruction": "\ud800"}),
        (WORDS, {"role": "query", "instruction": 7}),
        (WORDS, {"role": "query", "instruction": LONG}),
        (WORDS, {"overflow": "cut"}),
    ],
)
def test_errors_are_those_of_an_embedder(pool, embedder, texts, options) -> None:
    with pytest.raises((ConfigError, DataError, CheckpointError)) as wanted:
        embedder.embed(texts, **options)
    with pytest.raises(wanted.type) as found:
        pool.embed(texts, **options)
    assert (found.value.message, found.value.hint) == (wanted.value.message, wanted.value.hint)
    assert_same(pool.embed(WORDS), embedder, WORDS)


def test_an_option_that_json_cannot_say(pool) -> None:
    with pytest.raises(ConfigError, match="int64"):
        pool.embed(WORDS, dims=np.int64(8))


@pytest.mark.parametrize("devices", [[], "cpu", None, 2])
def test_no_list_of_devices(folder, devices) -> None:
    with pytest.raises(ConfigError, match="devices is"):
        Workers(folder, devices)


def test_a_model_that_cannot_be_loaded(folder, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="there is no model folder"):
        Workers(tmp_path / "nowhere", ["cpu"])
    for options in ({"device": "warp"}, {"device": "cpu", "dtype": "float8"}):
        with pytest.raises(ConfigError) as wanted:
            Embedder.load(folder, **options)
        with pytest.raises(ConfigError) as found:
            Workers(folder, [options["device"]], dtype=options.get("dtype"))
        assert (found.value.message, found.value.hint) == (wanted.value.message, wanted.value.hint)


# Calls that are broken off


def test_progress_may_cancel(pool, embedder) -> None:
    class Enough(Exception):
        pass

    def progress(done: int, total: int | None) -> None:
        raise Enough

    for _ in range(3):
        with pytest.raises(Enough):
            pool.embed(TEXTS, "query", progress=progress)
        assert_same(pool.embed(WORDS), embedder, WORDS)


def test_texts_may_fail(pool, embedder, monkeypatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_TEXTS", 8)

    def texts() -> Iterator[str]:
        yield from WORDS * 3
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        pool.embed(texts())
    assert_same(pool.embed(WORDS), embedder, WORDS)


def test_a_call_within_a_call_is_refused(pool, embedder) -> None:
    with pytest.raises(ConfigError, match="calls it again"):
        pool.embed(pool.embed([text]).vectors or text for text in WORDS)
    assert_same(pool.embed(WORDS), embedder, WORDS)


def test_ctrl_c_ends_the_call_and_no_worker(pool, embedder) -> None:
    pids = pool.pids

    def interrupt() -> None:
        try:
            wait_until(lambda: all(map(has_mail, pids)))
        finally:
            for pid in (*pids, os.getpid()):
                os.kill(pid, signal.SIGINT)

    settle(pool)
    for pid in pids:
        freeze(pid)
    thread = threading.Thread(target=interrupt)
    # A process that a shell put into the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pool.embed(TEXTS)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert_same(pool.embed(WORDS), embedder, WORDS)
    assert pool.pids == pids


@pytest.mark.slow
def test_a_message_that_was_broken_off_is_no_answer_to_the_next_call(folder, embedder, monkeypatch) -> None:
    def read_a_bit(pipe) -> None:
        pipe.read(5)
        raise KeyboardInterrupt

    with Workers(folder, ["cpu"], dtype="float32") as pool:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(worker, "read_message", read_a_bit)
            pool.embed(TEXTS)
        assert_same(pool.embed(WORDS), embedder, WORDS, 1)


# Workers that die


def test_a_worker_that_dies_is_reported_its_work_redone_and_started_again_once(folder, embedder, capfd) -> None:
    with Workers(folder, ["cpu", "cpu"], dtype="float32") as pool:
        victim, other = pool.pids
        freeze(victim)  # so that it dies with a part in its hands

        def kill(done: int, total: int | None) -> None:
            if is_running(victim):
                os.kill(victim, signal.SIGKILL)

        with pytest.warns(UserWarning) as caught:
            assert_same(pool.embed(TEXTS, progress=kill), embedder, TEXTS)
        (said,) = (str(each.message) for each in caught)
        assert said == (
            "the worker on cpu died (exit status -9, SIGKILL); it is started again, this once; "
            "the 9 texts from number 0 on are done again"
        )
        assert caught[0].filename == __file__, "it points to the caller"
        assert len(pool.pids) == 2 and other in pool.pids and victim not in pool.pids

        # As it is idle, and for the second time.
        settle(pool)
        os.kill(pool.pids[0], signal.SIGKILL)
        # A main thread is a zombie while the others still end and hold the pipe open; waiting waits for all of them.
        os.waitid(os.P_PID, pool.pids[0], os.WEXITED | os.WNOWAIT)
        with pytest.warns(UserWarning) as caught:
            assert_same(pool.embed(TEXTS), embedder, TEXTS)
        assert [str(each.message) for each in caught] == ["the worker on cpu died (exit status -9, SIGKILL)"]
        assert pool.pids == [other]
        assert_same(pool.embed(TEXTS), embedder, TEXTS)
    assert capfd.readouterr() == ("", ""), "workers say nothing of their own"


@pytest.mark.slow
def test_a_part_that_ends_two_workers_ends_the_call(folder, embedder) -> None:
    with Workers(folder, ["cpu", "cpu"], dtype="float32") as pool:
        victims = pool.pids

        def kill() -> None:
            for pid in victims:
                wait_until(lambda pid=pid: has_mail(pid))
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)

        for pid in victims:
            freeze(pid)
        thread = threading.Thread(target=kill)
        thread.start()
        with (
            pytest.warns(match="the worker on cpu died .*started again"),
            pytest.raises(DataError, match="the 1 texts from number 0 on ended 2 workers, .* -15, SIGTERM") as caught,
        ):
            pool.embed(["the quick fox"])
        thread.join()
        assert "memory" in caught.value.hint
        assert not {*pool.pids} & {*victims}
        assert_same(pool.embed(TEXTS), embedder, TEXTS)


def test_no_worker_is_left(folder) -> None:
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.02):
            for pid in pool.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with Workers(folder, ["cpu"], dtype="float32") as pool:
        thread = threading.Thread(target=kill)
        thread.start()
        try:
            with (
                pytest.warns() as caught,
                pytest.raises(ConfigError, match="no worker is left on cpu"),
            ):
                wait_until(lambda: not pool.embed(TEXTS))
        finally:
            is_over.set()
            thread.join()
        first, second = (str(each.message) for each in caught)
        assert "started again" in first and second == "the worker on cpu died while loading (exit status -9, SIGKILL)"
        with pytest.raises(ConfigError, match="no worker is left"):
            pool.embed([])


# Their end


def test_closed(folder) -> None:
    with Workers(folder, ["cpu"], dtype="float32") as pool:
        (pid,) = pool.pids

        def close(done: int, total: int | None) -> None:
            pool.close()

        with pytest.raises(ConfigError, match="were closed"):
            pool.embed(TEXTS, progress=close)
        assert not is_running(pid) and pool.pids == []
        with pytest.raises(ConfigError, match="were closed") as caught:
            pool.embed([])
        assert caught.value.hint
    pool.close()


@pytest.mark.slow
def test_closed_by_another_thread_and_forgotten(folder) -> None:
    pool = Workers(folder, ["cpu", "cpu"], dtype="float32")
    forgotten = Workers(folder, ["cpu"], dtype="float32")
    pids, others = pool.pids, forgotten.pids
    del forgotten
    gc.collect()
    assert not any(map(is_running, others))

    def close() -> None:
        wait_until(lambda: all(map(has_mail, pids)))
        pool.close()

    for pid in pids:
        freeze(pid)
    thread = threading.Thread(target=close)
    thread.start()
    with pytest.raises(ConfigError, match="were closed"):
        pool.embed(TEXTS)
    thread.join()
    assert not any(map(is_running, pids))


SCRIPT = """
import sys
from diffembed.embedder.workers import Workers

pool = Workers(sys.argv[1], ["cpu", "cpu"], dtype="float32")
print(*pool.pids, flush=True)
print(len(pool.embed(["the quick brown fox " * int(sys.argv[2])]).vectors))
"""


@pytest.fixture
def run_script(folder, tmp_path) -> Iterator[Callable[[int], subprocess.Popen]]:
    """A script without a guard for `__main__`, run where a file has the name of a module."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "numpy.py").write_text("raise SystemExit('this is not numpy')")
    running = []

    def run(num_times: int) -> subprocess.Popen:
        running.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", str(tmp_path / "script.py"), str(folder), str(num_times)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path / "here",
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "error"},
            )
        )
        return running[0]

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_workers_end_with_a_script_that_ends(run_script) -> None:
    script = run_script(1)
    out, err = script.communicate(timeout=2 * SECONDS)
    assert (script.returncode, err) == (0, "")
    *pids, count = map(int, out.split())
    assert len(pids) == 2 and count == 1
    assert not any(map(is_running, pids))


def test_workers_end_with_a_script_that_is_killed(run_script) -> None:
    script = run_script(300_000)
    pids = [int(pid) for pid in script.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_running, pids))
    time.sleep(1)  # so that one is at work, for seconds, and one has nothing to do
    script.kill()
    script.wait()
    wait_until(lambda: not any(map(is_running, pids)))
