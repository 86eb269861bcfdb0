import json
import random
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from diffembed.cli import main
from diffembed.errors import ConfigError, DataError
from diffembed.evaluation.evaluate import (
    DEFAULT_MEASURES,
    Result,
    bm25,
    dense,
    evaluate,
    evaluate_model,
    fused,
    retrieval_depth,
)
from diffembed.evaluation.tasks import Task
from diffembed.index.hits import NO_ROW, Hits
from tests.hashed_words import HashedWords

WORDS = [f"word{number}" for number in range(15)]


def make_task(**changes) -> Task:
    """40 documents of random words; each query is a few words of the one document that answers it."""
    draw = random.Random(0)
    documents = tuple(" ".join(draw.choices(WORDS, k=12)) for _ in range(40))
    queries = tuple(" ".join(draw.sample(documents[i].split(), 5)) for i in range(15))
    query_ids = tuple(f"q{i}" for i in range(15))
    facts = {
        "name": "words",
        "document_ids": tuple(f"d{i}" for i in range(40)),
        "documents": documents,
        "query_ids": query_ids,
        "queries": queries,
        "instructions": (None,) * 15,
        "excluded": {},
        "qrels": {query_id: {f"d{i}": 2, f"d{i + 20}": 1} for i, query_id in enumerate(query_ids)},
        "unjudged_queries": 0,
        "unknown_queries": 0,
        "unknown_documents": 0,
    }
    return Task(**{**facts, **changes})


def by_meaning(embedder: HashedWords, task: Task, **options) -> Result:
    return evaluate(task, dense(embedder), **{"model": "dense", **options})


def by_words(task: Task) -> Result:
    return evaluate(task, bm25(), model="bm25")


def by_both(embedder: HashedWords, task: Task, **options) -> Result:
    return evaluate(task, fused(embedder, **options), model="both")


@pytest.mark.extra
def test_means_equal_trec_eval_on_real_retrieval() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    task = make_task()
    embedder = HashedWords()
    ranking = {}
    for query_id, query in zip(task.query_ids, task.queries, strict=True):
        scores = embedder.encode_document(list(task.documents)) @ embedder.encode_query([query])[0]
        ranking[query_id] = dict(zip(task.document_ids, map(float, scores), strict=True))
    wanted = {"ndcg_cut.10", "recall.100", "recip_rank", "success.1"}
    theirs = pytrec_eval.RelevanceEvaluator(task.qrels, wanted).evaluate(ranking)
    result = by_meaning(embedder, task, measures=["nDCG@10", "Recall@100", "RR@1000", "Acc@1"])
    names = {"nDCG@10": "ndcg_cut_10", "Recall@100": "recall_100", "RR@1000": "recip_rank", "Acc@1": "success_1"}
    for ours, other in names.items():
        assert result.value(ours) == pytest.approx(np.mean([theirs[each][other] for each in task.query_ids]), abs=1e-6)
    assert 0.3 < result.value("nDCG@10") < 1


def test_fusion_is_bm25_at_0_and_dense_at_1() -> None:
    task = make_task()
    embedder = HashedWords(dims=8)  # weak: many words collide
    lexical, alone = by_words(task), by_meaning(embedder, task)
    assert alone.value("nDCG@10") < lexical.value("nDCG@10")
    assert by_both(embedder, task, dense_weight=0).per_query["nDCG@10"] == lexical.per_query["nDCG@10"]
    assert by_both(embedder, task, dense_weight=1).per_query["nDCG@10"] == alone.per_query["nDCG@10"]
    assert by_both(embedder, task).value("nDCG@10") > alone.value("nDCG@10")


def test_excluded_documents_are_deleted_and_leave_no_gap() -> None:
    task = make_task(queries=tuple(make_task().documents[:15]))
    assert by_meaning(HashedWords(), task).value("Acc@1") == 1
    # Without the document that it copies, the first rank goes to another one, and only the second answer is left.
    excluding = make_task(
        queries=task.queries,
        excluded={query_id: frozenset({f"d{i}"}) for i, query_id in enumerate(task.query_ids)},
        qrels={query_id: {"d1": 1, "d2": 1} for query_id in task.query_ids},
    )
    assert retrieval_depth(excluding, 10) == 11

    def in_order(task: Task, depth: int) -> Hits:
        rows = np.tile(np.arange(depth), (15, 1))
        return Hits(-rows.astype(np.float32), rows)

    values = evaluate(excluding, in_order, model="order", measures=["RR@3"], depth=3).per_query["RR@3"]
    assert values["q0"] == 1  # d0 is deleted: d1 comes first
    assert values["q1"] == 1 / 2  # d0, d2
    assert values["q5"] == 1 / 2  # d0, d1


def test_queries_without_hits_count_0() -> None:
    task = make_task(queries=("xylophone",) * 15)
    result = by_words(task)
    assert [result.value(name) for name in DEFAULT_MEASURES] == [0, 0, 0, 0]
    assert (bm25()(task, 5).rows == NO_ROW).all()


