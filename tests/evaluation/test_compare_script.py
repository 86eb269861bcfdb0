import json
import re
import shlex
from pathlib import Path

import pytest

from diffembed import builtin
from diffembed.evaluation.evaluate import bm25, dense, evaluate, fused
from diffembed.index import fusion
from scripts import compare
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


def load(folder: Path, dtype: str) -> HashedWords:
    assert dtype == "float32"
    return HashedWords(dims=int((folder / "dims").read_text()))


def refuse(folder: Path, dtype: str) -> HashedWords:
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
    weighted = f"bm25 at {fusion.DENSE_WEIGHT:g}"
    retrievers = {
        "bm25": bm25(),
        "wide": dense(HashedWords(128)),
        f"wide + {weighted}": fused(HashedWords(128)),
    }
    for system, retrieve in retrievers.items():
        assert value[system, "one"] == evaluate(task, retrieve, model="x").value("nDCG@10")
    assert {row["dtype"] for row in rows} == {"float32"}
    assert "models in float32" in printed
    difference = {(row["system"], row["baseline"], row["task"]): row for row in rows if "system" in row}
    mean = difference["wide", "narrow", "mean"]
    expected = [value["wide", each] - value["narrow", each] for each in ("one", "two")]
    assert mean["difference"] == pytest.approx(sum(expected) / 2)
    assert mean["low"] < mean["difference"] < mean["high"]
    assert mean["n"] == 30
    assert mean["p"] <= mean["p_holm"]
    assert {key[:2] for key in difference} == {
        ("wide", "narrow"),
        (f"narrow + {weighted}", "bm25"),
        (f"wide + {weighted}", "bm25"),
    }
    assert f"| wide | {100 * value['wide', 'one']:.1f} |" in printed
    # Again: nothing is embedded, also for other measures and weights, and the tables are the same.
    assert main(arguments, load=refuse) == 0
    assert capsys.readouterr().out == printed
    more = ["--measure", "Acc@1", "--dense-weight", "0.1", "0.5", "--by-ranks"]
    assert main([*arguments, *more], load=refuse) == 0
    printed = capsys.readouterr().out
    assert all(f"\n| wide + bm25 {how} |" in printed for how in ("at 0.1", "at 0.5", "by ranks"))
    # Another dtype gives other vectors.
    with pytest.raises(AssertionError, match="should have been in the cache"):
        main([*arguments, "--dtype", "bfloat16"], load=refuse)


def test_a_task_restricted_to_clean_queries(setting, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, folder = setting
    (folder / "clean.json").write_text(json.dumps(["q0", "q3", "q7"]))
    arguments = [*arguments, "--json", str(folder / "rows.jsonl")]

    def run(*more: str) -> tuple[dict, dict]:
        assert main([*arguments, *more], load=load) == 0
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        results = {(row["model"], row["task"]): row for row in rows if "model" in row}
        return results, {(row["system"], row["task"]): row for row in rows if "system" in row}

    plain, plain_differences = run()
    found, differences = run("--queries", f"two={folder / 'clean.json'}")
    assert {key: row for key, row in found.items() if key[1] != "two (clean)"} == plain
    assert found["wide", "two (clean)"]["queries"] == 3
    task = make_task(queries=tuple(reversed(make_task().queries)))
    values = evaluate(task, dense(HashedWords(128)), model="x").per_query["nDCG@10"]
    clean = sum(values[each] for each in ("q0", "q3", "q7")) / 3
    assert found["wide", "two (clean)"]["value"] == pytest.approx(clean)
    assert differences["wide", "two (clean)"]["n"] == 3
    assert differences["wide", "mean"] == plain_differences["wide", "mean"], "the mean is that of the whole tasks"
    assert "| one | two | two (clean) | mean |" in capsys.readouterr().out
    _, counted = run("--queries", f"two={folder / 'clean.json'}", "--clean-mean")
    assert counted["wide", "mean"]["n"] == 15 + 3
    parts = [counted["wide", each]["difference"] for each in ("one", "two (clean)")]
    assert counted["wide", "mean"]["difference"] == pytest.approx(sum(parts) / 2)


def test_the_builtin_model_by_name(
    setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, folder = setting
    monkeypatch.setattr(builtin, "FOLDER", folder / "wide")
    command = ["ours=builtin", *arguments[2:]]
    assert main(command, load=load) == 1, "a folder without a model is not taken for the built-in one"
    (folder / "wide" / "config.json").write_text("{}")
    assert main(command, load=load) == 0
    assert "| ours |" in capsys.readouterr().out


def test_the_command_shown_parses() -> None:
    [shown] = re.findall(r"^    python scripts/compare.py (.+?)\n\n", compare.__doc__ or "", re.DOTALL | re.MULTILINE)
    options = compare._parser().parse_args(shlex.split(shown.replace("\\\n", " ")))
    assert options.models[-1] == "full=builtin"


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
    (folder / "other.json").write_text('["q0", "q99"]')
    (folder / "bad.json").write_text("q0")
    for wrong, status in (
        (["nameless"], 2),
        (["a=/nowhere"], 1),
        (["--measure", "MAP"], 2),
        (["--measure", "nDCG@5000"], 2),
        (["--dense-weight", "1.5"], 2),
        (["--task", "/no"], 1),
        (["--task", str(folder / "one")], 2),
        (["--queries", "three=x"], 2),
        (["--queries", f"one={folder / 'none.json'}"], 1),
        (["--queries", f"one={folder / 'bad.json'}"], 1),
        (["--queries", f"one={folder / 'other.json'}"], 1),
    ):
        assert main([*arguments, *wrong] if wrong[0][0] == "-" else [*wrong, *arguments[2:]], load=load) == status
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert "\nhint: " in message
    assert not (folder / "cache").exists()
