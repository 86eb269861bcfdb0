"""The rows of a run as event files, for those who watch with TensorBoard."""

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from diffembed.errors import MissingExtraError
from diffembed.runs import METRICS_FILE, read_rows
from diffembed.training.progress import say

FOLDER = "tensorboard"
# How long an event may wait before it is written; TensorBoard looks for new ones every 30 s.
FLUSH_S = 10


def require_tensorboard() -> Any:
    """The class that writes event files.

    Raises:
        MissingExtraError: `tensorboard` is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            "event files for TensorBoard need a package that is not installed",
            hint="pip install 'diffembed[tensorboard]', or leave out --tensorboard",
        ) from None
    return SummaryWriter


class EventFiles:
    """Every number of metrics.jsonl under its own name, in OUT/tensorboard.

    The files are made anew when a run goes on: rows that were forgotten leave no points behind, and none comes twice.

    Args:
        run_path: Of the run; its rows so far are written first.
        seconds: Of training so far. Events bear the times of an uninterrupted run that ends now, as TensorBoard shows.

    Raises:
        MissingExtraError: `tensorboard` is not installed.
    """

    def __init__(self, run_path: Path, seconds: float) -> None:
        writer = require_tensorboard()
        shutil.rmtree(run_path / FOLDER, ignore_errors=True)
        # A TensorBoard that is open drops what it has read of the earlier files when it meets the purge.
        self._writer = writer(run_path / FOLDER, purge_step=0, flush_secs=FLUSH_S)
        self._begun = time.time() - seconds
        if (run_path / METRICS_FILE).exists():
            for row in read_rows(run_path / METRICS_FILE):
                self.add(row)

    def __enter__(self) -> "EventFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._try("close")

    def add(self, row: dict[str, Any]) -> None:
        """Write a row of metrics.jsonl."""
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        step, when = row["step"], self._begun + numbers.get("seconds", 0.0)
        for name, value in numbers.items():
            if name not in ("step", "seconds"):
                self._try("add_scalar", name, value, step, when)

    def _try(self, method: str, *arguments: Any) -> None:
        """Write, or give up for good: a full disk ends no training, and the rows are in metrics.jsonl."""
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*arguments)
        except OSError as error:
            self._writer = None
            say(f"no more events for TensorBoard ({error.strerror or error}); metrics.jsonl has the rows")
