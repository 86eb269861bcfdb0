"""What a person sees while a training runs: a live line on a terminal, plain lines elsewhere. All of it on stderr."""

import sys
import time
from types import TracebackType

from diffembed.runs import Run

# Seconds between plain lines, for logs that are read later.
PLAIN_EVERY_S = 15.0


class Progress:
    """Shows step, loss, tokens per second and the time left."""

    def __init__(self, label: str, num_steps: int, first_step: int) -> None:
        self.label, self.num_steps = label, num_steps
        self.done = first_step
        self._first, self._start, self._tokens, self._last = first_step, time.monotonic(), 0, -PLAIN_EVERY_S
        self._bar = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = [
                TextColumn(self.label),
                BarColumn(bar_width=12),  # what is left of 80 columns
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
            ]
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.num_steps, completed=self.done, facts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, num_tokens: int) -> None:
        """Count a finished step."""
        self.done = step
        self._tokens += num_tokens
        spent = time.monotonic() - self._start
        left = spent / (step - self._first) * (self.num_steps - step)
        facts = f"loss {loss:.3f}  {self.tokens_per_s:,.0f} tokens/s  {clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=facts)
        elif spent - self._last >= PLAIN_EVERY_S or step == self.num_steps:
            self._last = spent
            say(f"{self.label} {step}/{self.num_steps}  {facts}")

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / max(time.monotonic() - self._start, 1e-9)


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
