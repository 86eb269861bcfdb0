"""What a run sees: no clash in a batch, no pair twice before all once, shares as asked, the same on every start."""

import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data import batches as batches_module
from diffembed.data import known as known_module
from diffembed.data.batches import ExampleBatches
from diffembed.data.dealing import Shuffle, deal, share_out
from diffembed.data.example_store import ExampleStore, fingerprint
from diffembed.data.examples import SAME_TEXT, Example
from diffembed.data.known import KnownPositives
from diffembed.data.mix import MixRow
from diffembed.errors import ConfigError, DataError
from tests.memory import STATUS


def row(source: str = "*", kind: str = "*", weight: float = 1.0, passage_tokens: int = 8) -> MixRow:
    return MixRow(source=source, kind=kind, weight=weight, instruction="", passage_tokens=passage_tokens)


def some_pairs(source: str, count: int, kind: str = "k") -> list[Example]:
    return [pair(f"{source} {kind} q{i}", f"{source} {kind} p{i}", source, kind) for i in range(count)]


def pair(query: str, passage: str, source: str = "a", kind: str = "k", topic: str | None = None, **more) -> Example:
    return Example(query=query, positives=(passage,), source=source, kind=kind, topic=topic, **more)


def build(folder: Path, pairs: list[Example], mix: list[MixRow]) -> ExampleStore:
    return ExampleStore.build(folder, iter(pairs), mix, [1000] * len(mix))


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    pairs = [
        pair("naïve 🙂\n", "日本語 text", "a", "k"),
        pair("q", "p " * 900, "a", "k"),
        pair("x\ud800", "y", "a", "k"),
    ]
    build(tmp_path, pairs, [row()])
    store = ExampleStore.open(tmp_path)
    assert store is not None
    found = store.read([2, 0, 1])
    assert [each.query for each in found] == ["x?", "naïve 🙂\n", "q"]
    assert [each.positives for each in found] == [("y",), ("日本語 text",), (("p " * 900)[:1000],)]


def test_blank_equal_and_unwanted_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    pairs = [pair("q", "p", "a", "k"), pair("q", " " * 1000 + "p", "a", "k"), pair("Same  text", "same text", "a", "k")]
    store = build(tmp_path, [*pairs, pair("q", "p", "b", "k")], [row("a")])
    assert len(store) == 1
    assert store.dropped == {"a text is blank, or both are the same": 2, "no row of the mix fits b k": 1}


def test_an_unfinished_store_is_not_opened(tmp_path: Path) -> None:
    def broken():  # noqa: ANN202
        yield pair("q", "p", "a", "k")
        raise DataError("row 2", hint="mend it")

    with pytest.raises(DataError, match="row 2"):
        ExampleStore.build(tmp_path, broken(), [row()], [10])
    assert ExampleStore.open(tmp_path) is None


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
    pairs += [pair("A k Q1", f"other {i}", "a", "k") for i in range(5)]  # the query of another pair, in capitals
    pairs += [pair(f"asks {i}", "a k q7", "a", "k") for i in range(5)]  # the passage is another pair's query
    mix = [row("a"), row("b")]
    batches = ExampleBatches(build(tmp_path, pairs, mix), mix=mix, sizes=[16, 16], num_batches=40, seed=0)
    for number in range(40):
        batch = batches[number]
        texts = [*batch.queries, *batch.passages]
        assert len(batch.queries) == len(batch.passages) == 16
        assert len({fingerprint(text) for text in texts}) == 32
        assert {each.source for each in pairs if each.query in batch.queries} == {batch.group.source}


def test_pairs_of_a_topic_never_meet(tmp_path: Path) -> None:
    pairs = [pair(f"q{i}", f"p{i}", "a", "k", f"topic {i % 10}") for i in range(80)]
    batches = ExampleBatches(build(tmp_path, pairs, [row()]), mix=[row()], sizes=[10], num_batches=16, seed=0)
    topic = {each.query: each.topic for each in pairs}
    for number in range(16):
        assert len({topic[query] for query in batches[number].queries}) == 10


