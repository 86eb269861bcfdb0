"""Mining finds what brute force finds, whatever the blocks, and never an answer that is known."""

import random
import tracemalloc
from contextlib import closing
from dataclasses import replace
from fractions import Fraction

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import CheckpointError, ConfigError, DataError
from diffembed.mining.mine import NOTHING_FOUND, mine
from diffembed.mining.pool import Passage, Pool
from diffembed.mining.rules import CHOSEN, MARGIN, MAX_SCORE, SKIPPED, SPARE, VETO, Rules
from diffembed.mining.vectors import UNIT, Dense, Vectors
from diffembed.mining.words import fused
from tests.mining.conftest import Scattered, by_brute_force, cosine, example, known, same
from tests.tiny_embedders import WORDS, make

FREE = Rules(negatives=3, relative_margin=None)
TEXTS = [f"Text {letter}" for letter in "abcdefghijkl"]
QUERIES = ["why a", "why b", "why c", "Text a"]


@st.composite
def examples(draw):
    found = []
    for _ in range(draw(st.integers(1, 7))):
        positives = draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True))
        negatives = draw(st.lists(st.sampled_from([text for text in TEXTS if text not in positives]), max_size=3))
        spell = draw(st.sampled_from([str, str.upper, lambda text: text.replace(" ", "\n  ")]))
        found.append(
            example(
                spell(draw(st.sampled_from(QUERIES))),
                *map(spell, positives),
                negatives=tuple(negatives),
                topic=draw(st.sampled_from([None, None, "x", "y"])),
                instruction=draw(st.sampled_from([None, None, "find it"])),
            )
        )
    return [each for each in found if not set(each.positives) & set(each.negatives)]


@st.composite
def all_rules(draw):
    skip, negatives = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    return Rules(
        negatives=negatives,
        choose=draw(st.sampled_from(["top", "random"])),
        seed=draw(st.integers(0, 3)),
        skip=skip,
        depth=skip + negatives + draw(st.integers(0, 6)),
        relative_margin=draw(st.sampled_from([None, 0.0, 0.05, 0.5])),
        absolute_margin=draw(st.sampled_from([None, 0.0, 0.1])),
        max_score=draw(st.sampled_from([None, 0.5])),
    )


EMBEDDERS = st.builds(Scattered, seed=st.integers(0, 50), whole=st.booleans())
BY = st.sampled_from(["dense", "lexical", "both"])


# Against brute force


@pytest.mark.parametrize(
    "rules",
    [
        FREE,
        Rules(negatives=5),
        Rules(negatives=2, skip=3, depth=40, relative_margin=0.005),
        Rules(negatives=4, absolute_margin=0.01, relative_margin=None, max_score=0.9),
    ],
    ids=["free", "usual", "window", "absolute"],
)
def test_a_real_embedder_finds_what_brute_force_finds(rules: Rules) -> None:
    draw = random.Random(3)
    corpus = list({" ".join(draw.choices(WORDS, k=draw.randint(2, 9))): None for _ in range(60)})
    given_ = [example(" ".join(draw.choices(WORDS, k=3)), *draw.sample(corpus, 2)) for _ in range(9)]
    embedder = make()
    mined = mine(given_, corpus, embedder=embedder, rules=rules, query_block=4, text_block=7)
    assert [list(each.negatives) for each in mined.examples] == by_brute_force(given_, corpus, embedder, rules)
    assert any(each.negatives for each in mined.examples)
    for each in mined.examples:
        assert each.scores is not None
        texts = [each.positives[0], *each.negatives]
        assert each.scores == pytest.approx([cosine(embedder, each.query, text) for text in texts], abs=1e-6)


@given(given_=examples(), rules=all_rules(), embedder=EMBEDDERS)
def test_any_examples_get_what_brute_force_finds(given_, rules, embedder) -> None:
    if not given_:
        return
    rules = replace(rules, choose="top")
    corpus = TEXTS[::-1]
    mined = mine(given_, corpus, embedder=embedder, rules=rules)
    spelled = {same(text): text for text in corpus}
    plain = [replace(each, positives=tuple(spelled[same(text)] for text in each.positives)) for each in given_]
    assert [list(each.negatives) for each in mined.examples] == by_brute_force(plain, corpus, embedder, rules)


