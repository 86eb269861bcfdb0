import math

import numpy as np
import pytest

from diffembed.errors import ConfigError
from diffembed.index.hits import NO_ROW
from diffembed.index.lexical import Lexical

TEXTS = ["red apple pie", "green apple", "blue sky and clouds", "apple apple red", ""]


def by_hand(query: list[str], documents: list[list[str]], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Lucene's BM25, written out."""
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in query:
            containing = sum(word in each for each in documents)
            frequency = document.count(word)
            idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(document) / average))
        scores.append(score)
    return scores


def test_scores_equal_the_formula() -> None:
    documents = [[word for word in text.split() if word != "and"] for text in TEXTS]
    expected = by_hand(["red", "apple"], documents)
    hits = Lexical(TEXTS).search(["Red APPLE?"], 10)
    order = sorted((row for row in range(len(TEXTS)) if expected[row] > 0), key=lambda row: (-expected[row], row))
    assert hits.rows[0].tolist() == [*order, NO_ROW, NO_ROW]
    assert np.allclose(hits.scores[0], [expected[row] for row in order] + [0, 0], atol=1e-6)


def test_a_query_without_a_known_word_has_no_hits_beside_one_that_has() -> None:
    hits = Lexical(TEXTS).search(["xylophone", "", "the and of", "sky"], 3)
    assert hits.rows[:3].tolist() == [[NO_ROW] * 3] * 3
    assert hits.scores[:3].tolist() == [[0.0] * 3] * 3
    assert hits.rows[3].tolist() == [2, NO_ROW, NO_ROW]


def test_equal_texts_stand_in_the_order_of_their_rows() -> None:
    assert Lexical(["same words"] * 50 + ["other"]).search(["words"], 10).rows[0].tolist() == list(range(10))


@pytest.mark.parametrize("texts", [[], [""], ["the", "of and"], ["!?", "\n"]])
def test_a_corpus_without_words(texts: list[str]) -> None:
    hits = Lexical(texts).search(["anything"], 3)
    assert hits.rows.tolist() == [[NO_ROW] * min(3, len(texts))]


def test_no_queries_and_bad_k() -> None:
    assert Lexical(TEXTS).search([], 2).rows.shape == (0, 2)
    with pytest.raises(ConfigError, match="k must be"):
        Lexical(TEXTS).search(["apple"], 0)
