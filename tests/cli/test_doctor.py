"""`diffembed doctor`: what it prints, and its exit status."""

import json
from pathlib import Path

import pytest

from diffembed.cli import main
from tests.tiny_embedders import make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make().save(tmp_path / "model")
    return tmp_path / "model"


def test_a_sound_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder)]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "warn", "->"}
    assert any(line.startswith("ok    vectors ") and "least cosine 1.000000" in line for line in lines)
    assert shown.err.endswith(" 0 fail\n")


def test_json_has_an_object_a_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder), "--no-replay", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(row) == {"check", "status", "message", "hint"} for row in rows)
    assert "vectors" not in {row["check"] for row in rows}


def test_any_failure_is_exit_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "x\x1b[31m\nfail"}))
    assert main(["doctor", str(folder)]) == 1
    shown = capsys.readouterr()
    [line] = [line for line in shown.out.splitlines() if line.startswith("fail")]
    assert "config.json has model_type" in line
    assert "\x1b" not in shown.out and "Traceback" not in shown.err


def test_no_model_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "nowhere")]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: there is no model folder")
    assert main(["doctor"]) == 2
