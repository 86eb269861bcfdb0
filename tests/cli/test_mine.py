"""`diffembed mine`: the whole way with the built-in model, what it refuses, and that a kill leaves no half file."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffembed.cli import main
from diffembed.embedder import Embedder

Shown = pytest.CaptureFixture[str]

TOPICS = ("bread", "trains", "rivers", "bees", "stars", "chess")
ASKS = ("how old are {}?", "who studies {}?", "what is said of {}?", "where are {} found?", "why do {} matter?")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """30 rows, six topics with five questions each."""
    rows = [
        {
            "query": ask.format(topic),
            "positives": [f"About {topic}: {ask.format('they').rstrip('?')}, as books on {topic} say."],
            "source": "made",
            **({"topic": topic} if topic == "bees" else {}),
        }
        for topic in TOPICS
        for ask in ASKS
    ]
    return write(tmp_path / "pairs.jsonl", rows)


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(args: list[str | Path], capsys: Shown, status: int) -> str:
    """The one error line of a command that ends so, and its hint."""
    assert main(["mine", *map(str, args)]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["error", "hint"]
    return shown.err


def test_the_whole_way(data: Path, tmp_path: Path, capsys: Shown) -> None:
    out = tmp_path / "mined.jsonl"
    assert main(["mine", str(data), "--out", str(out), "-n", "4", "--relative-margin", "0.1"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "30 queries, 30 candidates" in shown.err and str(out) in shown.err
    before, after = read(data), read(out)
    assert [row["query"] for row in after] == [row["query"] for row in before]
    embedder = Embedder.load()
    assert sum(len(row.get("negatives", ())) for row in after) > 60
    for row in after:
        texts = row["positives"] + row.get("negatives", [])
        cosines = embedder.encode_document(texts) @ embedder.encode_query([row["query"]])[0]
        np.testing.assert_allclose(row["scores"], cosines, atol=2e-3)  # bf16, in another batch
        assert all(score <= 0.9 * row["scores"][0] for score in row["scores"][1:])
        assert row["scores"][1:] == sorted(row["scores"][1:], reverse=True)
        assert row.get("topic") != "bees" or not any("bees" in text for text in row.get("negatives", ()))
    page = (tmp_path / "mined.jsonl.audit.md").read_text(encoding="utf-8")
    assert page.count("## Example") == 20 and "model builtin, by dense" in page


def test_words_need_no_model_and_a_corpus_brings_the_candidates(
    data: Path, tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "load", None)
    texts = [f"Nothing is known about {topic} and who studies {topic}." for topic in TOPICS]
    corpus = write(
        tmp_path / "corpus.jsonl", [{"_id": str(i), "title": "", "text": each} for i, each in enumerate(texts)]
    )
    out = tmp_path / "mined.jsonl"
    args = ["mine", data, "--out", out, "--by", "lexical", "--corpus", corpus, "-n", "2", "--no-margin"]
    assert main([*map(str, args)]) == 0
    rows = read(out)
    assert all(set(row["negatives"]) <= set(texts) for row in rows)
    for row in rows:
        topic = next(each for each in TOPICS if each in row["query"])
        assert topic in row["negatives"][0]
    assert "30 queries, 6 candidates" in capsys.readouterr().err


def test_a_second_model_has_a_veto(data: Path, tmp_path: Path) -> None:
    args = ["mine", str(data), "--by", "both", "-n", "5"]
    assert main([*args, "--out", str(tmp_path / "a.jsonl"), "--no-margin"]) == 0
    assert main([*args, "--out", str(tmp_path / "b.jsonl"), "--no-margin", "--veto", "builtin"]) == 0
    free, vetoed = read(tmp_path / "a.jsonl"), read(tmp_path / "b.jsonl")
    # The judge is the searcher itself: what it took out are those above the positive.
    above = [(a, b) for a, b in zip(free, vetoed, strict=True) if max(a["scores"]) > a["scores"][0]]
    assert above and all(max(row["scores"]) == row["scores"][0] for row in vetoed)


def test_an_existing_file_is_kept_unless_forced(data: Path, tmp_path: Path, capsys: Shown) -> None:
    out = tmp_path / "mined.jsonl"
    out.write_text("mine\n")
    args = [data, "--out", out, "--by", "lexical"]
    assert "--force" in refused(args, capsys, 2)
    assert out.read_text() == "mine\n"
    assert main(["mine", *map(str, args), "--force"]) == 0
    assert len(read(out)) == 30


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q"}, "bad.jsonl:2: there is no positive"),
        ({"query": "q", "positivs": ["p"]}, "bad.jsonl:2: `positivs` is no key"),
        ({"query": "q", "positive": "p", "negatives": ["p"]}, "bad.jsonl:2: the negative 'p' is a positive too"),
        (["q"], "bad.jsonl:2 is not a JSON object"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, capsys: Shown, row, message: str) -> None:
    data = write(tmp_path / "bad.jsonl", [{"query": "q", "positive": "p"}, row])
    assert message in refused([data, "--out", tmp_path / "mined.jsonl", "--by", "lexical"], capsys, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["none.jsonl"], 1, "none.jsonl"),
        (["{data}", "--corpus", "none.jsonl"], 1, "none.jsonl"),
        (["{data}", "--corpus", "{data}"], 1, "has no text `text`"),
        (["{data}", "--skip", "99"], 2, "ranks 100 to 100"),
        (["{data}", "--relative-margin", "-1"], 2, "relative_margin must be at least 0, got -1.0"),
        (["{data}", "--model", "no-such-folder"], 1, "no-such-folder"),
        (["{empty}"], 1, "has no row"),
    ],
)
def test_what_cannot_be_done_is_said(data: Path, tmp_path: Path, capsys: Shown, args, status, message) -> None:
    empty = write(tmp_path / "empty.jsonl", [])
    named = [each.format(data=data, empty=empty) for each in args]
    assert message in refused([*named, "--out", tmp_path / "mined.jsonl"], capsys, status)
    assert not (tmp_path / "mined.jsonl").exists()


@pytest.mark.parametrize("has_old", [False, True])
def test_a_kill_while_writing_leaves_no_half_file(data: Path, tmp_path: Path, has_old: bool) -> None:
    out = tmp_path / "mined.jsonl"
    if has_old:
        out.write_text("old\n")
    code = """
import os, signal, sys
from diffembed.cli import main
from diffembed.mining import report

as_row, count = report.as_row, 0

def killed_at_the_tenth(example):
    global count
    count += 1
    if count == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return as_row(example) | {"long": "x" * 100_000}  # so that some of it is on the disk

report.as_row = killed_at_the_tenth
main(sys.argv[1:])
"""
    args = ["mine", str(data), "--out", str(out), "--by", "lexical", *(["--force"] if has_old else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, *args], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (out.read_text() if out.exists() else None) == ("old\n" if has_old else None)
    assert main([*args, "--force"]) == 0 and len(read(out)) == 30


def test_a_kill_while_searching_leaves_nothing(data: Path, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from diffembed.cli import main
from diffembed.mining import vectors

def killed(self, *args):
    assert self._texts._file.seek(0, 2) >= 30 * 4 * 100  # the vectors are on the disk
    os.kill(os.getpid(), signal.SIGKILL)

vectors.Dense.search = killed
main(sys.argv[1:])
"""
    args = ["mine", str(data), "--out", str(tmp_path / "mined.jsonl")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, *args], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
