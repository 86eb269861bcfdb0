"""The one training loop: pre-training and fine-tuning hand it a function that gives a step's loss in parts."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor, nn

from diffembed.errors import ConfigError, DiffembedError
from diffembed.runs import Run
from diffembed.training import checkpoint
from diffembed.training.optimizer import MasterOptimizer, OptimizerConfig
from diffembed.training.progress import Progress, say


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long to train, and how often to write things down."""

    num_steps: int
    """Optimizer steps."""
    checkpoint_every_s: float = 300.0
    """Seconds between checkpoints; one is always written at the end."""
    checkpoint_every_steps: int | None = None
    """Also every so many steps, if given."""
    log_every: int = 1
    """Steps between rows of metrics.jsonl."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.checkpoint_every_steps is not None and self.checkpoint_every_steps < 1:
            raise ConfigError(
                f"checkpoint_every_steps must be at least 1, got {self.checkpoint_every_steps}",
                hint="null: by time",
            )
        if not self.checkpoint_every_s > 0:
            raise ConfigError(
                f"checkpoint_every_s must be positive, got {self.checkpoint_every_s}", hint="300 is every five minutes"
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be in 0 to 2**32 - 1, got {self.seed}", hint="any small number will do")
        if self.num_steps < 1 or self.log_every < 1:
            raise ConfigError(
                f"num_steps and log_every must be at least 1, got {self.num_steps} and {self.log_every}",
                hint="loop.log_every=1 logs every step",
            )


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
) -> dict[str, float]:
    """Train `module` in place, from the newest checkpoint of the run if there is one.

    A step depends on the weights, the optimizer's state and the step's number alone: its randomness comes from a
    generator seeded by (seed, step). So a killed and resumed run repeats the uninterrupted one bit for bit on a CPU.

    Args:
        run: Open run; gets metrics and checkpoints.
        module: Its parameters that require gradients are trained.
        micro_batches: Called with the step (from 1) and that step's generator; gives the step's loss in parts, each of
            which is propagated back before the next is asked for. Their losses sum to the loss of the step.
        label: Shown in front of the progress line.
        loop: Length and intervals.
        optimizer_config: Passed to MasterOptimizer.

    Returns:
        Facts of the run: steps, tokens, seconds (of all its parts), final loss.

    Raises:
        DiffembedError: The loss or the gradient is not finite; the run stops where the last checkpoint stands.
    """
    optimizer = MasterOptimizer(module, optimizer_config)
    step, tokens, seconds_before, loss = 0, 0, 0.0, math.nan
    found = checkpoint.load_newest(run.path)
    if found is not None:
        tensors, facts = found
        optimizer.load_state(tensors)
        step, tokens = int(facts["step"]), int(facts["tokens"])
        seconds_before, loss = float(facts["seconds"]), float(facts["loss"])
    run.forget_after(step)

    start = last_saved = time.monotonic()

    def result() -> dict[str, float]:
        return {"tokens": tokens, "seconds": round(seconds_before + time.monotonic() - start, 1), "loss": loss}

    def save() -> None:
        if not optimizer.is_finite():
            raise DiffembedError(
                f"step {step}: a weight is no longer finite", hint="begin a new run with a lower optimizer.peak_lr"
            )
        run.log_checkpoint(checkpoint.save(run.path, step, optimizer.state(), result()), step=step, **result())

    with Progress(label, loop.num_steps, step) as progress, _Interrupt() as interrupt:
        while step < loop.num_steps:
            step += 1
            # 1. forward and backward, a micro-batch at a time
            loss, num_tokens, extra = 0.0, 0, dict[str, float]()
            for part in micro_batches(step, _step_generator(loop.seed, step)):
                part.loss.backward()
                optimizer.accumulate()
                loss += float(part.loss.detach())
                num_tokens += part.num_tokens
                for key, value in part.extra.items():
                    extra[key] = extra.get(key, 0) + value
            # 2. update
            rate = optimizer_config.rate(step, loop.num_steps)
            grad_norm = optimizer.clip()
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise DiffembedError(
                    f"step {step}: the loss is {loss} and the gradient's norm {grad_norm}; both must be finite",
                    hint="begin a new run with a lower optimizer.peak_lr",
                )
            optimizer.step(rate)
            # 3. write down
            tokens += num_tokens
            if step % loop.log_every == 0 or step == loop.num_steps:
                run.log(step=step, loss=loss, lr=rate, grad_norm=grad_norm, tokens=tokens, **extra)
            progress.update(step, loss, num_tokens)
            by_count = loop.checkpoint_every_steps and step % loop.checkpoint_every_steps == 0
            if by_count or step == loop.num_steps or time.monotonic() - last_saved >= loop.checkpoint_every_s:
                save()
                last_saved = time.monotonic()
            if interrupt.is_asked and step < loop.num_steps:
                save()
                say(f"stopped after step {step}; --resume goes on from there")
                raise KeyboardInterrupt
    return {"steps": step, **result()}


class _Interrupt:
    """Turns the first Ctrl-C into a request to stop after the step; the second one stops at once."""

    is_asked = False

    def __enter__(self) -> "_Interrupt":
        # Only the main thread may set handlers; elsewhere Ctrl-C does not arrive anyway.
        self._is_set = threading.current_thread() is threading.main_thread()
        if self._is_set:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *unused: object) -> None:
        if self._is_set:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        signal.signal(signal.SIGINT, self._before)


def _step_generator(seed: int, step: int) -> torch.Generator:
    # The golden-ratio multiplier spreads neighbouring (seed, step) pairs over the 63-bit seed space.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + step) & 0x7FFF_FFFF_FFFF_FFFF)
