"""Several ranks on this machine: real processes that meet over loopback, as torchrun starts them."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path


def start(code: str, arguments: Sequence[str | Path], world: int) -> list[subprocess.Popen]:
    """One process for each rank; the code finds its arguments in sys.argv. stderr is a pipe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": str(world),
    }
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


@contextmanager
def ranks(code: str, arguments: Sequence[str | Path], world: int):
    """Running ranks; none of them is left behind."""
    processes = start(code, arguments, world)
    try:
        yield processes
    finally:
        for each in processes:
            each.kill()
            each.communicate()


def finish(code: str, arguments: Sequence[str | Path], world: int, timeout: float = 120) -> list[str]:
    """What each rank printed; all must end well."""
    with ranks(code, arguments, world) as processes:
        said = [each.communicate(timeout=timeout) for each in processes]
    for process, (_, error) in zip(processes, said, strict=True):
        assert process.returncode == 0, error
    return [output for output, _ in said]
