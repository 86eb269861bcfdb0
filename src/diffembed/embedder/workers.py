"""Several processes that share the texts of one call, each with the model on a device of its own."""

import json
import os
import re
import selectors
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffembed import errors
from diffembed.backbone import Direction
from diffembed.backbone.packed import split_by_tokens
from diffembed.embedder.layout import Overflow, count, read_chunks
from diffembed.embedder.locate import find
from diffembed.embedder.report import Encoded, Report
from diffembed.embedder.worker import Worker
from diffembed.errors import ConfigError, DataError, DiffembedError
from diffembed.hardware import cpu_quota
from diffembed.readout.spec import Precision, Readout
from diffembed.text.instructions import Role

# Most of a part. Its characters make some 50,000 tokens: full batches even on a GPU, and little to do again.
PART_TEXTS = 1_024
PART_CHARACTERS = 200_000
# A short call has about so many parts for each worker, so that none waits long for the last one.
PARTS_PER_WORKER = 4
# Workers that a part may take with it before it is seen as the cause.
MOST_DEATHS = 2


@dataclass(slots=True)
class _Part:
    """Texts that are embedded together."""

    first: int
    """Number of its first text in the call; parts are told apart by it."""
    texts: list[str]
    deaths: int = 0

    def __str__(self) -> str:
        return f"the {len(self.texts)} texts from number {self.first} on"


@dataclass(slots=True)
class _Call:
    """What is left to do, who does it, and what is done."""

    unread: Iterator[_Part]
    options: dict[str, Any]
    progress: Callable[[int], None]
    todo: deque[_Part] = field(default_factory=deque)
    """Parts that no worker has: the next one, or what a dead worker left behind."""
    given: dict[int, _Part] = field(default_factory=dict)
    """By the worker's position. The answer of a worker that has none is of no interest to this call."""
    answers: dict[int, tuple[NDArray[Any], dict[str, int]]] = field(default_factory=dict)
    """By the part's first text: vectors, and the counts of the report."""
    num_done: int = 0
    failed: tuple[int, DiffembedError] | None = None
    """First text of the first part that failed, and its error. Only parts before it are still of interest, so that it
    doesn't depend on the workers' speed which error is raised."""

    def has_more(self) -> bool:
        if not self.todo and not self.failed:
            self.todo.extend(part for part in [next(self.unread, None)] if part)
        return bool(self.todo)

    def is_waiting(self) -> bool:
        return any(self._wants(part) for part in self.given.values())

    def put_back(self, part: _Part) -> None:
        if self._wants(part):
            self.todo.appendleft(part)

    def fail(self, part: _Part, error: DiffembedError) -> None:
        if self._wants(part):
            self.failed = part.first, error
            self.todo = deque(part for part in self.todo if self._wants(part))

    def finish(self, part: _Part, vectors: NDArray[Any], counts: dict[str, int]) -> None:
        self.answers[part.first] = vectors, counts
        self.num_done += len(part.texts)
        self.progress(self.num_done)

    def _wants(self, part: _Part) -> bool:
        return self.failed is None or part.first < self.failed[0]