def test_words_find_what_bm25s_finds() -> None:
    draw = random.Random(5)
    corpus = list({" ".join(draw.choices(WORDS, k=draw.randint(3, 12))): None for _ in range(80)})
    given_ = [example(" ".join(draw.sample(WORDS, 4)), corpus[number]) for number in range(12)]
    mined = mine(given_, corpus, by="lexical", rules=Rules(negatives=6, depth=20, relative_margin=None))
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(corpus, stopwords="en", show_progress=False), show_progress=False)
    for each in mined.examples:
        query = bm25s.tokenize([each.query], stopwords="en", return_ids=False, show_progress=False)
        scores = dict(zip(corpus, retriever.get_scores(query[0]), strict=True))
        ranked = sorted((t for t in corpus if t != each.positives[0] and scores[t] > 0), key=lambda t: -scores[t])
        assert list(each.negatives) == ranked[:6]
        assert each.scores == pytest.approx([scores[text] for text in [each.positives[0], *each.negatives]])


def test_both_searches_are_fused_by_their_ranks() -> None:
    first, second = np.array([4, 7, 2]), np.array([2, 9])
    points: dict[int, Fraction] = {}
    for rows in (first, second):
        for rank, row in enumerate(rows.tolist(), 1):
            points[row] = points.get(row, Fraction(0)) + Fraction(1, 60 + rank)
    by_hand = sorted(points, key=lambda row: (-points[row], row))
    assert by_hand == [2, 4, 7, 9]
    assert fused([first, second], 10).tolist() == by_hand
    assert fused([first, second], 2).tolist() == by_hand[:2]
    assert fused([np.empty(0, np.int64), second], 3).tolist() == [2, 9]


def test_both_finds_what_either_finds_and_scores_by_the_embedder() -> None:
    embedder = Scattered()
    corpus = [*TEXTS, "why is it so", "why not"]
    given_ = [example("why a question", "an answer")]
    rules = Rules(negatives=14, depth=14, relative_margin=None)
    by = {name: mine(given_, corpus, embedder=embedder, by=name, rules=rules) for name in ("dense", "lexical", "both")}
    found = {name: each.examples[0].negatives for name, each in by.items()}
    assert set(found["lexical"]) == {"why is it so", "why not"} and set(found["dense"]) == set(corpus)
    assert set(found["both"][:3]) & set(found["lexical"]) and set(found["both"]) == set(corpus)
    for each in by.values():
        [mined] = each.examples
        texts = [*mined.positives, *mined.negatives]
        assert mined.scores == pytest.approx([cosine(embedder, mined.query, text) for text in texts], abs=1e-6)


# What always holds


@given(given_=examples(), rules=all_rules(), embedder=EMBEDDERS, by=BY, has_corpus=st.booleans())
def test_no_negative_is_an_answer_or_breaks_a_rule(given_, rules, embedder, by, has_corpus) -> None:
    if not given_:
        return
    mined = mine(given_, TEXTS if has_corpus else None, embedder=embedder, by=by, rules=rules, num_audited=99)
    assert [each.query for each in mined.examples] == [each.query for each in given_]
    for before, after, audited in zip(given_, mined.examples, mined.audit, strict=True):
        assert not {same(text) for text in after.negatives} & known(given_, before)
        assert len(after.negatives) == len({same(text) for text in after.negatives}) <= rules.negatives
        assert after.scores is not None and after.scores[0] == audited.positives[0]
        for score in after.scores[1:]:
            for positive in audited.positives:
                assert score <= rules.bar(positive)
            assert rules.max_score is None or score <= rules.max_score
        for seen, text in audited.seen:
            assert seen.rank <= rules.depth and (seen.verdict == SKIPPED) == (seen.rank <= rules.skip)
            assert (seen.verdict == CHOSEN) == (text in after.negatives)
        assert replace(after, negatives=before.negatives, scores=None) == before
    counted = [seen.verdict for each in mined.audit for seen, _ in each.seen]
    assert {name: counted.count(name) for name in counted} == mined.account.verdicts
    assert sum(mined.account.short.values()) == sum(len(each.negatives) < rules.negatives for each in mined.examples)


