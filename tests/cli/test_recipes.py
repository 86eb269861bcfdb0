"""`diffembed pretrain` and `diffembed finetune`: from a recipe's name to a run."""

import json
from pathlib import Path

import pytest

from diffembed import configs, recipes
from diffembed.cli import main


@pytest.mark.parametrize(("verb", "known"), [("pretrain", "pretraining"), ("finetune", "finetuning")])
def test_dry_run_prints_the_configuration(verb: str, known: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "smoke", "--dry-run", "--set", "loop.num_steps=7", "--set", "loop.seed=3"]) == 0
    expected = configs.override(recipes.load(getattr(recipes, known)(), "smoke"), ["loop.num_steps=7", "loop.seed=3"])
    shown = capsys.readouterr()
    assert json.loads(shown.out) == configs.to_dict(expected)
    assert shown.err.startswith("trains 139,712 of 139,712 parameters") and "7 steps of" in shown.err
    assert "memory in use by each process: some" in shown.err


def test_a_dry_run_says_what_it_cannot_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "builtin", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["init"] is None and "set init" in shown.err


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["smok"], "unknown recipe `smok`", "did you mean `smoke`?"),
        (["smoke", "--set", "loop.num_stepps=7"], "`num_stepps`", "did you mean `num_steps`?"),
        (["smoke", "--set", "loop.num_steps=soon"], "must be int, got 'soon'", "value of type int"),
        (["smoke", "--set", "loop"], "cannot read the setting `loop`", "key=value"),
        (["smoke"], "--out is missing", "--out runs/first"),
    ],
)
def test_misuse(verb: str, args: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, *args]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert hint in second


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_run_directory_that_exists_is_left_alone(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_text("{}")
    assert main([verb, "smoke", "--out", str(tmp_path)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_smoke_ends_with_a_model(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([verb, "smoke", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "model")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all({"step", "loss"} <= row.keys() for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert main([verb, "smoke", "--out", str(out)]) == 1, "a second run must not overwrite the first"
