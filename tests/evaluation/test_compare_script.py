import json
from pathlib import Path

import pytest

from diffembed.evaluation.evaluate import evaluate_bm25, evaluate_embedder, evaluate_fused
from scripts.compare import main
from tests.evaluation.test_evaluate import make_task, write_task
from tests.hashed_words import HashedWords


@pytest.fixture
def setting(tmp_path: Path) -> tuple[list[str], Path]:
    """Two tasks, and two model folders whose only file says how wide the stand-in is."""
    write_task(tmp_path / "one", make_task())
    write_task(tmp_path / "two", make_task(queries=tuple(reversed(make_task().queries))))
    for name, dims in (("narrow", 4), ("wide", 128)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dims").write_text(str(dims))
    models = [f"{name}={tmp_path / name}" for name in ("narrow", "wide")]
    tasks = ["--task", str(tmp_path / "one"), "--task", str(tmp_path / "two")]
    return [*models, *tasks, "--cache", str(tmp_path / "cache"), "--resamples", "500"], tmp_path


def load(folder: Path) -> HashedWords:
    return HashedWords(dims=int((folder / "dims").read_text()))


def refuse(folder: Path) -> HashedWords:
    raise AssertionError(f"{folder} should have been in the cache")


def test_values_differences_and_resuming(setting, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, folder = setting
    assert (
        main([*arguments, "--json", str(folder / "rows.jsonl"), "--markdown", str(folder / "page.md")], load=load) == 0
    )
    printed = capsys.readouterr().out
    assert (folder / "page.md").read_text() == printed
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    value = {(row["model"], row["task"]): row["value"] for row in rows if "model" in row}
    task = make_task()
    assert value["bm25", "one"] == evaluate_bm25(task).value("nDCG@10")
    assert value["wide", "one"] == evaluate_embedder(HashedWords(128), task).value("nDCG@10")
    assert value["wide + bm25 at 0.2", "one"] == evaluate_fused(HashedWords(128), task).value("nDCG@10")
    difference = {(row["system"], row["baseline"], row["task"]): row for row in rows if "system" in row}
    mean = difference["wide", "narrow", "mean"]
    expected = [value["wide", each] - value["narrow", each] for each in ("one", "two")]
    assert mean["difference"] == pytest.approx(sum(expected) / 2)
    assert mean["low"] < mean["difference"] < mean["high"]
    assert mean["n"] == 30
    assert mean["p"] <= mean["p_holm"]
    assert {key[:2] for key in difference} == {
        ("wide", "narrow"),
        ("narrow + bm25 at 0.2", "bm25"),
        ("wide + bm25 at 0.2", "bm25"),
    }
    assert f"| wide | {100 * value['wide', 'one']:.1f} |" in printed
    # Again: nothing is embedded, also for other measures and weights, and the tables are the same.
    assert main(arguments, load=refuse) == 0
    assert capsys.readouterr().out == printed
    assert main([*arguments, "--measure", "Acc@1", "--dense-weight", "0.1", "0.5"], load=refuse) == 0


def test_a_changed_model_or_a_damaged_cache_is_evaluated_again(setting) -> None:
    arguments, folder = setting
    assert main(arguments, load=load) == 0
    (folder / "wide" / "dims").write_text("64")
    with pytest.raises(AssertionError, match="wide"):
        main(arguments, load=refuse)
    assert main(arguments, load=load) == 0
    for path in (folder / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(AssertionError, match="narrow"):
        main(arguments, load=refuse)
    assert main(arguments, load=load) == 0


def test_mistakes_end_in_a_line_and_a_hint(setting, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, folder = setting
    for wrong, status in ((["nameless"], 2), (["a=/nowhere"], 1), (["--measure", "MAP"], 2), (["--task", "/no"], 1)):
        assert main([*arguments, *wrong] if wrong[0][0] == "-" else [*wrong, *arguments[2:]], load=load) == status
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert "\nhint: " in message
    assert not (folder / "cache").exists()
