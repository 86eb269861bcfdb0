import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import ConfigError, DataError
from diffembed.index import exact
from diffembed.index.exact import search


def brute_force(query_BE: np.ndarray, passage_PE: np.ndarray, k: int) -> tuple[list[list[float]], list[list[int]]]:
    scores, rows = [], []
    for query in query_BE:
        # Small whole numbers make every product exact, so ties are ties for both.
        found = sorted(((-float(query @ passage), row) for row, passage in enumerate(passage_PE)))[:k]
        scores.append([-score for score, _ in found])
        rows.append([row for _, row in found])
    return scores, rows


@given(
    queries=st.integers(1, 5),
    passages=st.integers(1, 30),
    k=st.integers(1, 40),
    seed=st.integers(0, 99),
    width=st.just(3),
)
def test_equals_brute_force_with_ties_by_row(queries: int, passages: int, k: int, seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    query_BE = rng.integers(-2, 3, (queries, width)).astype(np.float32)
    passage_PE = rng.integers(-2, 3, (passages, width)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "PASSAGE_BLOCK", 4)
        patch.setattr(exact, "QUERY_BLOCK", 2)
        hits = search(query_BE, passage_PE, k)
    scores, rows = brute_force(query_BE, passage_PE, k)
    assert hits.rows.tolist() == rows
    assert hits.scores.tolist() == scores
    assert hits.scores.dtype == np.float32


def test_a_wide_corpus_gives_the_same_in_one_block_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query_BE, passage_PE = rng.normal(size=(7, 16)), rng.normal(size=(1_000, 16))
    whole = search(query_BE, passage_PE, 20)
    monkeypatch.setattr(exact, "PASSAGE_BLOCK", 64)
    assert search(query_BE, passage_PE, 20).rows.tolist() == whole.rows.tolist()


def test_float16_and_memory_maps_are_read_in_blocks(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    passage_PE = rng.normal(size=(200, 8)).astype(np.float16)
    np.save(tmp_path / "p.npy", passage_PE)
    monkeypatch.setattr(exact, "PASSAGE_BLOCK", 32)
    query_BE = rng.normal(size=(3, 8)).astype(np.float32)
    expected = np.argsort(-(query_BE @ passage_PE.astype(np.float32).T), axis=1)[:, :5]
    assert search(query_BE, np.load(tmp_path / "p.npy", mmap_mode="r"), 5).rows.tolist() == expected.tolist()


def test_no_passages_and_no_queries() -> None:
    assert search(np.ones((2, 4)), np.ones((0, 4)), 3).rows.shape == (2, 0)
    assert search(np.ones((0, 4)), np.ones((5, 4)), 3).rows.shape == (0, 3)


def test_refusals() -> None:
    with pytest.raises(DataError, match=r"\(1, 3\).*\(2, 4\)"):
        search(np.ones((1, 3)), np.ones((2, 4)), 1)
    for k in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="k must be"):
            search(np.ones((1, 3)), np.ones((2, 3)), k)  # type: ignore[arg-type]
    passage_PE = np.ones((4, 3))
    passage_PE[2, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        search(np.ones((1, 3)), passage_PE, 1)
