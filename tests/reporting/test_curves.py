"""The picture of a run: what it shows, of which runs it can be drawn, and that it is a picture."""

import builtins
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.cli import main as diffembed
from diffembed.errors import DataError, MissingExtraError
from diffembed.reporting.curves import draw_curves, make_figure, read_metrics, smoothed

extra = pytest.mark.extra


def row(step: int, **more) -> dict:
    return {
        "step": step,
        "loss": 6 - step / 100,
        "lr": 1e-3,
        "grad_norm": 1.5,
        "tokens": 100 * step,
        "seconds": step / 2,
        "tokens_per_s": 200.0,
        **more,
    }


def finetuning(step: int) -> dict:
    measured = {"nDCG@10": step / 1000} if step % 25 == 0 else {}
    return row(step, accuracy=0.5, positive=0.7, negative=0.1, row=3, pairs=256, **measured)


def record(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


def axes_of(rows: list[dict]) -> dict:
    return {axes.get_title(loc="left"): axes for axes in make_figure(rows, "a run").axes}


@pytest.fixture
def no_matplotlib(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)


@extra
def test_a_run_becomes_a_picture(tmp_path: Path) -> None:
    from matplotlib import image

    path = draw_curves(record(tmp_path / "run", [finetuning(step) for step in range(1, 101)]))
    assert path == tmp_path / "run" / "curves.png"
    pixels = image.imread(path)
    assert pixels.shape[1] == 1200 and pixels.shape[0] > 1000
    assert pixels[..., :3].mean() > 0.8 and len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50
    assert sorted(each.name for each in path.parent.iterdir()) == ["curves.png", "metrics.jsonl"]


@extra
def test_every_metric_has_its_axes() -> None:
    shown = axes_of([finetuning(step) for step in range(1, 101)])
    assert list(shown) == [
        "Loss",
        "In-batch accuracy",
        "Mean similarity",
        "Validation",
        "Gradient norm",
        "Learning rate",
        "Speed",
    ]
    assert all(axes.get_ylabel() for axes in shown.values())
    assert shown["Speed"].get_ylabel() == "tokens per second" and shown["Validation"].get_ylabel() == "nDCG@10"
    assert next(iter(shown.values())).figure.get_supxlabel() == "step"
    validation = shown["Validation"].lines[0]
    assert validation.get_xdata().tolist() == [25, 50, 75, 100]
    assert validation.get_ydata().tolist() == pytest.approx([0.025, 0.05, 0.075, 0.1])
    names = [text.get_text() for text in shown["Mean similarity"].get_legend().get_texts()]
    assert names == ["positive", "negative"]


@extra
def test_what_a_pretraining_has_not_is_left_out() -> None:
    shown = axes_of([row(step, scored=50) for step in range(1, 41)])
    assert list(shown) == ["Loss", "Gradient norm", "Learning rate", "Speed"]
    raw, smooth = shown["Loss"].lines
    assert raw.get_xdata().tolist() == list(range(1, 41)) and raw.get_ydata()[0] == pytest.approx(5.99)
    assert raw.get_alpha() < 1 and smooth.get_linewidth() > raw.get_linewidth()
    # A bell over a straight line leaves it as it is, but at its ends.
    assert smooth.get_ydata()[5:-5] == pytest.approx(raw.get_ydata()[5:-5])


@extra
@pytest.mark.parametrize("steps", [[1], [1, 2], list(range(1, 10))])
def test_few_points_are_joined(steps: list[int]) -> None:
    for axes in axes_of([row(step) for step in steps]).values():
        [line] = axes.lines
        assert line.get_xdata().tolist() == steps
        low, high = axes.get_xlim()
        assert low < steps[0] and high > steps[-1]


@extra
def test_rows_that_are_not_finite_leave_gaps() -> None:
    rows = [row(step, loss=math.nan if step % 7 == 0 else 2.0) for step in range(1, 41)]
    rows[10] = row(11, loss=math.inf)
    rows[21] = row(22, loss=None)
    raw, smooth = axes_of(rows)["Loss"].lines
    assert np.isnan(raw.get_ydata()).sum() == 7
    assert smooth.get_ydata() == pytest.approx(np.full(40, 2.0)), "their neighbours speak for them"


@extra
def test_a_run_that_was_resumed_counts_each_step_once(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", [row(1), row(2), row(3), row(2, loss=9.0), row(4)])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    rows = read_metrics(folder)
    assert [(each["step"], each["loss"]) for each in rows] == [(1, 5.99), (2, 9.0), (3, 5.97), (4, 5.96)]
    first = draw_curves(folder).read_bytes()
    assert draw_curves(folder).read_bytes() == first, "an earlier picture is replaced"


@pytest.mark.parametrize("content", [None, "", "\n\n", "[]\n3\n", '{"loss": 1}\n'])
def test_a_run_without_a_row_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError, match="no row to draw"):
        draw_curves(tmp_path)
    assert not (tmp_path / "curves.png").exists()


@extra
def test_rows_without_a_number_are_refused() -> None:
    with pytest.raises(DataError, match="no finite number"):
        make_figure([{"step": 1, "loss": math.nan, "note": "x"}], "a run")


def test_without_matplotlib(no_matplotlib, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match="needs matplotlib") as caught:
        draw_curves(record(tmp_path / "run", [row(1)]))
    assert "diffembed[plot]" in caught.value.hint


def test_without_matplotlib_a_line_says_how_to_get_it(no_matplotlib, tmp_path, capsys, monkeypatch) -> None:
    out = record(tmp_path / "run", [row(1)])
    monkeypatch.setattr("diffembed.training.pretrain.main", lambda *unused, **named: out / "model")
    assert diffembed(["pretrain", "smoke", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out / 'model'}\n"
    assert "pip install 'diffembed[plot]'" in shown.err and shown.err.count("\n") == 1


@extra
@pytest.mark.parametrize(("rank", "is_drawn"), [("0", True), ("1", False)])
def test_the_main_rank_draws(rank, is_drawn, tmp_path, capsys, monkeypatch) -> None:
    out = record(tmp_path / "run", [row(1), row(2)])
    monkeypatch.setattr("diffembed.training.pretrain.main", lambda *unused, **named: out / "model")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert diffembed(["pretrain", "smoke", "--out", str(out)]) == 0
    assert (out / "curves.png").exists() == is_drawn == ("curves.png" in capsys.readouterr().err)


numbers = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=60)


@given(numbers, st.floats(1.0, 20.0))
def test_smoothing_is_a_mean_of_what_is_near(values: list[float], width: float) -> None:
    found = smoothed(np.array(values), width)
    reach = math.ceil(3 * width)
    for at in range(len(values)):
        near = [(j, values[j]) for j in range(max(0, at - reach), min(len(values), at + reach + 1))]
        near = [(math.exp(-0.5 * ((j - at) / width) ** 2), value) for j, value in near if math.isfinite(value)]
        if not near:
            assert math.isnan(found[at])
        else:
            mean = sum(weight * value for weight, value in near) / sum(weight for weight, _ in near)
            assert found[at] == pytest.approx(mean, rel=1e-6, abs=1e-5)


@extra
def test_no_window_system_is_chosen(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.training.test_progress import environment

    folder = record(tmp_path / "run", [row(step) for step in range(1, 30)])
    code = f"from diffembed.reporting.curves import draw_curves; import sys; draw_curves({str(folder)!r})"
    code += "; assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment(MPLBACKEND="TkAgg"), check=True, timeout=60)
