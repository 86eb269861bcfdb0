"""What a person sees while a training runs: a live table on a terminal, plain lines elsewhere. All of it on stderr."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from types import TracebackType
from typing import TYPE_CHECKING

from diffembed import hardware
from diffembed.runs import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

# Seconds between plain lines, for logs that are read later, and between two states of the table.
PLAIN_EVERY_S, LIVE_EVERY_S = 15.0, 0.1
# Speed and time left are those of so many steps.
RECENT_STEPS = 50
# Columns of a terminal that has room for a bar and for two facts beside each other; of the bar; between the facts.
WIDE, BAR_WIDTH, GAP = 72, 24, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """What a finished step tells, of all ranks together."""

    loss: float
    lr: float
    """Learning rate."""
    grad_norm: float
    """Norm of the whole gradient before it was cut to `clip_norm`."""
    num_tokens: int
    flops: float
    """Operations of its matrix products (`MatrixFlops`)."""
    metrics: Mapping[str, float]
    """What else the step measured. `accuracy` (0 to 1), `positive` and `negative` (mean similarities) are shown."""


class Progress:
    """Shows how far a training is, how it goes, and how fast.

    Args:
        label: What runs.
        num_steps: Of the whole run.
        first_step: Steps done before this process began.
        peak_flops: Operations per second that all ranks could do at most; None: no share is shown.
        device: Whose memory is shown.
    """

    def __init__(
        self, label: str, num_steps: int, first_step: int, *, peak_flops: float | None = None, device: str = "cpu"
    ) -> None:
        self.label, self.num_steps = label, num_steps
        self.done = first_step
        self._peak_flops, self._device = peak_flops, device
        # Time, step, tokens and operations so far: at the start, and after each of the last steps.
        self._past = deque([(time.monotonic(), first_step, 0, 0.0)], maxlen=RECENT_STEPS + 1)
        self._facts: StepFacts | None = None
        self._last = -float("inf")
        self._live = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            if console.is_terminal and not console.is_dumb_terminal:
                # stdout is for data: what is printed there must not end up in the table's stream.
                self._live = Live(
                    get_renderable=self._table, console=console, auto_refresh=False, redirect_stdout=False
                )
                self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()  # shows the last state, and leaves it there

    def update(self, step: int, facts: StepFacts) -> None:
        """Count a finished step."""
        now = time.monotonic()
        _, _, tokens, flops = self._past[-1]
        self._past.append((now, step, tokens + facts.num_tokens, flops + facts.flops))
        self.done, self._facts = step, facts
        every = PLAIN_EVERY_S if self._live is None else LIVE_EVERY_S
        if now - self._last < every and step != self.num_steps:
            return
        self._last = now
        if self._live is not None:
            self._live.refresh()
        else:
            accuracy = f"  accuracy {facts.metrics['accuracy']:.0%}" if "accuracy" in facts.metrics else ""
            speed = "  ".join(f"{value} {name}" for name, value in self._speed().items())
            say(f"{self.label} {step}/{self.num_steps}  loss {facts.loss:.3f}{accuracy}  {speed}  {self._left()} left")

    def _speed(self) -> dict[str, str]:
        """Tokens per second, and the share of the peak, over the last steps."""
        (start, _, first_tokens, first_flops), (end, _, tokens, flops) = self._past[0], self._past[-1]
        seconds = max(end - start, 1e-9)
        found = {"tokens/s": f"{(tokens - first_tokens) / seconds:,.0f}"}
        if self._peak_flops:
            found["of matrix peak"] = f"{(flops - first_flops) / seconds / self._peak_flops:.0%}"
        return found

    def _left(self) -> str:
        (start, first, *_), (end, done, *_) = self._past[0], self._past[-1]
        return clock((end - start) / (done - first) * (self.num_steps - done))

    def _table(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        is_wide = self._live is None or self._live.console.width >= WIDE
        place = [f"{self.label}  step {self.done:,} of {self.num_steps:,}", f"{self.done / self.num_steps:.0%}"]
        bar = [ProgressBar(self.num_steps, self.done, width=BAR_WIDTH)] if is_wide else []
        head = Table.grid(padding=(0, 2))
        for _ in (*place, *bar):
            head.add_column(no_wrap=True, overflow="crop")  # an ellipsis is no ASCII
        head.add_row(*place, *bar)
        if self._facts is None:
            return head
        learning, machine = _learning(self._facts), {**self._speed(), **self._machine()}
        body = Table.grid(padding=(0, 1))
        for justify in ("left", "right", "left", "left", "right") if is_wide else ("left", "right"):
            body.add_column(justify=justify, no_wrap=True, overflow="crop")
        if is_wide:
            for own, other in zip_longest(learning.items(), machine.items(), fillvalue=("", "")):
                body.add_row(*own, " " * GAP, *other)
        else:
            for fact in (learning | machine).items():
                body.add_row(*fact)
        return Group(head, body)

    def _machine(self) -> dict[str, str]:
        name = "peak GPU memory" if self._device.startswith("cuda") else "memory"
        return {name: f"{hardware.memory_used(self._device) / 1e9:.2f} GB", "time left": self._left()}


def _learning(facts: StepFacts) -> dict[str, str]:
    """How the training itself goes, by the words that the table has for it."""
    shown = {"loss": f"{facts.loss:.4f}"}
    if "accuracy" in facts.metrics:
        shown["in-batch accuracy"] = f"{facts.metrics['accuracy']:.1%}"
    for name in ("positive", "negative"):
        if name in facts.metrics:
            shown[f"{name} similarity"] = f"{facts.metrics[name]:.3f}"
    return {**shown, "gradient norm": f"{facts.grad_norm:.3g}", "learning rate": f"{facts.lr:.2e}"}


def say(message: str) -> None:
    """A line for the person who waits."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def announce(run: Run, message: str) -> None:
    """Say what is about to begin, and what has changed since a resumed run was begun."""
    if run.env_changes:
        say(f"not as when the run was begun ({'; '.join(run.env_changes)}): the rest may differ")
    say(message)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