class Workers:
    """A pool of processes, one per device, that gives the vectors of an `Embedder`.

    Texts are handed out in parts. A worker that dies is reported by a warning and its part is done again, by any of
    them; it is started anew once, unless it died while it loaded the model. Workers end with this process, however it
    ends. Calls from several threads wait for each other.

    The vectors don't depend on which worker computed what, if the devices are alike. They are those that an `Embedder`
    with as many threads gives to each part alone, bit for bit on a CPU; how texts are cut into parts depends on their
    lengths, their number and that of the devices, and shows as other batches do: in the rounding.

    Use it as a context manager, or `close` it.

    Args:
        name: As for `Embedder.load`; a hub id is fetched once.
        devices: One for each worker; the same may be named several times. Workers on the CPU share the CPUs that this
            process may use.
        dtype: As for `Embedder.load`.
        direction: As for `Embedder.load`.
        adapter: As for `Embedder.load`.

    Raises:
        CheckpointError: There is no such model, or it is damaged.
        ConfigError: An argument cannot be used, or every worker died while it loaded the model.
        MissingExtraError: A hub id, and no hub client is installed.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        devices: Sequence[str | torch.device],
        *,
        dtype: str | torch.dtype | None = None,
        direction: Direction | None = None,
        adapter: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(devices, str) or not isinstance(devices, Sequence) or not devices:
            raise ConfigError(f"devices is {devices!r}", hint='name one for each worker, as in ["cuda:0", "cuda:1"]')
        self.devices = tuple(map(str, devices))
        load = {
            "name": str(find(name).absolute()),
            "dtype": None if dtype is None else str(dtype),
            "direction": direction,
            "adapter": None if adapter is None else str(find(adapter).absolute()),
        }
        self._lock = threading.RLock()
        self._call: _Call | None = None
        self._is_closed = False
        self._workers: list[Worker] = []
        self._finalizer = weakref.finalize(self, _stop_all, self._workers, os.getpid())
        try:
            for device in self.devices:
                self._workers.append(Worker({**load, "device": device}, _environment(device, self.devices)))
            while any(worker.state == "loading" for worker in self._workers):
                self._take_answers()
            self._check_usable()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live, in the order of their devices."""
        return [worker.process.pid for worker in self._workers if worker.state != "gone"]

    def __repr__(self) -> str:
        return f"Workers({', '.join(self.devices)}; {len(self.pids)} alive)"

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. A call that runs in another thread then raises ConfigError."""
        self._is_closed = True
        for worker in self._workers:
            worker.process.kill()  # so that a call that runs comes to its end
        with self._lock:
            self._finalizer()

    def embed(
        self,
        texts: Iterable[str],
        role: Role | None = "document",
        *,
        instruction: str | None = None,
        dims: int | None = None,
        precision: Precision = "float32",
        overflow: Overflow = "window",
        readout: Readout | None = None,
        prompts: Mapping[str, str] | None = None,
        template: str | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Encoded:
        """Turn texts into vectors and say what was done to them.

        Args:
            texts: Strings; read as they are needed. Those that were cut are counted, and no warning is given.
            role: As for `Embedder.embed`.
            instruction: As for `Embedder.embed`.
            dims: As for `Embedder.embed`.
            precision: As for `Embedder.embed`.
            overflow: As for `Embedder.embed`.
            readout: As for `Embedder.with_readout`.
            prompts: As for `Embedder.with_readout`.
            template: As for `Embedder.with_readout`.
            progress: Called after each part with the numbers of texts that are done and of all, if that is known. What
                it raises ends the call; the pool can be used further.

        Returns:
            Vectors in the order of the texts, and the report; its seconds are those that went by here.

        Raises:
            ConfigError: An argument cannot be used, the pool is closed, or no worker is left.
            DataError: A text cannot be used, or a part ended two workers.
            CheckpointError: The model gave numbers that make no vector.
        """
        started = time.perf_counter()
        changes = {
            "readout": readout and readout.to_dict(),
            "prompts": None if prompts is None else dict(prompts),
            "template": template,
        }
        options = {
            "role": role,
            "instruction": instruction,
            "dims": dims,
            "precision": precision,
            "overflow": overflow,
            "reading": {name: value for name, value in changes.items() if value is not None},
        }
        try:
            json.dumps(options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"an option cannot be used: {error}", hint="pass strings and whole numbers") from None
        total = count(texts)
        call = _Call(
            unread=_cut(texts, total, len(self.devices)),
            options=options,
            progress=lambda done: progress(done, total) if progress else None,
        )
        with self._lock:
            if self._call:
                raise ConfigError("a call of this pool calls it again", hint="make a list of the texts first")
            self._call = call
            try:
                self._run(call)
            finally:
                self._call = None
        answers = [call.answers[first] for first in sorted(call.answers)]
        counts = {name: sum(counts[name] for _, counts in answers) for name in answers[0][1]}
        report = Report(**counts, seconds=time.perf_counter() - started)
        return Encoded(vectors=np.concatenate([vectors for vectors, _ in answers]), report=report)

    def _run(self, call: _Call) -> None:
        self._check_usable()
        for worker in self._workers:
            if worker.state == "torn":  # since the call before
                worker.stop("torn")
                worker.start()
        while call.has_more() or call.is_waiting():
            self._check_usable()
            for number, worker in enumerate(self._workers):
                if worker.state == "idle" and call.has_more():
                    self._hand_out(number, call)
            self._take_answers()
        if call.failed:
            raise call.failed[1]

    def _hand_out(self, number: int, call: _Call) -> None:
        part = call.todo.popleft()
        try:
            self._workers[number].send({**call.options, "texts": part.texts})
            call.given[number] = part
        except BrokenPipeError:  # it was dead before it had the part
            call.put_back(part)
            self._bury(number)

    def _take_answers(self) -> None:
        """Wait for workers that have answered or died, and settle what they did."""
        with selectors.DefaultSelector() as selector:
            for number, worker in enumerate(self._workers):
                if worker.state in ("loading", "busy"):
                    selector.register(worker.process.stdout, selectors.EVENT_READ, number)  # type: ignore[arg-type]
            ready = [key.data for key, _ in selector.select()] if selector.get_map() else []
        for number in ready:
            self._take_answer(number)

    def _take_answer(self, number: int) -> None:
        self._check_open()
        worker, call = self._workers[number], self._call
        was_loading = worker.state == "loading"
        try:
            answer, body = worker.receive()
        except EOFError:
            return self._bury(number, was_loading=was_loading)
        part = call.given.pop(number, None) if call else None
        error = _to_error(answer, part.first if part else 0)
        if was_loading and error:
            if call is None:
                raise error
            self._bury(number, was_loading=True, cause=error.message)
        elif call and part and error:
            call.fail(part, error)
        elif call and part:
            vectors = np.frombuffer(body, answer["dtype"]).reshape(answer["shape"])
            call.finish(part, vectors, answer["counts"])

    def _bury(self, number: int, *, was_loading: bool = False, cause: str | None = None) -> None:
        """Settle what a dead worker left behind, then tell of it."""
        self._check_open()
        worker, call = self._workers[number], self._call
        part = call.given.pop(number, None) if call else None
        status = worker.cause_of_death()
        said = f"the worker on {worker.device} died {'while loading ' * was_loading}({cause or status})"
        if worker.may_restart and not was_loading:
            worker.may_restart = False
            worker.start()
            said += "; it is started again, this once"
        else:
            worker.state = "gone"
        if call and part:
            part.deaths += 1
            if part.deaths < MOST_DEATHS:
                call.put_back(part)
                said += f"; {part} are done again"
            else:
                hint = "if memory ran out use fewer devices; else embed them a few at a time to find the one"
                call.fail(part, DataError(f"{part} ended {MOST_DEATHS} workers, the last with {status}", hint=hint))
        warnings.warn(said, stacklevel=6)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConfigError("these workers were closed", hint="make a new pool")

    def _check_usable(self) -> None:
        self._check_open()
        if not self.pids:
            raise ConfigError(
                f"no worker is left on {', '.join(self.devices)}",
                hint="stderr may say why; if memory ran out use fewer devices, each holds the whole model",
            )


def _stop_all(workers: list[Worker], owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        for worker in workers:
            worker.stop()


def _environment(device: str, devices: Sequence[str]) -> dict[str, str]:
    # Modules are found where this process finds them.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if device.startswith("cpu"):
        threads = str(max(1, cpu_quota() // sum(each.startswith("cpu") for each in devices)))
        environment |= {"OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
    return environment


def _cut(texts: Iterable[str], total: int | None, num_workers: int) -> Iterator[_Part]:
    """Parts of the texts. Where there is none an empty part, whose answer has the right width and dtype."""
    part = None
    part_texts = PART_TEXTS if not total else min(PART_TEXTS, -(-total // (num_workers * PARTS_PER_WORKER)))
    least = PART_CHARACTERS // part_texts  # if no text counts for less, a bound on characters is one on texts
    for first, chunk in read_chunks(texts):
        for rows in split_by_tokens([max(len(text), least) for text in chunk], PART_CHARACTERS):
            part = _Part(first + rows.start, chunk[rows])
            yield part
    if part is None:
        yield _Part(0, [])


def _to_error(answer: dict[str, Any], first: int) -> DiffembedError | None:
    """The error in an answer, with the number of its text counted over the whole call."""
    if "error" not in answer:
        return None
    message = re.sub(r"\btext (\d+)", lambda found: f"text {first + int(found[1])}", answer["message"], count=1)
    return getattr(errors, answer["error"])(message, hint=answer["hint"])