def test_every_pair_is_seen_once_before_any_is_seen_again(tmp_path: Path) -> None:
    store = build(tmp_path, some_pairs("a", 50), [row()])
    batches = ExampleBatches(store, mix=[row()], sizes=[8], num_batches=25, seed=0)  # 4 passes exactly
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
    first, second = (ExampleBatches(store, **settings, seed=3) for _ in range(2))
    list(map(first.__getitem__, range(20)))  # reading does not move anything
    assert [second[i] for i in (19, 4, 4)] == [first[i] for i in (19, 4, 4)]
    other = ExampleBatches(store, **settings, seed=4)
    assert [other[i] for i in range(20)] != [first[i] for i in range(20)]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.integers(1, 500))
def test_shares_are_whole_and_within_one(weights: list[float], total: int) -> None:
    counts = share_out(np.array(weights), total)
    assert counts.sum() == total
    assert (np.abs(counts - np.array(weights) / sum(weights) * total) < 1 + 1e-9).all()


def test_weights_share_the_batches_whatever_the_sizes_of_the_sources(tmp_path: Path) -> None:
    pairs = some_pairs("small", 20) + some_pairs("large", 400, "x") + some_pairs("large", 200, "y")
    mix = [row("small", weight=7.0), row("large", weight=3.0)]
    batches = ExampleBatches(build(tmp_path, pairs, mix), mix=mix, sizes=[8, 8], num_batches=100, seed=0)
    assert [facts["batches"] for facts in batches.counts().values()] == [70, 20, 10]


def test_groups_too_small_for_a_batch_are_named_or_refused(tmp_path: Path) -> None:
    store = build(tmp_path, some_pairs("tiny", 3) + some_pairs("b", 30), [row()])
    batches = ExampleBatches(store, mix=[row()], sizes=[8], num_batches=5, seed=0)
    assert batches.left_out == ["tiny k"]
    assert batches.counts()["tiny k"] == {"examples": 3, "batches": 0}
    with pytest.raises(DataError, match="no source has examples enough"):
        ExampleBatches(store, mix=[row()], sizes=[64], num_batches=5, seed=0)


def test_texts_shared_by_too_many_are_refused() -> None:
    # Each pair clashes with its neighbours on both sides: by counting three fit, in truth two.
    keys = np.array([[1, 2, 0], [2, 3, 0], [3, 1, 0]])
    with pytest.raises(DataError, match="too many examples share a text"):
        deal(keys, 3, 1, np.random.default_rng(0), "a")


@pytest.mark.parametrize(
    ("change", "complaint"), [({"weight": 0.0}, "weight"), ({"passage_tokens": 1}, "passage_tokens")]
)
def test_rows_that_make_no_sense_are_refused(change: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        row(**change)


# What examples have beyond pairs.


def full(number: int, **changes) -> Example:
    values = {
        "query": f"asks {number}",
        "positives": (f"answer {number}", f"another answer {number}"),
        "negatives": tuple(f"wrong {number} {i}" for i in range(4)),
        "source": "a",
        "kind": "k",
        "instruction": "Find it",
        "scores": (0.9, 0.5, 0.25, 0.125, 0.0),
    }
    return Example(**(values | changes))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3), st.integers(0, 3), st.booleans(), st.booleans(), st.sampled_from([None, "i", "j"])
        ),
        min_size=1,
        max_size=12,
    )
)
def test_examples_come_back_as_they_were(tmp_path_factory, shapes) -> None:
    examples = []
    for number, (positives, negatives, is_scored, is_cut, instruction) in enumerate(shapes):
        answers = tuple(f"p {number} {i}" for i in range(positives))
        examples.append(
            full(
                number,
                positives=answers,
                negatives=tuple(f"n {number} {i}" for i in range(negatives)),
                scores=tuple(i / 8 for i in range(1 + negatives)) if is_scored else None,
                chunks=("before ", answers[0], " behind") if is_cut else None,
                instruction=instruction,
            )
        )
    store = build(tmp_path_factory.mktemp("store"), examples, [row()])
    assert store.read(range(len(examples))) == examples


