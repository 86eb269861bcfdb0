"""`scripts/explain_faithful.py`: its correlation, what it leaves out, the table."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.evaluation.tasks import read_task
from scripts import explain_faithful
from tests.examples import examples
from tests.tiny_embedders import LONG, SENTENCE, WORDS, make

DOCUMENTS = {"d0": SENTENCE, "d1": "", "d2": LONG, "d3": "five dozen jugs 🙂", "d4": "seven wizards judge"}
QRELS = [("q0", "d0", 1), ("q0", "d4", 2), ("q1", "d2", 1), ("q2", "d3", 0), ("q3", "d1", 1), ("q4", "gone", 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "task"
    (folder / "qrels").mkdir(parents=True)
    queries = {f"q{number}": " ".join(WORDS[number : number + 4]) for number in range(5)}
    for name, texts in (("corpus", DOCUMENTS), ("queries", queries)):
        rows = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join("\t".join(map(str, row)) for row in QRELS))
    make().save(tmp_path / "model")
    return folder


def test_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", str(folder), "--model", str(folder.parent / "model"), "--tokens", "12"]
    assert explain_faithful.main(arguments) == 0
    shown = capsys.readouterr().out
    rows = re.findall(r"^\| (\w+) \| ([\w -]+) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \|$", shown, re.MULTILINE)
    orders = ["share", "length", "random", "share - length", "share - random"]
    assert [row[:2] for row in rows] == [(role, name) for role in ("query", "document") for name in orders]
    assert {(role, pairs) for role, _, pairs, *_ in rows} == {("query", "3"), ("document", "2")}  # one text is empty
    means = {(role, name): float(mean) for role, name, _, mean, _, _ in rows}
    for role, name, _, mean, low, high in rows:
        assert float(low) <= float(mean) <= float(high)
        if " - " in name:
            first, second = name.split(" - ")
            assert float(mean) == pytest.approx(means[role, first] - means[role, second], abs=0.0011)
    assert explain_faithful.main(arguments) == 0
    assert capsys.readouterr().out == shown


def test_pairs_are_of_the_most_relevant_document_that_is_there(folder: Path) -> None:
    task = read_task(folder)
    rng = np.random.default_rng(0)
    pairs = explain_faithful.draw_pairs(task, 9, rng)
    assert [document for *_, document in pairs] == [DOCUMENTS["d4"], DOCUMENTS["d2"], DOCUMENTS["d1"]]
    assert len(explain_faithful.draw_pairs(task, 2, rng)) == 2


def test_each_token_is_left_out() -> None:
    embedder = make()
    pair = ("a fox", None, "lazy 🙂 dog")
    rng = np.random.default_rng(0)
    found = explain_faithful.correlate(embedder, pair, "document", 99, rng)
    *own, _ = embedder.explain("a fox", pair[2]).document
    shorter = [pair[2][: token.start] + pair[2][token.end :] for token in own]
    assert "lazy  dog" in shorter
    drops = 1 - embedder.encode_document(shorter) @ embedder.encode_query(["a fox"])[0]
    assert found["share"] == pytest.approx(explain_faithful.spearman([token.share for token in own], drops), abs=0.05)
    assert explain_faithful.correlate(embedder, ("a fox", None, "a"), "document", 99, rng) == {}


numbers = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12)


@examples(100)
@given(numbers)
def test_the_rank_correlation(pairs: list[tuple[int, int]]) -> None:
    """Ranks by counting; then Pearson's correlation as numpy has it."""
    columns = [list(column) for column in zip(*pairs, strict=True)]
    ranks = [[sum(b < a for b in column) + (column.count(a) + 1) / 2 for a in column] for column in columns]
    found = explain_faithful.spearman(*columns)
    if min(map(len, map(set, columns))) == 1:
        assert found == 0
    else:
        assert found == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_mistakes_end_in_a_line_and_a_hint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status in (
        (["--task", str(folder / "none")], 1),
        (["--task", str(folder), "--limit", "0"], 2),
        (["--task", str(folder), "--tokens", "2"], 2),
    ):
        assert explain_faithful.main(arguments) == status
        shown = capsys.readouterr()
        assert shown.out == "" and "hint" in shown.err
