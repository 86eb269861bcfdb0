import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import ConfigError, DataError
from diffembed.index import exact
from diffembed.index.exact import scaled_int8, search, search_parts, to_float32


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


# Integers and powers of two, so that every product is exact in float32 and ties are ties for the oracle too.
@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, int, np.ndarray | None]:
    """Queries, parts, all passages in float64, k, which are wanted."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts, whole = [], [np.empty((0, 3))]
    for kind in draw(st.lists(st.sampled_from(["float32", "float16", "float64", "int8"]), max_size=5)):
        values_PE = rng.integers(-2, 3, (draw(st.integers(0, 9)), 3))
        if kind == "int8":
            part = np.zeros(len(values_PE), scaled_int8(3))
            part["values"], part["scale"] = values_PE, rng.choice([0.5, 1.0, 4.0], len(values_PE))
            whole.append(values_PE * part["scale"][:, None].astype(np.float64))
        else:
            part = values_PE.astype(kind)
            whole.append(values_PE.astype(np.float64))
        parts.append(part)
    passage_PE = np.concatenate(whole)
    wanted = draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
    is_wanted_P = None if wanted is None else rng.random(len(passage_PE)) < wanted
    query_BE = rng.integers(-2, 3, (draw(st.integers(0, 4)), 3)).astype(np.float32)
    return query_BE, parts, passage_PE, draw(st.integers(1, 50)), is_wanted_P


@given(searches())
def test_parts_of_any_format_equal_brute_force(case) -> None:
    query_BE, parts, passage_PE, k, is_wanted_P = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "PASSAGE_BLOCK", 4)
        patch.setattr(exact, "QUERY_BLOCK", 2)
        hits = search_parts(query_BE, iter(parts), k, is_wanted_P=is_wanted_P)
    wanted = [row for row in range(len(passage_PE)) if is_wanted_P is None or is_wanted_P[row]]
    assert hits.rows.shape == hits.scores.shape == (len(query_BE), min(k, len(wanted)))
    for query_E, rows, scores in zip(query_BE, hits.rows.tolist(), hits.scores.tolist(), strict=True):
        expected = sorted((-float(query_E @ passage_PE[row]), row) for row in wanted)[:k]
        assert rows == [row for _, row in expected]
        assert scores == [-score for score, _ in expected]


HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("halves", [HALVES, HALVES[np.isfinite(HALVES)], HALVES[::-3], HALVES[:0]], ids=len)
def test_every_half_is_converted_as_numpy_does(halves: np.ndarray) -> None:
    found = to_float32(halves, np.empty(len(halves), np.float32))
    expected = halves.astype(np.float32)
    is_number = ~np.isnan(expected)
    assert np.array_equal(np.isnan(found), ~is_number)
    # As bits, so that minus zero is minus zero.
    assert np.array_equal(found[is_number].view(np.uint32), expected[is_number].view(np.uint32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("is_wanted", [True, False])
def test_what_is_not_finite_is_told(value: float, kind: str, is_wanted: bool) -> None:
    if kind == "int8":
        part = np.zeros(6, scaled_int8(2))
        part["values"], part["scale"] = 1, 1
        part["scale"][3] = value
    else:
        part = np.ones((6, 2), kind)
        part[3, 1] = value
    is_wanted_P = np.ones(6, bool)
    is_wanted_P[3] = is_wanted
    with pytest.raises(DataError, match="not finite among passage rows 0 to 5"):
        search_parts(np.array([[1.0, 0.0], [1.0, 1.0]]), [part], 2, is_wanted_P=is_wanted_P)


def test_queries_that_are_not_finite_or_too_large_are_told() -> None:
    for query_E in ([np.nan, 1.0], [np.inf, 1.0], [1e300, 1.0], [3e38, 3e38]):
        with pytest.raises(DataError, match="not finite"):
            search(np.array([query_E]), np.full((2, 2), 2.0), 1)


def test_parts_must_fit_the_queries() -> None:
    with pytest.raises(DataError, match=r"\(1, 3\).*\(2, 4\)"):
        search_parts(np.ones((1, 3)), [np.ones((5, 3)), np.ones((2, 4))], 1)
    with pytest.raises(DataError, match=r"\(1, 3\).*\(2, 4\)"):
        search_parts(np.ones((1, 3)), [np.zeros(2, scaled_int8(4))], 1)
    with pytest.raises(DataError, match=r"\(rows, dims\), got shape \(3,\)"):
        search_parts(np.ones(3), [], 1)
