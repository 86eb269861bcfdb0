"""What a run sees: no clash in a batch, no pair twice before all once, shares as asked, the same on every start."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data.batches import PairBatches, deal, share_out
from diffembed.data.pair_store import MixRow, PairStore, fingerprint
from diffembed.data.pairs import Pair
from diffembed.errors import ConfigError, DataError


def row(source: str = "*", kind: str = "*", weight: float = 1.0, passage_tokens: int = 8) -> MixRow:
    return MixRow(source=source, kind=kind, weight=weight, instruction="", passage_tokens=passage_tokens)


def some_pairs(source: str, count: int, kind: str = "k") -> list[Pair]:
    return [Pair(f"{source} {kind} q{i}", f"{source} {kind} p{i}", source, kind) for i in range(count)]


def build(folder: Path, pairs: list[Pair], mix: list[MixRow]) -> PairStore:
    return PairStore.build(folder, iter(pairs), mix, [1000] * len(mix))


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    pairs = [
        Pair("naïve 🙂\n", "日本語 text", "a", "k"),
        Pair("q", "p " * 900, "a", "k"),
        Pair("x\ud800", "y", "a", "k"),
    ]
    build(tmp_path, pairs, [row()])
    store = PairStore.open(tmp_path)
    assert store is not None
    queries, passages = store.read([2, 0, 1])
    assert queries == ["x?", "naïve 🙂\n", "q"]
    assert passages == ["y", "日本語 text", ("p " * 900)[:1000]]


def test_blank_equal_and_unwanted_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    pairs = [Pair("q", "p", "a", "k"), Pair(" ", "p", "a", "k"), Pair("Same  text", "same text", "a", "k")]
    store = build(tmp_path, [*pairs, Pair("q", "p", "b", "k")], [row("a")])
    assert len(store) == 1
    assert store.dropped == {"a text is blank, or both are the same": 2, "no row of the mix fits b k": 1}


def test_an_unfinished_store_is_not_opened(tmp_path: Path) -> None:
    def broken():  # noqa: ANN202
        yield Pair("q", "p", "a", "k")
        raise DataError("row 2", hint="mend it")

    with pytest.raises(DataError, match="row 2"):
        PairStore.build(tmp_path, broken(), [row()], [10])
    assert PairStore.open(tmp_path) is None


def test_the_first_row_that_fits_counts_and_a_star_keeps_kinds_apart(tmp_path: Path) -> None:
    pairs = [*some_pairs("a", 4, "x"), *some_pairs("a", 4, "y"), *some_pairs("b", 4, "x")]
    store = build(tmp_path, pairs, [row("a", "x"), row()])
    assert [(group.row, group.source, group.kind) for group in store.groups] == [
        (0, "a", "x"),
        (1, "a", "y"),
        (1, "b", "x"),
    ]


def test_every_batch_is_of_one_group_without_a_repeated_text(tmp_path: Path) -> None:
    pairs = some_pairs("a", 60) + some_pairs("b", 60)
    pairs += [Pair("A k Q1", f"other {i}", "a", "k") for i in range(5)]  # the query of another pair, in capitals
    pairs += [Pair(f"asks {i}", "a k q7", "a", "k") for i in range(5)]  # the passage is another pair's query
    mix = [row("a"), row("b")]
    batches = PairBatches(build(tmp_path, pairs, mix), mix=mix, sizes=[16, 16], num_batches=40, seed=0)
    for number in range(40):
        batch = batches[number]
        texts = [*batch.queries, *batch.passages]
        assert len(batch.queries) == len(batch.passages) == 16
        assert len({fingerprint(text) for text in texts}) == 32
        assert {pair.source for pair in pairs if pair.query in batch.queries} == {batch.group.source}


def test_pairs_of_a_topic_never_meet(tmp_path: Path) -> None:
    pairs = [Pair(f"q{i}", f"p{i}", "a", "k", f"topic {i % 10}") for i in range(80)]
    batches = PairBatches(build(tmp_path, pairs, [row()]), mix=[row()], sizes=[10], num_batches=16, seed=0)
    topic = {pair.query: pair.topic for pair in pairs}
    for number in range(16):
        assert len({topic[query] for query in batches[number].queries}) == 10


def test_every_pair_is_seen_once_before_any_is_seen_again(tmp_path: Path) -> None:
    store = build(tmp_path, some_pairs("a", 50), [row()])
    batches = PairBatches(store, mix=[row()], sizes=[8], num_batches=25, seed=0)  # 4 passes exactly
    seen: Counter[str] = Counter()
    for number in range(25):
        seen.update(batches[number].queries)
        if number >= 6:  # 56 drawn: more than one pass
            assert max(seen.values()) - min(seen[f"a k q{i}"] for i in range(50)) <= 1
    assert set(seen.values()) == {4}


def test_pairs_that_clash_take_turns() -> None:
    # 30 pairs ask the same; 30 are free; a batch of 10 can hold one of the first, so a pass shows 3 of them.
    keys = np.array([[1, 100 + i, 0] for i in range(30)] + [[200 + i, 300 + i, 0] for i in range(30)])
    plan = deal(keys, 10, 33, np.random.default_rng(0), "a")
    assert all((batch < 30).sum() <= 1 for batch in plan)
    times = np.bincount(plan.ravel(), minlength=60)
    assert times[:30].max() - times[:30].min() <= 1


def test_a_batch_depends_on_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    store = build(tmp_path, some_pairs("a", 90) + some_pairs("b", 90), [row("a"), row("b")])
    settings = {"mix": [row("a"), row("b")], "sizes": [8, 8], "num_batches": 20}
    first, second = (PairBatches(store, **settings, seed=3) for _ in range(2))
    list(map(first.__getitem__, range(20)))  # reading does not move anything
    assert [second[i] for i in (19, 4, 4)] == [first[i] for i in (19, 4, 4)]
    other = PairBatches(store, **settings, seed=4)
    assert [other[i] for i in range(20)] != [first[i] for i in range(20)]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.integers(1, 500))
def test_shares_are_whole_and_within_one(weights: list[float], total: int) -> None:
    counts = share_out(np.array(weights), total)
    assert counts.sum() == total
    assert (np.abs(counts - np.array(weights) / sum(weights) * total) < 1 + 1e-9).all()


def test_weights_share_the_batches_whatever_the_sizes_of_the_sources(tmp_path: Path) -> None:
    pairs = some_pairs("small", 20) + some_pairs("large", 400, "x") + some_pairs("large", 200, "y")
    mix = [row("small", weight=7.0), row("large", weight=3.0)]
    batches = PairBatches(build(tmp_path, pairs, mix), mix=mix, sizes=[8, 8], num_batches=100, seed=0)
    assert [facts["batches"] for facts in batches.counts().values()] == [70, 20, 10]


def test_groups_too_small_for_a_batch_are_named_or_refused(tmp_path: Path) -> None:
    store = build(tmp_path, some_pairs("tiny", 3) + some_pairs("b", 30), [row()])
    batches = PairBatches(store, mix=[row()], sizes=[8], num_batches=5, seed=0)
    assert batches.left_out == ["tiny k"]
    assert batches.counts()["tiny k"] == {"pairs": 3, "batches": 0}
    with pytest.raises(DataError, match="no source has pairs enough"):
        PairBatches(store, mix=[row()], sizes=[64], num_batches=5, seed=0)


def test_texts_shared_by_too_many_are_refused() -> None:
    # Each pair clashes with its neighbours on both sides: by counting three fit, in truth two.
    keys = np.array([[1, 2, 0], [2, 3, 0], [3, 1, 0]])
    with pytest.raises(DataError, match="too many pairs share a text"):
        deal(keys, 3, 1, np.random.default_rng(0), "a")


@pytest.mark.parametrize(
    ("change", "complaint"), [({"weight": 0.0}, "weight"), ({"passage_tokens": 1}, "passage_tokens")]
)
def test_rows_that_make_no_sense_are_refused(change: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        row(**change)