def test_negatives_that_answer_are_dropped_with_their_scores(tmp_path: Path) -> None:
    example = full(0, negatives=("Another  ANSWER 0", "wrong", "Asks 0", "also wrong"), positives=full(0).positives)
    store = build(tmp_path, [example], [row()])
    (kept,) = store.read([0])
    assert kept.negatives == ("wrong", "also wrong")
    assert kept.scores == pytest.approx((0.9, 0.25, 0.0))
    assert store.dropped == {"a negative is blank, or equal to the query or a positive": 2}


def test_too_few_negatives_are_counted(tmp_path: Path) -> None:
    examples = [full(0), full(1, negatives=(), scores=None)]
    store = ExampleStore.build(tmp_path, examples, [row()], [100], least_negatives=4)
    assert len(store) == 1 and store.dropped == {"fewer than 4 hard negatives": 1}


def test_the_two_sides_of_simcse_may_be_equal(tmp_path: Path) -> None:
    store = build(tmp_path, [pair("a sentence", "a sentence", kind=SAME_TEXT)], [row()])
    assert store.read([0])[0].positives == ("a sentence",)


def test_a_batch_has_one_instruction(tmp_path: Path) -> None:
    examples = [full(number, instruction=f"Find {number % 3}") for number in range(60)]
    store = build(tmp_path, examples, [row()])
    batches = ExampleBatches(store, mix=[row()], sizes=[5], num_batches=12, seed=0)
    wanted = {each.query: each.instruction for each in examples}
    for number in range(12):
        batch = batches[number]
        assert {wanted[query] for query in batch.queries} == {batch.group.instruction}


def test_more_instructions_than_batches_could_have_are_refused(tmp_path: Path) -> None:
    examples = (full(number, instruction=str(number)) for number in range(5000))
    with pytest.raises(DataError, match="more than 4096 groups"):
        ExampleStore.build(tmp_path, examples, [row()], [100])


@pytest.mark.parametrize("draws", [False, True])
def test_hard_negatives_are_the_first_or_drawn(tmp_path: Path, draws: bool) -> None:
    examples = [full(number) for number in range(40)]
    store = build(tmp_path, examples, [row()])
    batches = ExampleBatches(
        store,
        mix=[row()],
        sizes=[8],
        num_batches=20,
        seed=0,
        negatives=2,
        draws_negatives=draws,
        with_scores=True,
    )
    chosen: Counter[int] = Counter()
    for number in range(20):
        batch = batches[number]
        assert batch == batches[number]
        assert batch.scores is not None
        for query, own, scores in zip(batch.queries, batch.negatives, batch.scores, strict=True):
            example = next(each for each in examples if each.query == query)
            places = [example.negatives.index(text) for text in own]
            chosen.update(places)
            assert scores == (np.float32(0.9), *(example.scores[1 + place] for place in places))  # type: ignore[index]
    assert set(chosen) == (set(range(4)) if draws else {0, 1})


@given(st.integers(0, 2**32 - 1))
def test_known_positives_of_all_examples_are_no_negatives(tmp_path_factory, seed: int) -> None:
    """Against every example of the store: which candidate is an answer of which query."""
    rng = np.random.default_rng(seed)
    answers: dict[str, set[str]] = {}
    examples = []
    for _ in range(40):
        query = f"q{rng.integers(12)}"
        positives = tuple({f"p{each}" for each in rng.integers(20, size=rng.integers(1, 4))})
        negatives = tuple({f"p{each}" for each in rng.integers(20, size=3)} - set(positives))
        answers.setdefault(query, set()).update(positives)
        examples.append(Example(query=query, positives=positives, negatives=negatives, source="a", kind="k"))
    store = build(tmp_path_factory.mktemp("store"), examples, [row()])
    batches = ExampleBatches(store, mix=[row()], sizes=[3], num_batches=6, seed=1, negatives=2)
    for number in range(6):
        batch = batches[number]
        assert len(batch.known) == 3
        for own, (query, known) in enumerate(zip(batch.queries, batch.known, strict=True)):
            assert batch.passages[own] in answers[query]
            wanted = {p for p, text in enumerate(batch.candidates) if text in answers[query]} - {own}
            assert set(known) == wanted


