import re
from pathlib import Path

import pytest

from diffembed import Embedder
from diffembed.evaluation.evaluate import bm25, dense, evaluate
from diffembed.evaluation.tasks import read_task
from scripts.compare_search import main
from tests.evaluation.test_evaluate import make_task, write_task


@pytest.fixture
def setting(tmp_path: Path) -> tuple[list[str], Path]:
    """Two tasks; in the second each document is long enough for two chunks."""
    task = make_task()
    write_task(tmp_path / "short", task)
    long = tuple(" ".join(f"{part} so it is said." for part in document.split() * 9) for document in task.documents)
    write_task(tmp_path / "long", make_task(documents=long))
    tasks = ["--task", str(tmp_path / "short"), "--task", str(tmp_path / "long")]
    return [*tasks, "--cache", str(tmp_path / "cache"), "--variant", "contextual", "--variant", "plain"], tmp_path


def values(table: str, system: str) -> list[float]:
    [row] = re.findall(rf"^\| {re.escape(system)} \|(.*)\|$", table, re.MULTILINE)
    return [float(cell) for cell in row.split("|")]


def test_the_table_holds_what_the_parts_give(setting, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, folder = setting
    assert main([*arguments, "--markdown", str(folder / "table.md")]) == 0
    table = capsys.readouterr().out
    assert (folder / "table.md").read_text() == table
    tasks = [read_task(folder / name) for name in ("short", "long")]
    wanted = [100 * evaluate(task, bm25(), model="x").value("nDCG@10") for task in tasks]
    assert values(table, "bm25s documents")[:2] == pytest.approx(wanted, abs=0.051)
    # A document of one chunk has the vector that it has by itself, and the words.
    short = 100 * evaluate(tasks[0], dense(Embedder.load()), model="x").value("nDCG@10")
    assert values(table, "dense contextual")[0] == pytest.approx(short, abs=0.6)  # the index holds float16
    assert values(table, "dense contextual")[0] == values(table, "dense plain")[0]
    assert values(table, "dense contextual")[1] != values(table, "dense plain")[1]
    assert values(table, "FTS5 documents")[0] == values(table, "FTS5 chunks")[0]
    for system in ("hybrid contextual", "hybrid by ranks plain", "dense plain + bm25s documents"):
        *some, mean = values(table, system)
        assert mean == pytest.approx(sum(some) / 2, abs=0.11)
    differences = re.findall(r"^\| (.+ - .+) \| mean \| ([+-][\d.]+) \|", table, re.MULTILINE)
    assert len(differences) == 12
    for name, value in differences:
        second, first = name.split(" - ")
        assert float(value) == pytest.approx(values(table, second)[2] - values(table, first)[2], abs=0.16)


def test_what_was_indexed_is_not_embedded_again(setting, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, _ = setting
    assert main(arguments[:4] + arguments[4:6]) == 0
    first = capsys.readouterr()
    assert main(arguments[:4] + arguments[4:6]) == 0
    second = capsys.readouterr()
    assert "tokens in" in first.err and "tokens in" not in second.err
    assert first.out == second.out


def test_bad_input_is_told_before_any_work(setting, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, folder = setting
    assert main([*arguments, "--measure", "nDCG"]) == 2
    assert main(["--task", str(folder / "none"), "--cache", str(folder / "cache")]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
    assert not (folder / "cache").exists()
