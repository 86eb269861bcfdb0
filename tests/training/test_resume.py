"""Nothing is lost: signals, full disks, losses that are no numbers, and going on at any step."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffembed import configs, runs
from diffembed.errors import CheckpointError, ConfigError, DiffembedError
from diffembed.training import checkpoint
from diffembed.training.loop_config import LoopConfig
from tests.training.tiny_runs import CHILD, losses, rows, run, settings, write_text


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out, data, settings())
    return out


@contextmanager
def largest_file(num_bytes: int):
    """The system refuses to write past so many bytes of a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def full_at(monkeypatch, *steps: int) -> None:
    """The disk is full while the checkpoints of these steps are written."""
    real = checkpoint.save

    def save(path, step, *rest):
        if step not in steps:
            return real(path, step, *rest)
        with largest_file(20_000):
            return real(path, step, *rest)

    monkeypatch.setattr(checkpoint, "save", save)


def test_any_step_is_a_place_to_go_on_from(tmp_path):
    """Stopped after every single step, over the edges of several passes through the text."""
    text = write_text(tmp_path / "text")
    docs = text / "made" / "docs.jsonl"
    docs.write_text("".join(docs.read_text().splitlines(keepends=True)[:60]))
    config = settings(num_steps=16, every=1, tokens_per_step=640)
    run(tmp_path / "whole", text, config)

    def signalled(real):
        def save(path, step, *rest):
            saved = real(path, step, *rest)
            os.kill(os.getpid(), signal.SIGTERM)
            return saved

        return save

    times = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", signalled(checkpoint.save))
        while not (tmp_path / "parts" / "result.json").exists():
            try:
                run(tmp_path / "parts", text, config, resume=True)
            except SystemExit as stopped:
                assert stopped.code == 128 + signal.SIGTERM
            times += 1
    assert times >= 8  # a step sees the signal that came in the one before
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("parts", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_ends_with_its_own_status(data, tmp_path, number):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(configs.to_dict(settings(num_steps=100_000, every=100_000))))
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), path, data, tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number and "--resume goes on from there" in said
    assert checkpoint.list_steps(tmp_path / "run") == [losses(tmp_path / "run")[-1][0]]


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(data, whole, tmp_path, monkeypatch, capsys):
    full_at(monkeypatch, 10)
    run(tmp_path / "run", data, settings())
    said = capsys.readouterr().err
    assert "step 10: the checkpoint could not be written" in said and "the training goes on" in said
    assert checkpoint.list_steps(tmp_path / "run") == [5, 12]
    assert losses(tmp_path / "run") == losses(whole)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == (
        whole / "model" / "model.safetensors"
    ).read_bytes()


def test_a_disk_that_is_full_at_the_end_is_an_error_and_the_run_can_go_on(data, whole, tmp_path, monkeypatch):
    full_at(monkeypatch, 12)
    with pytest.raises(CheckpointError, match="could not be written"):
        run(tmp_path / "run", data, settings())
    assert checkpoint.list_steps(tmp_path / "run") == [5, 10]
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    run(tmp_path / "run", data, settings(), resume=True)
    assert losses(tmp_path / "run") == losses(whole)


def test_rows_wait_while_the_disk_is_full(tmp_path):
    open_run = runs.open_run(tmp_path / "run", config={}, command=["test"], env={})
    open_run.log(step=1, loss=1.0)
    size = (tmp_path / "run" / "metrics.jsonl").stat().st_size
    with largest_file(size + 5):
        open_run.log(step=2, loss=2.0)
        open_run.log(step=3, loss=3.0)
        assert losses(tmp_path / "run") == [(1, 1.0)]  # and no half row
        with pytest.raises(DiffembedError, match="lacks rows"):
            open_run.finish(loss=3.0)
    open_run.log(step=4, loss=4.0)
    assert losses(tmp_path / "run") == [(step, float(step)) for step in (1, 2, 3, 4)]
    open_run.finish(loss=4.0)


def test_the_batch_of_a_loss_that_is_no_number_is_kept(data, tmp_path, monkeypatch):
    from diffembed.training import scoring

    real, calls = scoring.planned_loss, []

    def planned_loss(plan, states, table):
        calls.append(plan.input_ids_T)
        return real(plan, states, table) * (float("nan") if len(calls) == 17 else 1)

    monkeypatch.setattr(scoring, "planned_loss", planned_loss)
    with pytest.raises(DiffembedError, match=r"must be finite; its batch is in .*bad_batch\.json"):
        run(tmp_path / "run", data, settings())
    bad = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    assert bad["loss"] == "nan" and bad["step"] == losses(tmp_path / "run")[-1][0] + 1
    lengths = {len(ids) for ids in bad["batch"]["ids"]}
    assert lengths and sum(len(ids) for ids in bad["batch"]["ids"]) <= 384
    assert checkpoint.list_steps(tmp_path / "run") == [5]


def test_a_loss_that_stays_astray_ends_the_run(data, tmp_path, monkeypatch):
    from diffembed.training import scoring

    real, steps = scoring.planned_loss, []

    def planned_loss(plan, states, table):
        steps.append(None)
        is_astray = len(steps) // 4 in (60, *range(70, 200))  # one outlier, then no end
        return real(plan, states, table) * (30 if is_astray else 1)

    monkeypatch.setattr(scoring, "planned_loss", planned_loss)
    config = settings(num_steps=150)
    config = replace(config, loop=replace(config.loop, divergence_factor=4.0, divergence_steps=5))
    with pytest.raises(DiffembedError, match="for 5 steps the loss has been above 4 times its median"):
        run(tmp_path / "run", data, config)
    assert len(losses(tmp_path / "run")) > 50


@pytest.mark.parametrize("changes", [{"divergence_factor": 1.0}, {"divergence_steps": 0}])
def test_impossible_limits_are_refused(changes):
    with pytest.raises(ConfigError, match="divergence"):
        LoopConfig(**({"num_steps": 3} | changes))


def test_a_copied_run_goes_on_elsewhere(data, whole, tmp_path):
    """Checkpoints name no path of their own: a run that was moved is the same run."""
    shutil.copytree(whole, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "00000012")
    run(tmp_path / "moved", data, settings(), resume=True)
    assert rows(tmp_path / "moved") == rows(whole)