@given(
    given_=examples(),
    rules=all_rules(),
    embedder=EMBEDDERS,
    by=BY,
    query_block=st.integers(1, 8),
    text_block=st.integers(1, 14),
)
def test_blocks_change_nothing(given_, rules, embedder, by, query_block, text_block) -> None:
    if given_:
        keywords = {"embedder": embedder, "by": by, "rules": rules, "veto": Scattered(seed=9)}
        small = mine(given_, **keywords, query_block=query_block, text_block=text_block)
        assert small == mine(given_, **keywords)


def test_blocks_change_no_bit_of_a_score() -> None:
    vectors_PE = np.random.default_rng(0).normal(size=(300, 385)).astype(np.float32)
    texts = [str(number) for number in range(len(vectors_PE))]
    nothing = np.empty(0, np.int64)

    class Given(Scattered):
        def vector(self, text: str, role: str):
            return vectors_PE[int(text)]

    with closing(Dense(Given(), texts, [None] * len(texts), texts)) as dense:

        def search(size: int, block: int) -> list[list[int]]:
            found = []
            for start in range(0, len(texts), size):
                queries = range(start, min(start + size, len(texts)))
                found += dense.search(queries, [nothing] * len(queries), len(texts), 50, block)
            return [rows.tolist() for rows in found]

        assert search(300, 300) == search(13, 31) == search(299, 2)
        together = dense.scores(7, np.arange(300))
        assert together.tolist() == [float(dense.scores(7, np.array([row]))[0]) for row in range(300)]

    # No sum is rounded: whole numbers of any size give the very same scores.
    with closing(Vectors(300, lambda rows: vectors_PE[rows])) as vectors:
        units = [[int(value * UNIT) for value in row] for row in vectors[np.arange(300)]]
    exact = [Fraction(sum(a * b for a, b in zip(units[7], row, strict=True)), int(UNIT) ** 2) for row in units]
    assert [Fraction(score) for score in together.tolist()] == exact
    unit_PE = vectors_PE / np.linalg.norm(vectors_PE.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(together, unit_PE @ unit_PE[7], atol=1e-6)


@given(given_=examples(), rules=all_rules(), embedder=EMBEDDERS, by=BY, seed=st.integers(0, 9))
def test_the_order_of_the_examples_changes_nothing(given_, rules, embedder, by, seed) -> None:
    if not given_:
        return
    order = random.Random(seed).sample(range(len(given_)), len(given_))
    mined = mine(given_, embedder=embedder, by=by, rules=rules).examples
    shuffled = mine([given_[number] for number in order], embedder=embedder, by=by, rules=rules).examples
    assert [mined[number] for number in order] == list(shuffled)


def test_equal_scores_stand_in_the_order_of_the_corpus() -> None:
    class Alike(Scattered):
        def vector(self, text: str, role: str):
            return np.float32([1, 0] if text == "far" else [1, 1])

    corpus = ["far", "z", "y", "x", "a"]
    [mined] = mine([example("q", "p")], corpus, embedder=Alike(), rules=FREE, text_block=2).examples
    assert mined.negatives == ("z", "y", "x")


def test_a_random_draw_keeps_to_the_window_and_depends_on_the_seed_and_the_query_alone() -> None:
    embedder = Scattered()
    given_ = [example(f"query {number}", "an answer") for number in range(20)]
    rules = Rules(negatives=3, choose="random", skip=2, depth=9, relative_margin=None)
    top = mine(given_, TEXTS, embedder=embedder, rules=replace(rules, negatives=7, choose="top")).examples
    draws = [mine(given_, TEXTS, embedder=embedder, rules=replace(rules, seed=seed)).examples for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for window, drawn in zip(top, draws[0], strict=True):
        assert len(drawn.negatives) == 3 and set(drawn.negatives) <= set(window.negatives)
        assert list(drawn.negatives) == [text for text in window.negatives if text in drawn.negatives]  # by rank
    assert mine(given_[7:8], TEXTS, embedder=embedder, rules=rules).examples == draws[0][7:8]


# Candidates and answers


def test_candidates_are_all_texts_of_the_examples_once() -> None:
    given_ = [example("q", "One", "two", negatives=("three",)), example("r", "one", negatives=("  TWO", "four"))]
    pool = Pool(given_)
    assert sorted(map(same, pool.texts)) == ["four", "one", "three", "two"]
    assert (pool.num_candidates, pool.duplicates) == (4, 2)
    assert [pool.texts[row] for row in pool.rows(["ONE", "Four"])] == [
        "One",
        "four",
    ]  # one spelling, whatever the order


def test_answers_of_equal_queries_and_of_the_topic_are_known() -> None:
    given_ = [
        example("How?", "so"),
        example("how? ", "thus", instruction="other"),
        example("why", "because", topic="t"),
        example("wherefore", "hence", topic="t"),
    ]
    pool = Pool(given_)
    hidden = [{pool.texts[row] for row in pool.hidden(each)} for each in given_]
    assert hidden == [{"so", "thus"}, {"so", "thus"}, {"because", "hence"}, {"because", "hence"}]


def test_a_document_is_known_by_its_text_alone() -> None:
    corpus = [Passage("the answer", "Title"), Passage("the  ANSWER"), Passage("else"), Passage(""), Passage("Else")]
    pool = Pool([example("q", "the answer"), example("else", "not in it")], corpus)
    assert pool.texts == ["Title the answer", "the  ANSWER", "else", "not in it"]
    assert (pool.num_candidates, pool.blank, pool.duplicates) == (3, 1, 1)
    assert pool.hidden(example("q", "the answer")).tolist() == [0, 1]
    assert pool.hidden(example("else", "not in it")).tolist() == [2]
    mined = mine([example("q", "the answer"), example("r", "not in it")], corpus, embedder=Scattered(), rules=FREE)
    assert [set(each.negatives) for each in mined.examples] == [
        {"else"},
        {"Title the answer", "the  ANSWER", "else"},
    ]


# Margins by hand


@pytest.mark.parametrize(
    ("margins", "positive", "bar"),
    [
        ({"relative_margin": None}, 0.5, np.inf),
        ({}, 0.8, 0.76),
        ({}, -0.8, -0.84),
        ({"relative_margin": None, "absolute_margin": 0.1}, 0.8, 0.7),
        ({"absolute_margin": 0.01}, 0.8, 0.76),
        ({"absolute_margin": 0.1}, 0.8, 0.7),
    ],
)
def test_the_bar(margins, positive, bar) -> None:
    assert Rules(**margins).bar(positive) == pytest.approx(bar)


class Angles(Scattered):
    """A text that is a number has that cosine with every query."""

    def vector(self, text: str, role: str):
        cosine_ = float(text) if role == "document" else 1.0
        return np.float32([cosine_, np.sqrt(1 - cosine_**2)])


CORPUS = ["0.90", "0.80", "0.77", "0.75", "0.50", "0.30"]


@pytest.mark.parametrize(
    ("rules", "negatives", "verdicts", "short"),
    [
        (Rules(negatives=2), ["0.75", "0.50"], {MARGIN: 2, CHOSEN: 2, SPARE: 1}, {}),
        (Rules(negatives=4), ["0.75", "0.50", "0.30"], {MARGIN: 2, CHOSEN: 3}, {MARGIN: 1}),
        (Rules(negatives=2, skip=3), ["0.50", "0.30"], {SKIPPED: 3, CHOSEN: 2}, {}),
        (Rules(negatives=3, skip=1, depth=4), ["0.75", "0.50"], {SKIPPED: 1, MARGIN: 1, CHOSEN: 2}, None),
        (Rules(negatives=1, depth=2), [], {MARGIN: 2}, {MARGIN: 1}),
        (Rules(negatives=5, relative_margin=None, max_score=0.6), ["0.50", "0.30"], {MAX_SCORE: 3, CHOSEN: 2}, None),
        (Rules(negatives=7, relative_margin=None), ["0.90", "0.77", "0.75", "0.50", "0.30"], {CHOSEN: 5}, "few"),
    ],
)
def test_each_rule_takes_what_it_should_and_is_counted(rules, negatives, verdicts, short) -> None:
    mined = mine([example("q", "0.80")], CORPUS, embedder=Angles(), rules=rules)
    assert list(mined.examples[0].negatives) == negatives
    assert mined.account.verdicts == verdicts
    assert mined.account.known == 1 and mined.account.without == (not negatives) and mined.account.outscored == 1
    if short is not None:
        assert mined.account.short == ({NOTHING_FOUND: 1} if short == "few" else short)


def test_the_margin_is_kept_to_the_positive_that_scores_least() -> None:
    [mined] = mine([example("q", "0.80", "0.60")], CORPUS, embedder=Angles()).examples
    assert mined.negatives == ("0.50", "0.30")
    assert mined.scores == pytest.approx((0.8, 0.5, 0.3))


# The veto


def test_a_vetoed_text_makes_room_for_the_next_and_few_are_asked_about() -> None:
    asked: list[tuple[str, str]] = []

    def veto(queries: list[str], passages: list[str]) -> list[float]:
        asked.extend(zip(queries, passages, strict=True))
        return [{"0.80": 0.5, "0.75": 0.6, "0.50": 0.48, "0.30": 0.475}[passage] for passage in passages]

    mined = mine([example("q", "0.80")], CORPUS, embedder=Angles(), rules=Rules(negatives=1), veto=veto)
    assert mined.examples[0].negatives == ("0.30",)  # 0.475 is 95% of 0.5, and 0.48 is more
    assert mined.account.verdicts == {MARGIN: 2, VETO: 2, CHOSEN: 1}
    assert mined.examples[0].scores == pytest.approx((0.8, 0.3))
    few = mine([example("q", "0.80")], CORPUS, embedder=Angles(), rules=Rules(negatives=2), veto=veto)
    assert few.account.short == {VETO: 1}
    del asked[:]
    mine([example("q", "0.80")], CORPUS, embedder=Angles(), rules=Rules(negatives=1), veto=lambda q, p: [1.0] * len(p))
    mine([example("q", "0.80")], CORPUS[:2], embedder=Angles(), rules=Rules(negatives=1), veto=veto)
    assert asked == []  # nothing passes the rules: nobody is asked


def test_without_margins_a_veto_still_keeps_texts_below_the_positive() -> None:
    rules = Rules(negatives=9, relative_margin=None)
    kept = mine([example("q", "0.80")], CORPUS, embedder=Scattered(), rules=rules, veto=Angles())
    assert set(kept.examples[0].negatives) == {"0.77", "0.75", "0.50", "0.30"}


def test_an_embedder_as_veto_embeds_what_it_is_asked_about_once() -> None:
    veto = Scattered(seed=4)
    given_ = [example(f"q {number}", f"answer {number}") for number in range(6)]
    corpus = [f"text {number}" for number in range(300)]
    rules = Rules(negatives=4, depth=20)
    mined = mine(given_, corpus, embedder=Scattered(), rules=rules, veto=veto)
    assert len(veto.asked) == len(set(veto.asked)) <= 6 * 21
    for each in mined.examples:
        bar = rules.bar(cosine(veto, each.query, each.positives[0]))
        assert all(cosine(veto, each.query, text) <= bar + 1e-6 for text in each.negatives)

    def as_function(queries: list[str], passages: list[str]) -> list[float]:
        return [cosine(veto, *pair) for pair in zip(queries, passages, strict=True)]

    again = mine(given_, corpus, embedder=Scattered(), rules=rules, veto=as_function)
    assert again == mined and mined.account.verdicts[VETO]


# Memory, progress, what is refused


def test_memory_is_bounded_by_the_blocks() -> None:
    vectors_PE = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    texts = [str(number) for number in range(len(vectors_PE))]

    class Given(Scattered):
        def encode_document(self, texts):
            return vectors_PE[[int(text) for text in texts]]

        encode_query = encode_document

    dense = Dense(Given(), texts[:512], [None] * 512, texts)
    tracemalloc.start()
    try:
        dense.make(len(texts))
        for start in range(0, 512, 64):
            dense.search(range(start, start + 64), [np.empty(0, np.int64)] * 64, len(texts), 10, 1_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        dense.close()
    assert peak < 12e6  # the scores alone are 80 MB, the vectors as they are multiplied 10 MB


def test_progress_reaches_the_end_of_each_stage() -> None:
    told: list[tuple[str, int, int]] = []
    mine([example("q", "p"), example("r", "s")], embedder=Scattered(), progress=lambda *each: told.append(each))
    assert {"embedding queries", "embedding texts", "searching"} == {what for what, _, _ in told}
    assert ("searching", 2, 2) in told


def test_a_query_s_own_instruction_overrules_the_common_one() -> None:
    given_ = [example("q", "p", instruction="own"), example("q2", "p2"), example("q3", "p3", instruction="")]
    mined = mine(given_, TEXTS, embedder=Scattered(), rules=FREE, instruction="common").examples
    for each, instruction in zip(mined, ("own", "common", ""), strict=True):
        assert each.scores is not None
        assert each.scores[0] == pytest.approx(
            cosine(Scattered(), each.query, each.positives[0], instruction), abs=1e-6
        )


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"choose": "best"}, "choose is 'best'"),
        ({"negatives": 0}, "negatives must be"),
        ({"skip": -1}, "skip must be"),
        ({"skip": 98}, "ranks 99 to 100 are fewer than the 7"),
        ({"relative_margin": -0.1}, "relative_margin must be"),
        ({"absolute_margin": float("nan")}, "absolute_margin must be"),
        ({"max_score": float("inf")}, "max_score is inf"),
    ],
)
def test_impossible_rules_are_refused(keywords, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Rules(**keywords)


class Bad(Scattered):
    def __init__(self, vector: list) -> None:
        super().__init__()
        self.bad = np.float32(vector)

    def vector(self, text: str, role: str):
        return self.bad


@pytest.mark.parametrize(
    ("given_", "keywords", "error", "message"),
    [
        ([], {}, DataError, "no example"),
        ([example("q", "p")], {"corpus": [""]}, DataError, "corpus has no text"),
        ([example("q", "p")], {"embedder": None}, ConfigError, "needs an embedder"),
        ([example("q", "p")], {"by": "luck"}, ConfigError, "by is 'luck'"),
        ([example("q", "p")], {"text_block": 0}, ConfigError, "blocks of 256 queries and 0 texts"),
        ([example("q", "p")], {"embedder": Bad([0, 0])}, CheckpointError, "zeros, NaN"),
        ([example("q", "p")], {"embedder": Bad([1, float("nan")])}, CheckpointError, "zeros, NaN"),
        ([example("q", "p")], {"embedder": Bad([[1, 0], [0, 1]])}, ConfigError, "single ones"),
        ([example("q", "p")], {"veto": lambda q, p: [1.0]}, ConfigError, "scores of shape"),
        ([example("q", "p")], {"veto": lambda q, p: [float("nan")] * len(p)}, DataError, "not finite for 'q'"),
    ],
)
def test_what_cannot_be_mined_is_refused(given_, keywords, error, message) -> None:
    usual = {"corpus": TEXTS, "embedder": Scattered(), "rules": FREE}
    with pytest.raises(error, match=message):
        mine(given_, **(usual | keywords))


def test_nothing_is_left_behind(tmp_path) -> None:
    mine([example("q", "p")], TEXTS, embedder=Scattered(), veto=Scattered(), folder=tmp_path)
    with pytest.raises(CheckpointError):
        mine([example("q", "p")], TEXTS, embedder=Bad([0, 0]), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
