"""What the machine is, and what follows from it."""

import mmap
from pathlib import Path

import pytest
import torch

from diffembed import hardware


@pytest.fixture
def flags(monkeypatch):
    def pretend(*flags: str) -> None:
        monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))

    return pretend


@pytest.mark.parametrize(
    ("found", "dtype"),
    [
        (("avx512f", "amx_bf16"), torch.bfloat16),
        (("avx512f", "avx512_bf16"), torch.bfloat16),
        (("avx2", "avx512f", "amx_int8"), torch.float32),
        ((), torch.float32),
    ],
)
def test_bf16_where_the_cpu_multiplies_it(flags, found, dtype):
    flags(*found)
    assert hardware.default_dtype("cpu") == dtype
    assert hardware.default_dtype_name("cpu") == str(dtype).removeprefix("torch.")
    assert hardware.default_dtype("cuda") == hardware.default_dtype("cuda:1") == torch.bfloat16
    assert hardware.default_dtype("mps") == torch.float32


@pytest.mark.parametrize(
    ("text", "cpus"), [("150000 100000", 1), ("50000 100000", 1), ("200000 100000", 2), ("max 100000", 7)]
)
def test_a_cgroup_quota_counts(monkeypatch, tmp_path, text, cpus):
    (tmp_path / "cpu.max").write_text(text + "\n")
    monkeypatch.setattr(hardware, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(7)), raising=False)
    assert hardware.cpu_quota() == cpus


def test_no_quota_where_there_is_no_cgroup(monkeypatch):
    monkeypatch.setattr(hardware, "CPU_MAX", Path("/nowhere/cpu.max"))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert hardware.cpu_quota() == 3


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, ("3", "3")),
        ({"MKL_NUM_THREADS": "1"}, ("3", "1")),
        ({"OPENBLAS_NUM_THREADS": "8", "MKL_NUM_THREADS": "9"}, ("8", "9")),
        ({"OMP_NUM_THREADS": "1"}, (None, None)),
    ],
)
def test_numpy_keeps_to_the_quota_unless_it_is_told_otherwise(monkeypatch, said, wanted):
    monkeypatch.setattr(hardware, "cpu_quota", lambda: 3)
    environment = dict(said)
    monkeypatch.setattr("os.environ", environment)
    hardware.limit_blas_threads()
    assert (environment.get("OPENBLAS_NUM_THREADS"), environment.get("MKL_NUM_THREADS")) == wanted


def test_threads_keep_to_the_quota(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(hardware, "cpu_quota", lambda: 1)
        hardware.limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_description_names_what_a_record_needs():
    facts = hardware.describe()
    assert {"python", "torch", "diffembed", "cpus", "threads", "gpu"} <= facts.keys()
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_matrix_rate_is_measured_once(monkeypatch):
    monkeypatch.setattr(hardware, "CPU_SIDE", 128)
    monkeypatch.setattr(hardware, "RATE_SECONDS", 0.02)
    hardware.matrix_rate.cache_clear()
    before = torch.random.get_rng_state()
    rate = hardware.matrix_rate("cpu", torch.float32)
    assert 1e7 < rate < 1e15, "operations per second of a CPU"
    monkeypatch.setattr(hardware, "CPU_SIDE", 0)  # would fail
    assert hardware.matrix_rate("cpu", torch.float32) == rate
    assert torch.equal(torch.random.get_rng_state(), before), "a training's random numbers must not depend on it"
    hardware.matrix_rate.cache_clear()


def test_the_matrix_rate_is_that_of_the_fastest_products(monkeypatch):
    """A clock of our own: two rounds of four products take 2 ms and 1 ms."""
    monkeypatch.setattr(hardware, "CPU_SIDE", 10)
    monkeypatch.setattr(hardware, "RATE_SECONDS", 0.01)
    # The start; is there time, begin, end; is there time, begin, end; there is none.
    times = iter([0.0, 0.0, 0.0, 0.002, 0.004, 0.004, 0.005, 0.020])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    assert hardware.matrix_rate.__wrapped__("cpu", torch.float32) == pytest.approx(2_000 / (0.001 / 4))


def test_memory_used_is_what_the_process_holds(monkeypatch, tmp_path):
    before = hardware.memory_used("cpu")
    assert before > 50e6, "torch alone takes that much"
    with mmap.mmap(-1, 2**26) as block:  # not from what this process has freed and kept
        block.write(b"1" * 2**26)
        assert hardware.memory_used("cpu") - before > 0.9 * 2**26
    monkeypatch.setattr(hardware, "STATM", tmp_path / "none")
    assert hardware.memory_used("cpu") >= before, "elsewhere: the most that it ever had"