def test_each_instruction_is_passed_once_and_vectors_keep_their_places() -> None:
    class Shifted(HashedWords):
        """Obeys its instruction: it is a part of the text."""

        def encode_query(self, texts, *, instruction=None):
            self.calls.append(("query", len(texts), instruction))
            return self._encode([f"{instruction or ''} {text}" for text in texts])

    own = make_task(instructions=("find word3",) * 5 + (None,) * 5 + ("find word7",) * 5)
    embedder = Shifted()
    result = by_meaning(embedder, own)
    assert [call for call in embedder.calls if call[0] == "query"] == [
        ("query", 5, "find word3"),
        ("query", 5, None),
        ("query", 5, "find word7"),
    ]
    said = make_task(
        queries=tuple(f"{i or ''} {q}" for i, q in zip(own.instructions, own.queries, strict=True)),
    )
    assert result.per_query == by_meaning(HashedWords(), said).per_query
    assert by_words(own).per_query == by_words(said).per_query


def test_rows_are_json_with_the_facts() -> None:
    result = by_words(make_task(unknown_documents=3))
    rows = json.loads(json.dumps(result.rows()))
    assert [row["measure"] for row in rows] == list(DEFAULT_MEASURES)
    assert rows[0]["value"] == result.value("nDCG@10")
    facts = {"task": "words", "model": "bm25", "queries": 15, "documents": 40, "unknown_documents": 3}
    assert facts.items() <= rows[0].items()


def test_measures_are_checked_before_anything_runs(tmp_path) -> None:
    def never(task: Task, depth: int) -> Hits:
        raise AssertionError

    with pytest.raises(ConfigError, match="unknown measure"):
        evaluate(make_task(), never, model="x", measures=["MAP"])
    with pytest.raises(ConfigError, match="Recall@100 looks further than the 10"):
        evaluate(make_task(), never, model="x", measures=["Recall@100"], depth=10)
    with pytest.raises(ConfigError, match="no measure"):
        evaluate(make_task(), never, model="x", measures=[])
    with pytest.raises(DataError, match="no task folder"):
        list(evaluate_model("no-such-model", [tmp_path / "nowhere"]))


def test_evaluate_model_by_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    folder = write_task(tmp_path / "words", task)
    embedder = HashedWords()
    asked = []

    class Loader:
        @staticmethod
        def load(name: str, device: str | None = None) -> HashedWords:
            asked.append((name, device))
            return embedder

    module = ModuleType("diffembed.embedder")
    module.Embedder = Loader  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffembed.embedder", module)
    [lexical] = evaluate_model("bm25", [folder])
    assert asked == []
    assert lexical == by_words(task)
    other = write_task(tmp_path / "other", task)
    first, second = evaluate_model("some/folder", [folder, other], device="cpu")
    assert asked == [("some/folder", "cpu")]
    assert (first.task, second.task) == ("words", "other")
    assert first == by_meaning(embedder, task, model="some/folder")
    assert first.per_query == second.per_query
    [both] = evaluate_model("x", [folder], with_bm25=True)
    assert both == replace(by_both(embedder, task), model="x+bm25")


def test_what_would_be_ignored_or_mixed_up_is_refused(tmp_path) -> None:
    folder = write_task(tmp_path / "words", make_task())
    for wrong, message in (({"with_bm25": True}, "fused with itself"), ({"instruction": "find"}, "no instruction")):
        with pytest.raises(ConfigError, match=message):
            list(evaluate_model("bm25", [folder], **wrong))
    again = write_task(tmp_path / "elsewhere" / "words", make_task())
    with pytest.raises(ConfigError, match=r"two task folders are named words: .* and .*elsewhere"):
        list(evaluate_model("bm25", [folder, again]))


def test_values_of_each_query_on_disk(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_task(tmp_path / "words", make_task())
    command = ["eval", "bm25", "--task", str(folder), "--json", "--measure", "nDCG@10", "--measure", "Acc@1"]
    assert main([*command, "--per-query", str(tmp_path / "nowhere" / "q.jsonl")]) == 1
    assert main([*command, "--per-query", str(tmp_path / "q.jsonl")]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [(row["task"], row["model"], row["query"]) for row in rows] == [
        ("words", "bm25", f"q{i}") for i in range(15)
    ]
    for row in printed:
        assert row["value"] == pytest.approx(np.mean([query[row["measure"]] for query in rows]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.jsonl", "words"]


def write_task(folder, task: Task):
    (folder / "qrels").mkdir(parents=True)
    for stem, ids, texts in (("corpus", task.document_ids, task.documents), ("queries", task.query_ids, task.queries)):
        rows = [json.dumps({"_id": each, "text": text}) for each, text in zip(ids, texts, strict=True)]
        (folder / f"{stem}.jsonl").write_text("\n".join(rows))
    lines = [
        f"{query}\t{document}\t{value}" for query, judged in task.qrels.items() for document, value in judged.items()
    ]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines))
    return folder


def test_several_vectors_a_text_are_compared_by_maxsim() -> None:
    """Words as vectors of their own: the largest product of a query's word is 1 where the document has the word."""
    axes = dict(zip(WORDS, np.eye(len(WORDS), dtype=np.float32), strict=True))

    class Words:
        def encode_query(self, texts, *, instruction=None):
            return np.array([[axes[word] for word in text.split()] for text in texts])

        def encode_document(self, texts):
            return self.encode_query(texts)

    task = make_task()
    hits = dense(Words())(task, 7)
    assert hits.rows.shape == (15, 7)
    for query, scores, rows in zip(task.queries, hits.scores, hits.rows, strict=True):
        shares = [np.mean([word in text.split() for word in query.split()]) for text in task.documents]
        expected = sorted(range(40), key=lambda number: (-shares[number], number))[:7]
        assert rows.tolist() == expected
        np.testing.assert_allclose(scores, [shares[number] for number in expected], atol=1e-6)
