"""The curves of a training as one picture, from its `metrics.jsonl`. Needs matplotlib (the `plot` extra)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.errors import DataError, MissingExtraError
from diffembed.files import replacing
from diffembed.runs import CONFIG_FILE, METRICS_FILE, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_FILE = "curves.png"
PANEL_WIDTH, PANEL_HEIGHT, PIXELS_PER_INCH = 5.0, 2.7, 120
# The smooth line is a mean weighted by a bell whose standard deviation is this share of the points, and that is not
# drawn over fewer points than `LEAST_SMOOTHED`.
BELL_SHARE, LEAST_SMOOTHED = 0.0075, 10
# Points up to so many are drawn as dots.
MOST_DOTS = 200
# Blue and orange of Okabe and Ito's palette, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00")


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes: which metrics, and how they are drawn."""

    title: str
    metrics: tuple[str, ...]
    """Names in metrics.jsonl; a panel without any of them is left out."""
    unit: str
    is_smooth: bool = True
    """Draw a smoothed line over the points; else they are only joined."""
    is_share: bool = False
    """From 0 to 1."""
    from_zero: bool = False


PANELS = (
    Panel(title="Loss", metrics=("loss",), unit="nats (of cross-entropies)"),
    Panel(title="In-batch accuracy", metrics=("accuracy",), unit="share of queries", is_share=True),
    Panel(title="Mean similarity", metrics=("positive", "negative"), unit="similarity"),
    Panel(title="Validation", metrics=("nDCG@10",), unit="nDCG@10", is_smooth=False),
    Panel(title="Gradient norm", metrics=("grad_norm",), unit="norm before clipping"),
    Panel(title="Learning rate", metrics=("lr",), unit="per step", is_smooth=False, from_zero=True),
    Panel(title="Speed", metrics=("tokens_per_s",), unit="tokens per second", from_zero=True),
)


def draw_curves(run_folder: Path | str) -> Path:
    """Draw what `metrics.jsonl` holds into `curves.png`, in place of an earlier one.

    Args:
        run_folder: Of a training, finished or not.

    Returns:
        The picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: There is no row to draw.
    """
    run_folder = Path(run_folder)
    figure = make_figure(read_metrics(run_folder), _describe(run_folder))
    path = run_folder / CURVES_FILE
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=PIXELS_PER_INCH)
    return path


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The rows of a run by ascending step; of rows of the same step the last one counts.

    Raises:
        DataError: There is none.
    """
    path = run_folder / METRICS_FILE
    rows = {row["step"]: row for row in read_rows(path)} if path.is_file() else {}
    if not rows:
        raise DataError(f"{path} has no row to draw", hint="name the folder of a training that has made a step")
    return [rows[step] for step in sorted(rows)]


def make_figure(rows: Sequence[Mapping[str, Any]], title: str) -> "Figure":
    """Axes for each panel that the rows have numbers for, two in a line.

    Args:
        rows: Of metrics.jsonl, by ascending step. What is no finite number leaves a gap.
        title: Above them all.

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: No panel has a number.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing the curves needs matplotlib", hint="pip install 'diffembed[plot]'") from None
    steps = np.array([row["step"] for row in rows], np.float64)
    found = []
    for panel in PANELS:
        series = {name: np.array([_number(row.get(name)) for row in rows]) for name in panel.metrics}
        series = {name: values for name, values in series.items() if np.isfinite(values).any()}
        if series:
            found.append((panel, series))
    if not found:
        raise DataError("the rows hold no finite number to draw", hint="see metrics.jsonl")
    lines = -(-len(found) // 2)
    # No pyplot: it would choose a window system, and keep the figure for ever.
    figure = Figure(figsize=(2 * PANEL_WIDTH, lines * PANEL_HEIGHT + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for number, (panel, series) in enumerate(found, start=1):
        axes = figure.add_subplot(lines, 2, number)
        _draw(axes, panel, steps, series)
        axes.set_xlim(*_span(steps))
    figure.supxlabel("step", fontsize=9)
    return figure


def smoothed(values: np.ndarray, bell_width: float) -> np.ndarray:
    """A centred mean weighted by a bell, so that it neither lags behind nor is pulled to the ends.

    Args:
        values: (N,), evenly spaced; what is not finite has no weight.
        bell_width: Standard deviation of the bell, in points.

    Returns:
        (N,); NaN where no finite value is within three standard deviations.
    """
    reach = max(1, math.ceil(3 * bell_width))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / bell_width) ** 2)
    is_finite = np.isfinite(values)
    weights = np.convolve(is_finite.astype(np.float64), bell)[reach : reach + len(values)]
    sums = np.convolve(np.where(is_finite, values, 0.0), bell)[reach : reach + len(values)]
    return np.divide(sums, weights, out=np.full(len(values), np.nan), where=weights > 0)


def _draw(axes: "Axes", panel: Panel, steps: np.ndarray, series: Mapping[str, np.ndarray]) -> None:
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        is_finite = np.isfinite(values)
        count = int(is_finite.sum())
        is_smooth = panel.is_smooth and count >= LEAST_SMOOTHED
        has_dots = count <= MOST_DOTS and panel.metrics != ("lr",)
        dots: dict[str, Any] = {"marker": ".", "markersize": 3} if has_dots else {}
        label = name if len(panel.metrics) > 1 and not is_smooth else None
        shown = np.where(is_finite, values, np.nan)
        if not is_smooth:
            shown, at = values[is_finite], steps[is_finite]  # measured now and then: the points are joined
            axes.plot(at, shown, color=colour, linewidth=1.4, label=label, **dots)
            continue
        style: dict[str, Any] = {"linestyle": "none", **dots} if dots else {"linewidth": 0.6}
        axes.plot(steps, shown, color=colour, alpha=0.35, **style)
        smooth = smoothed(shown, max(1.0, BELL_SHARE * len(values)))
        axes.plot(steps, smooth, color=colour, linewidth=1.6, label=name if len(panel.metrics) > 1 else None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:,g}")
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.is_share:
        axes.set_ylim(-0.02, 1.02)
    elif panel.from_zero:
        axes.set_ylim(bottom=0)
    if len(panel.metrics) > 1:
        axes.legend(frameon=False, fontsize=8)


def _span(steps: np.ndarray) -> tuple[float, float]:
    """From the first step to the last, with room for the dots there."""
    first, last = float(steps[0]), float(steps[-1])
    room = max(0.5, 0.01 * (last - first))
    return first - room, last + room


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _describe(run_folder: Path) -> str:
    """What run this is: its folder, and the model that it began with where its configuration says one."""
    try:
        init = json.loads((run_folder / CONFIG_FILE).read_text(encoding="utf-8")).get("init")
    except (OSError, ValueError, AttributeError, RecursionError):
        init = None
    return run_folder.resolve().name + (f", from {init}" if isinstance(init, str) else "")
