"""What this machine is, and the choices that follow from it. torch is imported only when asked."""

import ctypes
import os
import platform
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

# Either makes bf16 matrix products several times faster than fp32 ones: with AVX512-BF16 encoding is 2.9 times as fast
# (records/encode.md).
BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})

# Sides of the square product whose speed is a device's matrix rate: large enough for all its units, and soon done.
CPU_SIDE, GPU_SIDE = 1_024, 8_192
# How long the measurement goes on, in seconds, and of how many products at once.
RATE_SECONDS, PRODUCTS_AT_ONCE = 0.15, 4

# Microseconds of CPU time per period that this process's control group gets (Linux, cgroup v2).
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
# Pages of memory that this process has: in all, and resident (Linux, man 5 proc).
STATM = Path("/proc/self/statm")


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of the first CPU as Linux lists them; empty where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware (AMX or AVX512-BF16)."""
    return bool(BF16_FLAGS & cpu_flags())


def default_dtype(device: str) -> "torch.dtype":
    """The dtype for weights on a device: bf16 on a GPU and on CPUs that multiply it in hardware, else fp32."""
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16
    return torch.bfloat16 if device == "cpu" and has_fast_bf16() else torch.float32


def default_dtype_name(device: str) -> Literal["float32", "bfloat16"]:
    """`default_dtype` as configurations spell it."""
    return "bfloat16" if str(default_dtype(device)).endswith("bfloat16") else "float32"


def default_device() -> str:
    """`cuda` where a GPU is usable, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def cpu_quota() -> int:
    """CPUs this process may use: the scheduler's affinity, cut by a cgroup quota where one is set (at least 1)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_MAX.read_text(encoding="utf-8").split()
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the affinity stands
    return allowed


def limit_threads() -> None:
    """Let torch use no more threads than this process may use CPUs; more of them would wait for each other."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), cpu_quota()))


def limit_blas_threads() -> None:
    """Let numpy use no more threads than this process may use CPUs; call it before numpy is imported.

    What the environment says already stands.
    """
    if "OMP_NUM_THREADS" in os.environ:  # which they obey unless told otherwise
        return
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(cpu_quota()))


@cache
def matrix_rate(device: str, dtype: "torch.dtype") -> float:
    """The fastest that this process multiplies large square matrices, in floating-point operations per second.

    Measured, since data sheets know neither the clock nor the share of the machine that this process has. It takes a
    fifth of a second, once for each device and dtype. A multiplication with its addition counts as two operations.
    """
    import torch

    is_gpu = device.startswith("cuda")
    side = GPU_SIDE if is_gpu else CPU_SIDE
    left, right = (
        torch.empty(side, side).normal_(generator=torch.Generator().manual_seed(seed)).to(device, dtype)
        for seed in (0, 1)
    )
    product = left @ right  # the first one chooses kernels and takes memory
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < RATE_SECONDS:
        begun = _time_on(device)
        for _ in range(PRODUCTS_AT_ONCE):
            torch.mm(left, right, out=product)
        best = min(best, (_time_on(device) - begun) / PRODUCTS_AT_ONCE)
    return 2 * side**3 / best


def _time_on(device: str) -> float:
    """Seconds, once the device has done its work."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory_used(device: str) -> int:
    """Bytes: of a GPU the most that torch has had there at once, else what this process has in memory now."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the most that it ever had
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks instead of giving them back to the kernel; a no-op elsewhere.

    Training asks for the same large buffers every step, and the page faults of fresh ones cost about as much as the
    element-wise arithmetic on them. The price is memory that stays with the process, so only commands call this, and
    nothing does at import. The numbers are glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX (malloc.h).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((-1, 2**31 - 1), (-2, 2**28), (-4, 0)):
        mallopt(parameter, value)


def describe() -> dict[str, Any]:
    """Facts for a run's record: machine, CPU features that matter, torch and GPU."""
    from importlib.metadata import version

    import torch

    from diffembed import __version__

    return {
        "python": platform.python_version(),
        "diffembed": __version__,
        **{package: version(package) for package in ("torch", "numpy", "tokenizers", "safetensors")},
        "machine": platform.machine(),
        "cpus": cpu_quota(),
        "threads": torch.get_num_threads(),
        "bf16_flags": sorted(BF16_FLAGS & cpu_flags()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
