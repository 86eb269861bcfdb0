import numpy as np
import pytest

from diffembed.errors import ConfigError
from diffembed.index import fusion
from diffembed.index.fusion import hybrid, reciprocal_rank, weighted_scores
from diffembed.index.hits import NO_ROW, Hits


def hits(*queries: list[tuple[int, float]]) -> Hits:
    rows = np.array([[row for row, _ in query] for query in queries], np.int64)
    scores = np.array([[score for _, score in query] for query in queries], np.float32)
    return Hits(scores, rows)


FIRST = hits([(7, 0.9), (3, 0.5), (1, 0.1)])
SECOND = hits([(3, 12.0), (9, 6.0), (NO_ROW, 0.0)])


def test_reciprocal_rank_by_hand() -> None:
    found = reciprocal_rank([FIRST, SECOND], 10)
    assert found.rows[0].tolist() == [3, 7, 9, 1, NO_ROW, NO_ROW]
    assert np.allclose(found.scores[0], [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63, 0, 0])
    weighted = reciprocal_rank([FIRST, SECOND], 2, weights=[3, 1], constant=0)
    assert weighted.rows[0].tolist() == [7, 3]
    assert np.allclose(weighted.scores[0], [3 / 1, 3 / 2 + 1 / 1])


def test_weighted_scores_by_hand() -> None:
    # First: lowest .1, deviation sqrt(.32 / 3). Second, with the padded zero: lowest 0, deviation sqrt(72 / 3).
    one, two = 1 / np.sqrt(0.32 / 3), 1 / np.sqrt(24)
    found = weighted_scores([FIRST, SECOND], 3, weights=[0.25, 0.75])
    expected = {7: 0.25 * 0.8 * one, 3: 0.25 * 0.4 * one + 0.75 * 12 * two, 1: 0.0, 9: 0.75 * 6 * two}
    order = sorted(expected, key=lambda row: -expected[row])[:3]
    assert found.rows[0].tolist() == order
    assert np.allclose(found.scores[0], [expected[row] for row in order])


def test_the_scale_of_a_search_makes_no_difference() -> None:
    moved = Hits(FIRST.scores * 50 + 3, FIRST.rows)
    plain, other = (weighted_scores([each, SECOND], 4, weights=[0.5, 0.5]) for each in (FIRST, moved))
    assert plain.rows.tolist() == other.rows.tolist()
    assert np.allclose(plain.scores, other.scores, atol=1e-5)


def test_the_ends_of_the_weight_are_the_searches_themselves() -> None:
    assert hybrid(FIRST, SECOND, 2, dense_weight=1).rows[0].tolist() == [7, 3]
    assert hybrid(FIRST, SECOND, 2, dense_weight=0).rows[0].tolist() == [3, 9]


def test_a_search_without_hits_leaves_the_other_in_order() -> None:
    nothing = hits([(NO_ROW, 0.0), (NO_ROW, 0.0)])
    assert hybrid(FIRST, nothing, 5).rows[0].tolist() == [7, 3, 1, NO_ROW, NO_ROW]
    assert hybrid(nothing, nothing, 2).rows[0].tolist() == [NO_ROW, NO_ROW]
    empty = Hits(np.zeros((1, 0), np.float32), np.zeros((1, 0), np.int64))
    assert hybrid(empty, empty, 2).rows.shape == (1, 0)


def test_a_single_match_by_words_wins_over_the_crowd() -> None:
    # Row 50 alone holds the rare word; the dense search ranks it last of 100.
    dense = hits([(row, 0.6 - 0.001 * row) for row in range(100) if row != 50] + [(50, 0.4)])
    lexical = hits([(50, 9.0)] + [(NO_ROW, 0.0)] * 99)
    assert hybrid(dense, lexical, 1).rows[0].tolist() == [50]


def test_equal_scores_stand_in_the_order_of_rows_and_queries_do_not_mix() -> None:
    first = hits([(5, 1.0), (2, 1.0)], [(8, 2.0), (4, 1.0)])
    found = weighted_scores([first], 2, weights=[1])
    assert found.rows.tolist() == [[2, 5], [8, 4]]


def test_how_many_are_asked_for_does_not_change_the_order() -> None:
    rng = np.random.default_rng(0)
    sizes = (3, 400)
    dense = Hits(
        -np.sort(-rng.normal(size=sizes)).astype(np.float32), np.stack([rng.permutation(400) for _ in range(3)])
    )
    lexical = Hits(
        -np.sort(-rng.gamma(1, size=sizes)).astype(np.float32), np.stack([rng.permutation(400) for _ in range(3)])
    )
    deep = hybrid(dense, lexical, 150)
    cut = [Hits(each.scores[:, : fusion.CANDIDATES], each.rows[:, : fusion.CANDIDATES]) for each in (dense, lexical)]
    assert hybrid(*cut, 5).rows.tolist() == deep.rows[:, :5].tolist()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"0\.\.1, got 1\.5"):
        hybrid(FIRST, SECOND, 1, dense_weight=1.5)
    with pytest.raises(ConfigError, match="2 searches.*1 weights"):
        weighted_scores([FIRST, SECOND], 1, weights=[1])
    with pytest.raises(ConfigError, match="different numbers of queries"):
        reciprocal_rank([FIRST, hits([(1, 1.0)], [(2, 1.0)])], 1)
