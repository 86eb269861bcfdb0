"""Several processes that train one model: who they are, and what they tell each other.

Every rank plans the same batch and runs its own share of the passes; gradients are summed, so that one process and many
take the same steps. Ranks are started by `torchrun` or by anything else that sets its environment variables.
"""

import contextlib
import gc
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from diffembed import hardware, runs
from diffembed.errors import ConfigError, DiffembedError

T = TypeVar("T")

# A collective waits so long for the slowest rank: for the main one while it writes a checkpoint of many GB.
PATIENCE = timedelta(minutes=30)
# Reading and tokenizing the data is done by the main rank alone.
PREPARING = timedelta(days=3)
# fp32 numbers that are summed over the ranks at once: 128 MB of extra memory.
BUCKET_NUMBERS = 2**25
# How long a failing rank's message may be on its way, and how long the main rank may take to say its own.
GRACE_S = 2.0
# How long a new folder may stay invisible on a network file system.
VISIBLE_S = 60.0
SETTLE_S = 0.1
FAILURE_KEY = "diffembed/failure"


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: Number of this process, from 0.
        world: How many there are.
        device: Where this one computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _store: Any = None
    _turns: Iterator[int] = field(default_factory=lambda: iter(range(2**62)))

    @classmethod
    def alone(cls, device: torch.device | str | None = None) -> "Ranks":
        """One process; no process group is needed. `device` None: a GPU where there is one."""
        return cls(device=torch.device(device or hardware.default_device()))

    @property
    def is_main(self) -> bool:
        """Whether this one writes the run directory, makes the data stores and talks."""
        return self.rank == 0

    def share(self, parts: Sequence[T]) -> list[T]:
        """The parts of a step that are this rank's: numbers `rank`, `rank + world`, ..."""
        return list(parts[self.rank :: self.world])

    def gather_rows(self, rows: Sequence[Tensor]) -> Tensor:
        """Concatenate all ranks' rows: those of rank 0, then those of rank 1, and so on. No gradient flows through.

        Args:
            rows: This rank's (n_i, D) tensors on its device; some ranks may have none.
        """
        if self.world == 1:
            return torch.cat([each.detach() for each in rows])
        own_ND = torch.cat([each.detach() for each in rows]) if rows else None
        sizes = self.gather_json([0, 0] if own_ND is None else list(own_ND.shape))
        longest, width = max(count for count, _ in sizes), max(width for _, width in sizes)
        # Collectives take equal shapes: short ranks send rows that nobody reads.
        sent_ND = torch.zeros(longest, width, device=self.device)
        if own_ND is not None:
            sent_ND[: len(own_ND)] = own_ND
        got = [torch.empty_like(sent_ND) for _ in range(self.world)]
        dist.all_gather(got, sent_ND)
        return torch.cat([rows_ND[:count] for rows_ND, (count, _) in zip(got, sizes, strict=True)])

    @torch.no_grad()
    def sum_gradients(self, gradients: Iterable[Tensor]) -> None:
        """Replace each fp32 tensor by its sum over the ranks, which all hand in the same shapes in the same order."""
        if self.world > 1:
            for bucket in _buckets(gradients):
                flat = torch.cat([each.flatten() for each in bucket])
                dist.all_reduce(flat)
                for each, summed in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                    each.copy_(summed.view_as(each))

    @torch.no_grad()
    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by the main rank's."""
        if self.world > 1:
            for each in tensors:
                dist.broadcast(each, 0)

    def gather_json(self, value: Any) -> list[Any]:
        """Everybody's small value (whatever JSON holds), in the order of the ranks."""
        if self.world == 1:
            return [value]
        # Not all_gather_object, which pickles. CPU tensors travel by gloo, also between GPUs.
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(lengths, torch.tensor([len(own)]))
        longest = max(int(each) for each in lengths)
        got = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(got, nn.functional.pad(own, (0, longest - len(own))))
        return [json.loads(bytes(row[: int(length)].tolist())) for row, length in zip(got, lengths, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """The main rank's small value, on every rank."""
        return self.gather_json(value if self.is_main else None)[0]

    def agree(self, is_so: bool) -> bool:
        """Whether any rank says yes."""
        return any(self.gather_json(is_so))

    def barrier(self) -> None:
        """Wait for all others."""
        self.gather_json(None)

    def main_first(self, make: Callable[[], T]) -> T:
        """Let the main rank make something on disk, then the others, which find it there. They may wait for days.

        Raises:
            Exception: Whatever `make` raises on the main rank; the others then leave without a word.
        """
        if self.world == 1:
            return make()
        key = f"diffembed/made/{next(self._turns)}"
        if not self.is_main:
            self._store.wait([key], PREPARING)
            if self._store.get(key) != b"made":
                raise self.common(DiffembedError("the main rank failed", hint="it says why"))
            return make()
        try:
            made = make()
        except BaseException:
            self._store.set(key, b"failed")
            raise
        self._store.set(key, b"made")
        return made

    def open_run(self, out: Path | str, **facts: Any) -> runs.Run:
        """The run directory: made and locked by the main rank (`runs.open_run`), read by the others.

        Raises:
            ConfigError: This rank does not see the main one's directory.
        """
        if self.is_main:
            facts["env"] = {**facts["env"], "ranks": self.world}
            return self.main_first(lambda: runs.open_run(out, **facts))
        self.main_first(lambda: None)
        deadline = time.monotonic() + VISIBLE_S
        while not (Path(out) / runs.CONFIG_FILE).exists():
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"rank {self.rank} does not see {out}, which the main rank has made",
                    hint="choose an --out on a file system that all nodes share",
                )
            time.sleep(0.1)
        return runs.Onlooker(Path(out))

    def common(self, error: BaseException) -> BaseException:
        """What to raise for an error that all ranks meet: the main rank says it, the others leave without a word."""
        if self.is_main:
            return error
        # A launcher ends everybody when the first one leaves; the main rank must have spoken by then.
        time.sleep(GRACE_S)
        return SystemExit(1)


@contextmanager
def connect(device: torch.device | str | None = None) -> Iterator[Ranks]:
    """Join the processes that `torchrun` has started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    Without these variables this is the only process. A rank that fails tells the others why, and they end as well.

    Args:
        device: Where to compute; None: the GPU with this rank's local number, or the CPU where there is none.

    Raises:
        ConfigError: The variables make no sense, or there are fewer GPUs than ranks on this machine.
        DiffembedError: Another rank has failed or died.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks.alone(device)
        return
    ranks = _join(_local_device() if device is None else torch.device(device))
    try:
        yield ranks
    except (DiffembedError, OSError, KeyboardInterrupt, SystemExit) as error:
        _tell(ranks, error)
        raise
    except Exception as error:
        cause = _failure_elsewhere(ranks, error)
        _tell(ranks, error)
        if cause is None:
            raise
        raise DiffembedError(cause, hint="its own lines above say more; --resume goes on") from error
    finally:
        with contextlib.suppress(RuntimeError):  # a group that has lost a member
            dist.destroy_process_group()
        # gloo's threads live on and may hold the last tensors. To let go of them they need Python's lock; a thread that
        # asks for it while Python ends aborts the process. This gives them the time.
        gc.collect()
        time.sleep(SETTLE_S)


def _join(device: torch.device) -> Ranks:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # We keep the store: waiting for data to be prepared must outlast any collective.
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the ranks cannot meet: {error}", hint="start them by torchrun") from None
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    return Ranks(rank, world, device, store)


def _local_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ConfigError(
            f"local rank {local} has no GPU: this machine shows {count}", hint="lower torchrun's --nproc-per-node"
        )
    return torch.device("cuda", local)


def _tell(ranks: Ranks, error: BaseException) -> None:
    """Leave the reason for the others, unless one is there already: what follows from it is no news."""
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    with contextlib.suppress(RuntimeError):
        ranks._store.compare_set(FAILURE_KEY, "", f"rank {ranks.rank}: {first_line}")


def _failure_elsewhere(ranks: Ranks, error: Exception) -> str | None:
    """What another rank left behind, or that one is gone; None where this error is this rank's own."""
    is_lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "Connection" in str(error)
    deadline = time.monotonic() + (GRACE_S if is_lost else 0)
    with contextlib.suppress(RuntimeError):  # the rank that keeps the store is the one that is gone
        while is_lost and time.monotonic() < deadline:
            if ranks._store.check([FAILURE_KEY]):
                return f"another rank has failed ({ranks._store.get(FAILURE_KEY).decode()})"
            time.sleep(0.05)
    return f"rank {ranks.rank} has lost another rank: {str(error).splitlines()[0]}" if is_lost else None


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    numbers = 0
    for each in tensors:
        if bucket and numbers + each.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket, numbers = [], 0
        bucket.append(each)
        numbers += each.numel()
    if bucket:
        yield bucket
