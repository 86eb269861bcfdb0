"""The one training loop: pre-training and fine-tuning hand it a function that gives a step's loss in parts."""

import json
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from diffembed import hardware
from diffembed.errors import CheckpointError, DiffembedError
from diffembed.files import write_whole
from diffembed.runs import Run
from diffembed.training import checkpoint
from diffembed.training.distributed import Ranks
from diffembed.training.events import EventFiles
from diffembed.training.flops import MatrixFlops
from diffembed.training.loop_config import LoopConfig, check_sharding
from diffembed.training.optimizer import MasterOptimizer, OptimizerConfig
from diffembed.training.progress import Progress, StepFacts, say
from diffembed.training.sharding import shard
from diffembed.training.validation import Validation

BAD_BATCH_FILE = "bad_batch.json"
# Steps whose median says what loss is usual.
PAST_LOSSES = 100


@dataclass(frozen=True, slots=True)
class PartialLoss:
    """One micro-batch of a step: its share of the step's loss, the tokens it read, scalars to sum for metrics.jsonl."""

    loss: Tensor
    num_tokens: int
    extra: dict[str, float]


def train(
    run: Run,
    module: nn.Module,
    micro_batches: Callable[[int, torch.Generator], Iterable[PartialLoss]],
    *,
    label: str,
    loop: LoopConfig,
    optimizer_config: OptimizerConfig,
    ranks: Ranks | None = None,
    describe_batch: Callable[[int], Any] | None = None,
    validation: Validation | None = None,
) -> dict[str, float]:
    """Train `module` in place, from the newest checkpoint of the run if there is one.

    A step depends on the weights, the optimizer's state and the step's number alone: its randomness comes from a
    generator seeded by (seed, step). So a killed and resumed run repeats the uninterrupted one bit for bit on a CPU.

    Args:
        run: Open run; gets metrics and checkpoints.
        module: Its parameters that require gradients are trained. With `loop.shard` and several ranks it must be a
            `Backbone`, and its parameters stay spread: `sharding.whole_weights` puts them together.
        micro_batches: Called with the step (from 1) and that step's generator, which is the same on all ranks; gives
            this rank's parts of the step's loss, each of which is propagated back before the next is asked for. The
            parts of all ranks sum to the loss of the step. With `loop.shard` all ranks must give equally many.
        label: Shown in front of the progress line.
        loop: Length and intervals.
        optimizer_config: Passed to MasterOptimizer.
        ranks: Who shares the work; None: this process does it all.
        describe_batch: Called with a step whose loss or gradient is not finite; gives what JSON can hold of its batch.
        validation: Measures the weights now and then, for metrics.jsonl.

    Returns:
        Facts of the run: steps, tokens, seconds (of all its parts), final loss.

    Raises:
        DiffembedError: The loss or the gradient is not finite, or the loss has left its past far behind; the run stops
            where the last checkpoint stands. Or the last checkpoint could not be written.
        MissingExtraError: `loop.tensorboard`, and the package is not installed.
        SystemExit: A signal has ended the run, after a checkpoint; the status is 128 and the signal's number.
        KeyboardInterrupt: Ctrl-C has, likewise.
    """
    check_sharding(loop, optimizer_config)
    training = _Training(run, module, loop, optimizer_config, ranks or Ranks.alone(), describe_batch)
    with (
        training.progress(label) as progress,
        training.events() as events,
        _Interrupt(ignore_second=training.ranks.world > 1) as interrupt,
    ):
        while training.step < loop.num_steps:
            wishes = training.advance(micro_batches, interrupt.number)
            is_measured = validation is not None and validation.is_due(training.step, loop.num_steps)
            measured = validation.measure() if validation is not None and is_measured else {}
            training.log(measured, events)
            if progress is not None:
                progress.update(training.step, training.told)
            if wishes.save or wishes.stop:
                training.save(is_last=bool(wishes.stop) or training.step == loop.num_steps)
            if wishes.stop and training.step < loop.num_steps:
                if training.ranks.is_main:
                    say(f"stopped after step {training.step}; --resume goes on from there")
                raise KeyboardInterrupt if wishes.stop == signal.SIGINT else SystemExit(128 + wishes.stop)
    return {"steps": training.step, **training.facts()}


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What the ranks have agreed on doing after a step."""

    save: bool
    stop: int
    """Number of the signal that asks for it; 0: go on."""


class _Training:
    """The state of a run between two steps, and how it moves to the next."""

    def __init__(
        self,
        run: Run,
        module: nn.Module,
        loop: LoopConfig,
        optimizer_config: OptimizerConfig,
        ranks: Ranks,
        describe_batch: Callable[[int], Any] | None,
    ) -> None:
        self.run, self.loop, self.ranks, self.describe_batch = run, loop, ranks, describe_batch
        self.is_sharded = loop.shard and ranks.world > 1
        if self.is_sharded:
            shard(module, ranks)
        self.optimizer = MasterOptimizer(module, optimizer_config)
        self.step, self.tokens, self.loss = 0, 0, math.nan
        self.told = StepFacts(loss=math.nan, lr=0.0, grad_norm=0.0, num_tokens=0, flops=0.0, metrics={})
        self._dtype, self._flops = next(module.parameters()).dtype, MatrixFlops.of(module)
        self._seconds_before = 0.0
        self._past_losses: deque[float] = deque(maxlen=PAST_LOSSES)
        self._strays = 0
        found = checkpoint.load_newest(run.path)
        if found is not None:
            tensors, facts = found
            self.optimizer.load_state(tensors)
            self.step, self.tokens = int(facts["step"]), int(facts["tokens"])
            self._seconds_before, self.loss = float(facts["seconds"]), float(facts["loss"])
        if not self.is_sharded:  # each rank has drawn or read the same; this makes sure of it
            ranks.copy_from_main(self.optimizer.masters.values())
            self.optimizer.write_back()
        run.forget_after(self.step)
        self._start = self._last_saved = time.monotonic()
        self._logged = (self.tokens, self.seconds)

    def progress(self, label: str) -> AbstractContextManager[Progress | None]:
        if not self.ranks.is_main:
            return nullcontext()
        device = str(self.ranks.device)
        peak = self.ranks.world * hardware.matrix_rate(device, self._dtype)
        return Progress(label, self.loop.num_steps, self.step, peak_flops=peak, device=device)

    def events(self) -> AbstractContextManager[EventFiles | None]:
        is_wanted = self.loop.tensorboard and self.ranks.is_main
        return EventFiles(self.run.path, self.seconds) if is_wanted else nullcontext()

    @property
    def seconds(self) -> float:
        """Of training, in all parts of the run."""
        return self._seconds_before + time.monotonic() - self._start

    def facts(self) -> dict[str, float]:
        return {"tokens": self.tokens, "seconds": round(self.seconds, 1), "loss": self.loss}

    def advance(self, micro_batches: Callable[[int, torch.Generator], Iterable[PartialLoss]], stop: int) -> _Wishes:
        """Make one step."""
        self.step += 1
        # 1. forward and backward, a micro-batch at a time
        loss, num_tokens, extra = 0.0, 0, dict[str, float]()
        for part in micro_batches(self.step, _step_generator(self.loop.seed, self.step)):
            part.loss.backward()
            self.optimizer.accumulate()
            loss += float(part.loss.detach())
            num_tokens += part.num_tokens
            _add(extra, part.extra)
        # 2. put together what the ranks have
        told = self.ranks.gather_json([loss, num_tokens, extra, stop, self._is_time_to_save()])
        self.loss, num_tokens, extra = sum(each[0] for each in told), sum(each[1] for each in told), {}
        for each in told:
            _add(extra, each[2])
        if not self.is_sharded:
            self.ranks.sum_gradients(self.optimizer.gradients())
        # 3. update
        rate = self.optimizer.config.rate(self.step, self.loop.num_steps)
        grad_norm = self.optimizer.clip()
        if not (math.isfinite(self.loss) and math.isfinite(grad_norm)):
            raise self._bad_batch(grad_norm)
        self._watch()
        self.optimizer.step(rate)
        self.tokens += num_tokens
        self.told = StepFacts(
            loss=self.loss,
            lr=rate,
            grad_norm=grad_norm,
            num_tokens=num_tokens,
            flops=self._flops.step(num_tokens, extra.get("scored", 0)),
            metrics=extra,
        )
        # The main rank's clock counts, and a signal to any rank.
        return _Wishes(save=told[0][4], stop=max(each[3] for each in told))

    def log(self, measured: dict[str, float], events: EventFiles | None) -> None:
        """Write the step's row, if it is the turn of one."""
        if not measured and self.step % self.loop.log_every and self.step != self.loop.num_steps:
            return
        (tokens, seconds), self._logged = self._logged, (self.tokens, self.seconds)
        row = {
            "step": self.step,
            **{name: getattr(self.told, name) for name in ("loss", "lr", "grad_norm")},
            "tokens": self.tokens,
            "seconds": round(self._logged[1], 3),
            "tokens_per_s": round((self.tokens - tokens) / max(self._logged[1] - seconds, 1e-9), 1),
            **self.told.metrics,
            **measured,
        }
        self.run.log(**row)
        if events is not None:
            events.add(row)

    def save(self, *, is_last: bool) -> None:
        """Write a checkpoint. If that fails in the middle of a run, say so and go on: the next may find space again."""
        if self.ranks.agree(not self.optimizer.is_finite()):
            raise self.ranks.common(
                DiffembedError(
                    f"step {self.step}: a weight is no longer finite",
                    hint="begin a new run with a lower optimizer.peak_lr",
                )
            )
        facts = self.facts()
        self._last_saved = time.monotonic()
        try:
            path = checkpoint.save(self.run.path, self.step, self.optimizer.state(), facts, self.ranks)
        except CheckpointError as error:
            if is_last:
                raise self.ranks.common(error) from None
            if self.ranks.is_main:
                say(f"step {self.step}: {error.message}; the older checkpoints stand, the training goes on")
            return
        self.run.log_checkpoint(path, step=self.step, **facts)

    def _is_time_to_save(self) -> bool:
        by_count = self.loop.checkpoint_every_steps and self.step % self.loop.checkpoint_every_steps == 0
        by_time = time.monotonic() - self._last_saved >= self.loop.checkpoint_every_s
        return bool(by_count) or by_time or self.step == self.loop.num_steps

    def _bad_batch(self, grad_norm: float) -> BaseException:
        where = ""
        if self.ranks.is_main and self.describe_batch is not None:
            batch = {"step": self.step, "loss": repr(self.loss), "grad_norm": repr(grad_norm)}
            batch["batch"] = self.describe_batch(self.step)
            write_whole(self.run.path / BAD_BATCH_FILE, json.dumps(batch, ensure_ascii=False, indent=1) + "\n")
            where = f"; its batch is in {self.run.path / BAD_BATCH_FILE}"
        return self.ranks.common(
            DiffembedError(
                f"step {self.step}: the loss is {self.loss} and the gradient's norm {grad_norm}; both must be finite"
                + where,
                hint="begin a new run with a lower optimizer.peak_lr",
            )
        )

    def _watch(self) -> None:
        """Stop a run whose loss has left its past far behind for a while."""
        factor = self.loop.divergence_factor
        if factor is None:
            return
        is_astray = len(self._past_losses) >= PAST_LOSSES // 2 and self.loss > factor * median(self._past_losses)
        self._strays = self._strays + 1 if is_astray else 0
        if not is_astray:
            self._past_losses.append(self.loss)
        if self._strays >= self.loop.divergence_steps:
            raise self.ranks.common(
                DiffembedError(
                    f"step {self.step}: for {self._strays} steps the loss has been above {factor:g} times its median, "
                    f"{median(self._past_losses):.3g}",
                    hint="begin a new run with a lower optimizer.peak_lr, or set loop.divergence_factor=null",
                )
            )


class _Interrupt:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 (Slurm's warning) into a request to stop after the step.

    A second Ctrl-C stops at once; but not among several ranks, where the launcher passes on what all have got already.
    """

    def __init__(self, *, ignore_second: bool) -> None:
        self.number = 0
        self._ignore_second, self._before = ignore_second, dict[int, Any]()

    def __enter__(self) -> "_Interrupt":
        # Only the main thread may set handlers; elsewhere Ctrl-C does not arrive anyway.
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
                if number := getattr(signal, name, None):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        if number == signal.SIGINT and not self._ignore_second:
            signal.signal(number, self._before[number])


def _add(total: dict[str, float], more: dict[str, float]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value


def _step_generator(seed: int, step: int) -> torch.Generator:
    # The golden-ratio multiplier spreads neighbouring (seed, step) pairs over the 63-bit seed space.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + step) & 0x7FFF_FFFF_FFFF_FFFF)
