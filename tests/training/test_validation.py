"""nDCG@10 during training is that of `diffembed eval`, and a task that cannot be read is named."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffembed.errors import ConfigError, DataError
from diffembed.evaluation import measures
from diffembed.evaluation.tasks import read_task
from diffembed.training.distributed import Ranks
from diffembed.training.validation import Validation, ValidationConfig, ndcg, read_judged


def write_task(folder: Path, corpus, queries, qrels: str) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


@pytest.fixture
def task(tmp_path) -> Path:
    corpus = [{"_id": f"d{i}", "title": "T" * (i % 2), "text": f"{i * i % 97} words"} for i in range(130)]
    queries = [{"_id": f"q{i}", "text": f"{i * 5 % 89}?"} for i in range(30)]
    judged = [(i, (7 * i + k * k) % 140, k % 3) for i in range(25) for k in range(5)]  # d130 and more don't exist
    rows = {(q, d): gain for q, d, gain in judged}
    lines = ["query-id\tcorpus-id\tscore", *(f"q{q}\td{d}\t{gain}" for (q, d), gain in rows.items())]
    return write_task(tmp_path / "task", corpus, queries, "\n".join(lines))


def encode(texts, role):
    table = torch.Generator().manual_seed(1)
    letters = torch.randn(128, 12, generator=table)
    sums = torch.stack([letters[list(text.encode())].sum(0) for text in texts])
    return nn.functional.normalize(sums + (role == "query"), dim=1)


def test_it_is_what_eval_measures(task):
    validation = Validation(ValidationConfig(folder=str(task), every_steps=3), encode, Ranks.alone("cpu"))
    judged = read_task(task)
    scores = encode(judged.queries, "query") @ encode(judged.documents, "document").T
    values = []
    for number, query_id in enumerate(judged.query_ids):
        ranking = measures.rank(dict(zip(judged.document_ids, scores[number].tolist(), strict=True)))
        values.append(measures.ndcg(ranking, judged.qrels[query_id], 10))
    # Equal scores may stand in another order; texts that are the same stand next to each other anyway.
    assert validation.measure() == {"nDCG@10": pytest.approx(sum(values) / len(values), abs=0.02)}
    assert [validation.is_due(step, 7) for step in range(1, 8)] == [False, False, True, False, False, True, True]


@given(
    gains=st.dictionaries(st.integers(0, 14), st.integers(-1, 3)),
    best=st.permutations(list(range(12))),
    unknown=st.lists(st.integers(0, 3), max_size=3),
)
def test_ndcg_equals_the_one_of_eval(gains, best, unknown):
    ids = {str(number): gain for number, gain in gains.items()} | {f"x{i}": gain for i, gain in enumerate(unknown)}
    expected = measures.ndcg([str(number) for number in best], ids, 10)
    assert ndcg(best[:10], gains, unknown) == pytest.approx(expected)


def test_queries_without_a_judgement_are_left_out(task):
    judged = read_judged(task, "test")
    assert len(judged.queries) == 25 and len(judged.documents) == 130
    assert judged.documents[1] == "T 1 words"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("corpus.jsonl", '{"_id": "a"}', r"corpus\.jsonl:1.*_id"),
        ("queries.jsonl", "[]", r"queries\.jsonl:1"),
        ("qrels/test.tsv", "a\tb\tscore\na\tb\n", r"test\.tsv:2"),
        ("qrels/test.tsv", "a\tb\tscore\n", "no judged query"),
    ],
)
def test_a_broken_task_is_named(task, name, content, complaint):
    (task / name).write_text(content)
    with pytest.raises(DataError, match=complaint):
        read_judged(task, "test")


def test_what_is_missing_is_named(task):
    with pytest.raises(DataError, match=r"no .*dev\.tsv"):
        read_judged(task, "dev")
    with pytest.raises(ConfigError, match="every_steps"):
        ValidationConfig(folder="x", every_steps=0)
