"""Event files: TensorBoard's own reader finds each row once, whatever has happened to the run."""

import builtins
import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffembed.cli import main as diffembed
from diffembed.errors import MissingExtraError
from diffembed.training import events
from diffembed.training.events import EventFiles
from tests.training.tiny_runs import rows, run, settings, write_text


@pytest.fixture
def no_tensorboard(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def with_events(config, **changes):
    return replace(config, loop=replace(config.loop, tensorboard=True, **changes))


@pytest.mark.extra
def test_a_run_and_its_second_part_give_each_point_once(tmp_path: Path) -> None:
    data, out = write_text(tmp_path / "data"), tmp_path / "run"
    config = with_events(settings(12, every=5))

    class Stop(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        real = EventFiles.add

        def add(self, row):  # dies at step 8: steps 6 and 7 have been written, and will be made again
            if row["step"] == 8:
                raise Stop
            real(self, row)

        patch.setattr(EventFiles, "add", add)
        with pytest.raises(Stop):
            run(out, data, config)
    assert [step for step, _ in scalars(out / "tensorboard")["loss"]] == [1, 2, 3, 4, 5, 6, 7]
    run(out, data, config, resume=True)
    shown = scalars(out / "tensorboard")
    written = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert shown.keys() == written[0].keys() - {"step", "seconds"} and {"loss", "lr", "tokens_per_s"} <= shown.keys()
    for tag, points in shown.items():
        assert [step for step, _ in points] == list(range(1, 13))
        assert [value for _, value in points] == pytest.approx([row[tag] for row in written], rel=1e-6)  # fp32 there
    assert len(list((out / "tensorboard").iterdir())) == 1


@pytest.mark.extra
def test_times_are_those_of_the_training(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventFiles(tmp_path, 100.0) as files:
        for step, seconds in ((1, 30.0), (2, 90.0), (3, 100.0)):
            files.add({"step": step, "seconds": seconds, "loss": 1.0, "note": "no number"})
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    times = [each.wall_time for each in found.Scalars("loss")]
    assert [time - times[0] for time in times] == pytest.approx([0, 60, 70])
    assert found.Tags()["scalars"] == ["loss"]


@pytest.mark.extra
def test_none_are_written_unless_asked_for(tmp_path: Path) -> None:
    run(tmp_path / "run", write_text(tmp_path / "data"), settings(2))
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_without_the_package_nothing_is_made(no_tensorboard, tmp_path, capsys) -> None:
    with pytest.raises(MissingExtraError, match="not installed") as caught:
        events.require_tensorboard()
    assert "diffembed[tensorboard]" in caught.value.hint
    assert diffembed(["pretrain", "smoke", "--out", str(tmp_path / "run"), "--tensorboard"]) == 1
    assert "diffembed[tensorboard]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_option_is_a_setting(no_tensorboard, capsys) -> None:
    assert diffembed(["pretrain", "smoke", "--tensorboard", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["loop"]["tensorboard"] is True


@pytest.mark.extra
def test_a_full_disk_ends_the_events_and_not_the_training(tmp_path, capsys, monkeypatch) -> None:
    files = EventFiles(tmp_path, 0.0)

    def full(*unused):
        raise OSError(28, "No space left on device")

    with files:
        monkeypatch.setattr(files._writer, "add_scalar", full)
        files.add({"step": 1, "loss": 1.0, "lr": 0.1})
        files.add({"step": 2, "loss": 1.0})
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_rows_hold_time_and_speed(tmp_path: Path) -> None:
    run(tmp_path / "run", write_text(tmp_path / "data"), settings(4))
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in written]
    assert seconds == sorted(seconds) and seconds[0] > 0
    for before, row in zip(written, written[1:], strict=False):
        spent = max(row["seconds"] - before["seconds"], 1e-3)
        assert row["tokens_per_s"] * spent == pytest.approx(row["tokens"] - before["tokens"], rel=0.3)
    assert rows(tmp_path / "run")[0].keys().isdisjoint({"seconds", "tokens_per_s"})
