"""Run directories: written before step 0, never overwritten, resumable only as what they were."""

import json

import pytest

from diffembed.errors import ConfigError, RunExistsError
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