@given(st.lists(st.tuples(st.integers(1, 2**63 - 1), st.integers(1, 5)), max_size=60), st.integers(1, 7))
def test_the_table_of_answers_is_sorted_in_parts(tmp_path_factory, pairs, size: int) -> None:
    folder = tmp_path_factory.mktemp("known")
    (folder / "unsorted").write_bytes(np.array(pairs, np.int64).tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_module, "SORTED_PAIRS", size)
        known_module.sort_pairs(folder / "unsorted", folder / "known")
    table = KnownPositives(folder / "known")
    for key in {key for key, _ in pairs} | {1, 2**63 - 1, 77}:
        assert table.of(key) == {answer for other, answer in pairs if other == key}


@given(st.integers(1, 3000), st.integers(0, 99))
def test_a_shuffle_shows_each_number_once(count: int, seed: int) -> None:
    shuffle = Shuffle(count, np.random.default_rng(seed))
    order = shuffle(np.arange(count))
    assert sorted(order.tolist()) == list(range(count))
    assert shuffle(np.array([count // 2])) == order[count // 2]


def test_a_shuffle_mixes() -> None:
    order = Shuffle(10_000, np.random.default_rng(0))(np.arange(10_000))
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    first = np.sort(order[:1000])  # spread evenly over all
    assert np.abs(first - np.arange(1000) * 10).max() < 600


def test_a_large_group_is_dealt_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = build(tmp_path, some_pairs("a", 100), [row()])
    monkeypatch.setattr(batches_module, "BLOCK_ROWS", 32)  # blocks of 32, 32 and 36: 4, 4 and 4 batches of 8
    batches = ExampleBatches(store, mix=[row()], sizes=[8], num_batches=36, seed=0)
    passes = [
        [query for number in range(first, first + 12) for query in batches[number].queries] for first in (0, 12, 24)
    ]
    for queries in passes:
        assert len(set(queries)) == 96  # each once; four of the last block are passed over
    assert passes[0] != passes[1] != passes[2]
    again = ExampleBatches(store, mix=[row()], sizes=[8], num_batches=36, seed=0)
    assert [again[number] for number in (30, 2)] == [batches[number] for number in (30, 2)]


MEMORY = """
    import sys
    from pathlib import Path
    from diffembed.data.batches import ExampleBatches
    from diffembed.data.example_store import ExampleStore
    from diffembed.data.examples import Example
    from diffembed.data.mix import MixRow
    count = int(sys.argv[1])
    mix = [MixRow(source="*", kind="*", weight=1.0, instruction="", passage_tokens=8)]
    examples = (
        Example(
            query=f"asks {i} " * 8,
            positives=(f"answer {i} " * 40,),
            negatives=(f"not {i} " * 20,),
            source="a",
            kind="k",
        )
        for i in range(count)
    )
    store = ExampleStore.build(Path(sys.argv[2]), examples, mix, [1000])
    batches = ExampleBatches(store, mix=mix, sizes=[64], num_batches=300, seed=0, negatives=1)
    assert len({query for number in range(0, 300, 3) for query in batches[number].queries}) > 6000
    print(status("VmHWM") // 2**20)
"""


def megabytes(count: int, folder: Path) -> int:
    arguments = [sys.executable, "-c", STATUS + textwrap.dedent(MEMORY), str(count), str(folder)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    return int(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Both are more than a block, the unit of all that is held at once; the second has over four times as many."""
    assert megabytes(1_200_000, tmp_path / "large") < megabytes(280_000, tmp_path / "small") + 60
