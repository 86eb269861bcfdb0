"""Run directories: written before step 0, never overwritten, resumable only as what they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffembed.errors import ConfigError, DataError, RunExistsError
from diffembed.files import replacing
from diffembed.runs import open_run

FACTS = dict(config={"seed": 1, "steps": 5}, command=["diffembed", "x"], env={"torch": "2"})


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_the_record_stands_before_step_0(tmp_path):
    run = open_run(tmp_path / "deep" / "run", **FACTS)
    assert json.loads((run.path / "config.json").read_text()) == FACTS["config"]
    assert (run.path / "command.txt").read_text() == "diffembed x\n"
    assert json.loads((run.path / "env.json").read_text()) == {"torch": "2"}
    assert (run.path / "code.diff").read_text().startswith(("commit ", "not run from"))
    run.log(step=1, loss=2.5)
    run.finish(loss=1.0)
    assert rows(run.path) == [{"step": 1, "loss": 2.5}]
    assert json.loads((run.path / "result.json").read_text()) == {"loss": 1.0}


def test_an_existing_run_is_refused_and_untouched(tmp_path):
    run = open_run(tmp_path / "run", **FACTS)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunExistsError, match="--resume"):
        open_run(run.path, **FACTS)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_foreign_folder_is_refused_even_to_resume(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunExistsError):
        open_run(tmp_path, **FACTS, resume=True)
    (tmp_path / "thesis.txt").rename(tmp_path / "file")
    with pytest.raises(RunExistsError, match="is a file"):
        open_run(tmp_path / "file", **FACTS)


def test_resume_wants_the_same_configuration(tmp_path):
    open_run(tmp_path / "run", **FACTS)
    assert open_run(tmp_path / "run", **FACTS, resume=True).path == tmp_path / "run"
    with pytest.raises(ConfigError, match="seed"):
        open_run(tmp_path / "run", **FACTS | {"config": {"seed": 2, "steps": 5}}, resume=True)


def test_rows_past_the_checkpoint_are_forgotten(tmp_path):
    run = open_run(tmp_path / "run", **FACTS)
    for step in (1, 2, 3):
        run.log(step=step)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    run.forget_after(2)
    assert rows(run.path) == [{"step": 1}, {"step": 2}]


def test_a_kill_while_it_is_made_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path / "run", **FACTS)
    monkeypatch.undo()
    assert not (tmp_path / "run").exists()
    open_run(tmp_path / "run", **FACTS)


def test_two_processes_cannot_share_a_run(tmp_path):
    run = open_run(tmp_path / "run", **FACTS)
    code = f"from diffembed.runs import open_run; open_run({str(run.path)!r}, **{FACTS!r}, resume=True)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 1 and "still going on in another process" in done.stderr


def test_bad_input_removes_a_new_run_and_keeps_an_old_one(tmp_path):
    run = open_run(tmp_path / "run", **FACTS)
    with pytest.raises(DataError), run.preparing():
        raise DataError("a bad line", hint="mend it")
    assert not run.path.exists()
    open_run(tmp_path / "run", **FACTS).log(step=1)
    again = open_run(tmp_path / "run", **FACTS, resume=True)
    with pytest.raises(DataError), again.preparing():
        raise DataError("a bad line", hint="mend it")
    assert rows(again.path) == [{"step": 1}]


def test_a_damaged_record_is_named(tmp_path):
    path = open_run(tmp_path / "run", **FACTS).path
    (path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json"):
        open_run(path, **FACTS, resume=True)


def test_another_machine_is_noticed(tmp_path):
    open_run(tmp_path / "run", **FACTS)
    again = open_run(tmp_path / "run", **FACTS | {"env": {"torch": "3", "threads": 2}}, resume=True)
    assert again.env_changes == ["torch '2' -> '3'", "threads None -> 2"]


def test_changed_data_is_noticed_without_a_flood(tmp_path):
    before, after = (
        {"env": {"data": {"a": "1" * 64, "b": "2" * 64}}},
        {"env": {"data": {"a": "1" * 64, "b": "3" * 64}}},
    )
    open_run(tmp_path / "run", **FACTS | before)
    assert open_run(tmp_path / "run", **FACTS | after, resume=True).env_changes == ["data.b is another"]


def test_the_command_can_be_typed_again(tmp_path):
    path = open_run(tmp_path / "run", **FACTS | {"command": ["diffembed", "--out", "a b"]}).path
    assert (path / "command.txt").read_text() == "diffembed --out 'a b'\n"


def test_replacing_leaves_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
