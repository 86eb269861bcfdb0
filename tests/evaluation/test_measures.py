import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import ConfigError
from diffembed.evaluation.measures import measure, rank

JUDGED = {"a": 3, "b": 0, "c": 1, "d": 2, "never": 1}


@pytest.mark.parametrize(
    ("name", "ranking", "expected"),
    [
        ("nDCG@10", "abcd", (3 + 1 / 2 + 2 / math.log2(5)) / (3 + 2 / math.log2(3) + 1 / 2 + 1 / math.log2(5))),
        ("nDCG@2", "ba", (3 / math.log2(3)) / (3 + 2 / math.log2(3))),
        ("nDCG@1", "d", 2 / 3),
        ("nDCG@10", "", 0),
        ("Recall@2", "abcd", 1 / 4),
        ("Recall@10", "abcd", 3 / 4),
        ("RR@10", "bxd", 1 / 3),
        ("RR@2", "bxd", 0),
        ("Acc@1", "ba", 0),
        ("Acc@1", "ab", 1),
        ("Acc@2", "ba", 1),
    ],
)
def test_by_hand(name: str, ranking: str, expected: float) -> None:
    assert measure(name)(list(ranking), JUDGED) == pytest.approx(expected, abs=1e-12)


def test_without_a_relevant_document_everything_is_0() -> None:
    for name in ("nDCG@10", "Recall@10", "RR@10", "Acc@1"):
        assert measure(name)(["a"], {"a": 0, "b": -1}) == 0


def test_equal_scores_are_ranked_by_id_from_last_to_first() -> None:
    # 1 + 1e-10 is 1 in single precision, in which trec_eval keeps scores.
    assert rank({"a": 1.0 + 1e-10, "c": 1.0, "b": 1.0, "z": 0.5}) == ["c", "b", "a", "z"]


@pytest.mark.parametrize("name", ["ndcg@10", "nDCG", "nDCG@0", "nDCG@-1", "MAP@10", "nDCG@1.5", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown measure"):
        measure(name)


ids = st.sampled_from([f"d{i}" for i in range(12)])


@pytest.mark.extra
@given(
    judged=st.dictionaries(ids, st.integers(-1, 3), min_size=1),
    scores=st.dictionaries(ids, st.sampled_from([-1.0, 0.0, 0.5, 0.5 + 1e-10, 0.5 + 1e-7, 2.0, 3.0]), min_size=1),
)
def test_equals_trec_eval(judged: dict[str, int], scores: dict[str, float]) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    names = {"nDCG@3": "ndcg_cut_3", "nDCG@10": "ndcg_cut_10", "Recall@5": "recall_5", "Acc@1": "success_1"}
    wanted = {"ndcg_cut.3,10", "recall.5", "success.1", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator({"q": judged}, wanted).evaluate({"q": scores})["q"]
    ranking = rank(scores)
    for ours, other in {**names, "RR@1000": "recip_rank"}.items():
        assert measure(ours)(ranking, judged) == pytest.approx(theirs[other], abs=1e-9), ours
