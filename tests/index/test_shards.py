from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import IndexFormatError
from diffembed.index import exact, shards
from diffembed.index.shards import PRECISIONS, Shards

DIMS = 3
TOKEN = "0123abcd"


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


def fresh(base: Path, precision: str, dims: int = DIMS) -> Shards:
    folder = base / str(sum(1 for _ in base.iterdir()))
    return Shards(folder, TOKEN, 1, dims, precision)  # type: ignore[arg-type]


def random_rows(count: int, seed: int, dims: int = DIMS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dims)).astype(np.float32)


def stored(vectors_NE: np.ndarray, precision: str) -> np.ndarray:
    """What `take` has to give: the finest format that is kept."""
    return vectors_NE.astype(np.float32 if precision == "float32" else np.float16).astype(np.float32)


writes = st.lists(st.tuples(st.integers(1, 11), st.booleans()), min_size=1, max_size=6)


@examples(40)
@given(precision=st.sampled_from(PRECISIONS), writes=writes, data=st.data())
def test_what_counts_is_read_back_whatever_killed_writers_left(base: Path, precision: str, writes, data) -> None:
    held, rows, digests = fresh(base, precision), np.empty((0, DIMS), np.float32), []
    for seed, (count, is_kept) in enumerate(writes):
        vectors_NE = random_rows(count, seed)
        digest = held.write(len(rows), vectors_NE)
        if is_kept:
            digests.append((len(rows), count, digest))
            rows = np.concatenate([rows, vectors_NE])
    expected = stored(rows, precision)
    if precision == "int8":
        scanned = [row for part in held.parts("int8", len(rows)) for row in part]
        rough = np.array([row["values"] * row["scale"] for row in scanned]).reshape(-1, DIMS)
        assert np.abs(rough - rows).max(initial=0) <= np.abs(rows).max(initial=0) / 127
    else:
        found = [part for part in held.parts(precision, len(rows))]
        assert np.array_equal(np.concatenate([expected[:0], *found]), expected)
    wanted = data.draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), max_size=20 if len(rows) else 0))
    assert np.array_equal(held.take(np.array(wanted, np.int64), len(rows)), expected[wanted])
    for first, count, digest in digests:
        assert held.digest(first, count) == digest


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_digest_finds_any_flipped_bit(base: Path, precision: str) -> None:
    held = fresh(base, precision)
    digests = [(first, count, held.write(first, random_rows(count, first))) for first, count in ((0, 3), (3, 3))]
    for path in sorted(held.folder.iterdir()):
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert [held.digest(first, count) == digest for first, count, digest in digests].count(False) == 1
        path.write_bytes(whole)
    assert all(held.digest(first, count) == digest for first, count, digest in digests)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_that_are_lost_are_told_and_never_come_back_as_zeros(base: Path, precision: str) -> None:
    held = fresh(base, precision)
    held.write(0, random_rows(6, 0))
    for kind in held.dtypes():
        path = held.path(kind, 1)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        looks = [
            lambda kind=kind: list(held.parts(kind, 6)),
            lambda: held.expect(6),
            lambda: held.digest(3, 3),
            lambda: held.write(6, random_rows(1, 1)),
        ]
        for look in looks:
            with pytest.raises(IndexFormatError, match=f"{path.name} are cut short"):
                look()
            assert path.read_bytes() == whole[:-1]
        path.unlink()
        for look in looks:
            with pytest.raises(FileNotFoundError, match=path.name):
                look()
            assert not path.exists()
        path.write_bytes(whole)
    with pytest.raises(IndexFormatError, match="vectors 2 to 6 and has 6"):
        held.take(np.array([2, 6]), 6)
    with pytest.raises(IndexFormatError, match="vectors -1 to 2"):
        held.take(np.array([2, -1]), 6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_search_equals_brute_force_over_what_is_stored(
    base: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 300)
    monkeypatch.setattr(exact, "PASSAGE_BLOCK", 128)
    monkeypatch.setattr(shards, "LEAST_RESCORED", 1)
    held, rows = fresh(base, precision, 32), random_rows(1_000, 1, 32)
    held.write(0, rows)
    query_BE = random_rows(20, 2, 32)
    is_wanted = np.random.default_rng(3).random(1_000) < 0.5
    scores_BP = query_BE.astype(np.float64) @ stored(rows, precision).astype(np.float64).T
    for wanted in (None, is_wanted):
        allowed = np.ones(1_000, bool) if wanted is None else wanted
        found = held.search(query_BE, 1_000, 10, is_wanted=wanted)
        for scores_P, hits, scores in zip(scores_BP, found.rows, found.scores, strict=True):
            assert allowed[hits].all() and len(set(hits.tolist())) == 10
            assert np.allclose(scores, scores_P[hits], atol=1e-4)
            assert (np.diff(scores) <= 0).all()
            # In float32 two scores that are nearer than this may change places.
            tenth = np.sort(scores_P[allowed])[-10]
            assert set(np.flatnonzero(allowed & (scores_P > tenth + 1e-4))) <= set(hits.tolist())
        monkeypatch.setattr(shards, "KEPT_MAPPED_BYTES", 0)
        again = held.search(query_BE, 1_000, 10, is_wanted=wanted)
        assert again.rows.tolist() == found.rows.tolist() and again.scores.tolist() == found.scores.tolist()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_equal_vectors_have_equal_scores_and_stand_in_the_order_of_their_rows(
    base: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of no whole numbers, at the ends of blocks and of files, where a product of matrices is worked out in other ways.
    monkeypatch.setattr(shards, "SHARD_ROWS", 1_000)
    monkeypatch.setattr(exact, "PASSAGE_BLOCK", 128)
    for count in (1_719, 1_501, 999, 130):
        held, rows = fresh(base, precision, 384), random_rows(count, count, 384)
        same = np.r_[0:count:17, count - 3 : count]
        rows[same] = rows[0]
        held.write(0, rows)
        query_BE = np.concatenate([rows[:1], random_rows(4, 2, 384)])
        wide = held.search(query_BE, count, count)
        for query_1E, hits, scores in zip(query_BE[:, None], wide.rows, wide.scores, strict=True):
            for found, values in ((hits, scores), (held.search(query_1E, count, count).rows[0], scores)):
                assert found[np.isin(found, same)].tolist() == np.unique(same).tolist()
                assert len(set(values[np.isin(found, same)].tolist())) == 1


def test_int8_rescored_keeps_equal_scores_in_the_order_of_their_rows(base: Path) -> None:
    held = fresh(base, "int8")
    held.write(0, np.tile(np.array([[1, 0, 0], [0.5, 0, 0], [1, 0, 0]], np.float32), (4, 1)))
    found = held.search(np.array([[1, 0, 0]], np.float32), 12, 10)
    assert found.rows.tolist() == [[0, 2, 3, 5, 6, 8, 9, 11, 1, 4]]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_is_found_among_nothing(base: Path, precision: str) -> None:
    held = fresh(base, precision)
    assert held.search(np.ones((2, DIMS), np.float32), 0, 5).rows.shape == (2, 0)
    assert held.take(np.empty(0, np.int64), 0).shape == (0, DIMS)
    held.expect(0)
    held.write(0, np.zeros((3, DIMS), np.float32))
    assert held.search(np.empty((0, DIMS), np.float32), 3, 5).rows.shape == (0, 3)
    nobody = held.search(np.ones((2, DIMS), np.float32), 3, 5, is_wanted=np.zeros(3, bool))
    assert nobody.rows.shape == (2, 0)
    assert held.search(np.ones((1, DIMS), np.float32), 3, 5).scores.tolist() == [[0.0, 0.0, 0.0]]


def test_rows_that_are_read_and_written_again_keep_their_bytes(base: Path) -> None:
    for precision in PRECISIONS:
        held, again, rows = fresh(base, precision, 32), fresh(base, precision, 32), random_rows(50, 4, 32)
        digest = held.write(0, rows / np.linalg.norm(rows, axis=1, keepdims=True))
        assert again.write(0, held.take(np.arange(50), 50)) == digest
        for kind in held.dtypes():
            assert again.path(kind, 3).read_bytes() == held.path(kind, 3).read_bytes()


def test_a_digest_reads_only_the_files_of_its_rows(base: Path) -> None:
    held = fresh(base, "int8")
    digest = [held.write(first, random_rows(count, first)) for first, count in ((0, 9), (9, 4))][1]
    for kind in held.dtypes():
        for shard in (0, 1):
            held.path(kind, shard).unlink()
    assert held.digest(9, 4) == digest


def test_other_indexes_and_generations_go_and_the_own_stays(base: Path) -> None:
    old = fresh(base, "float16")
    new = Shards(old.folder, TOKEN, 2, DIMS, "float16")
    other = Shards(old.folder, "ffffffff", 2, DIMS, "int8")
    old.write(0, random_rows(9, 0))
    other.write(0, random_rows(9, 0))
    new.write(0, random_rows(5, 1))
    foreign = ["0001.bin", "0001-float16-00000.bin", f"{TOKEN}-0001-float16-00000.bin.txt", "weights.bin"]
    for name in foreign:
        (new.folder / name).write_text("mine")
    new.remove_others()
    own = [f"{TOKEN}-0002-float16-{shard:05d}.bin" for shard in (0, 1)]
    assert {path.name for path in new.folder.iterdir()} == {*own, *foreign}
    assert np.array_equal(new.take(np.arange(5), 5), stored(random_rows(5, 1), "float16"))
