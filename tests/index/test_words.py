import math
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from small_indexes import new_words

from diffembed.index import words
from diffembed.index.words import MAX_WORDS

VOCABULARY = ["amber", "cedar", "delta", "fjord", "gamma"]


def by_hand(query: list[str], documents: list[list[str]]) -> dict[int, float]:
    """BM25 with k1 1.2, b 0.75, and an inverse document frequency of at least a millionth."""
    average = sum(map(len, documents)) / len(documents)
    scores: dict[int, float] = {}
    for row, document in enumerate(documents):
        for word in query:
            containing = sum(word in each for each in documents)
            idf = max(math.log((len(documents) - containing + 0.5) / (containing + 0.5)), 1e-6)
            frequency = document.count(word)
            if frequency:
                share = frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * len(document) / average))
                scores[row] = scores.get(row, 0.0) + idf * share
    return scores


some_words = st.lists(st.sampled_from(VOCABULARY), max_size=6)


@given(
    documents=st.lists(st.tuples(some_words, some_words), min_size=1, max_size=12),
    query=st.lists(st.sampled_from([*VOCABULARY, "absent"]), min_size=1, max_size=4, unique=True),
    k=st.integers(1, 15),
)
def test_scores_and_ranks_equal_the_formula(documents, query: list[str], k: int) -> None:
    with new_words() as db:
        words.add(db, [(row, " ".join(title), " ".join(body)) for row, (title, body) in enumerate(documents)])
        found = words.search(db, " ".join(query), k)
    expected = by_hand(query, [title + body for title, body in documents])
    assert len(found) == min(k, len(expected))
    assert found == sorted(found, key=lambda each: (-each[1], each[0]))
    for row, score in found:
        assert score == pytest.approx(expected[row], rel=1e-9)
    left_out = set(expected) - {row for row, _ in found}
    assert all(expected[row] <= min(score for _, score in found) * (1 + 1e-9) for row in left_out)


ODD_TEXT = st.text(st.sampled_from("ab cd 日本語 ไทย é e\u0301 𠮷 \ue000 \uf0b7 🙂\n'\"-_"), max_size=12)
QUERIES = ["ab", "日本", "本", "ไท", "é", "e\u0301", "𠮷", "cd 語 b"]


@examples(60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 5), ODD_TEXT, ODD_TEXT), max_size=15),
    removed=st.sets(st.integers(0, 5)),
)
def test_after_additions_and_removals_as_if_written_afresh(steps, removed: set[int]) -> None:
    there: dict[int, tuple[str, str]] = {}
    with new_words() as db, new_words() as fresh:
        for row, title, body in steps:
            if row in there:
                words.remove(db, [(row, *there.pop(row))])
            words.add(db, [(row, title, body)])
            there[row] = (title, body)
        words.remove(db, [(row, *there.pop(row)) for row in removed & set(there)])
        words.add(fresh, [(row, *texts) for row, texts in there.items()])
        for query in QUERIES:
            assert words.search(db, query, 10) == words.search(fresh, query, 10)


HOSTILE = [
    "AND",
    "amber OR",
    "NOT amber",
    "NEAR(amber cedar)",
    "title:amber",
    "{title body}: amber",
    "^amber",
    "amber*",
    "-amber",
    "amber + cedar",
    '"',
    '"amber',
    '""amber""',
    "'; DROP TABLE words; --",
    "(",
    "\0",
    "amber\0cedar",
    "\ud800",
    "_",
    "__ amber",
    "\u0301",
    "🙂👩‍👩‍👧",
    " ".join(f"word{number}" for number in range(10_000)) + " amber",
    "日" * 10_000,
    "a" * 100_000,
]


@pytest.fixture(scope="module")
def corpus():
    with new_words() as db:
        texts = ["amber cedar", "not and or near", "delta amber amber", "日本語の文章です", "ab_cd"]
        words.add(db, [(row, "", text) for row, text in enumerate(texts)])
        yield db


@pytest.mark.parametrize("query", HOSTILE, ids=lambda query: ascii(query[:20]))
def test_no_character_of_a_question_is_an_operator(corpus: sqlite3.Connection, query: str) -> None:
    found = {row for row, _ in words.search(corpus, query, 10)}
    plain = "amber" in query and len(query) < 1_000
    assert found >= {0, 2} if plain else found <= {1, 4}


@given(query=st.text(st.characters(exclude_categories=())))
def test_any_string_is_a_question(corpus: sqlite3.Connection, query: str) -> None:
    for row, score in words.search(corpus, query, 3):
        assert 0 <= row < 5 and score > 0
    assert len(words.search(corpus, query + " amber", 9)) >= 2
    for spans in words.marked(query, ["amber 日本語", query]):
        assert spans == sorted(spans)


def test_how_many_are_asked_for(corpus: sqlite3.Connection) -> None:
    assert words.search(corpus, "amber", np.int64(1)) == words.search(corpus, "amber", 10**30)[:1]


def test_a_question_of_stop_words_alone_is_searched_with_them(corpus: sqlite3.Connection) -> None:
    assert [row for row, _ in words.search(corpus, "Not this", 5)] == [1]
    assert [row for row, _ in words.search(corpus, "not amber", 5)] == [2, 0]


def test_a_page_is_searched_by_its_first_words(corpus: sqlite3.Connection) -> None:
    front = " ".join(f"w{number}" for number in range(MAX_WORDS - 1))
    assert {row for row, _ in words.search(corpus, f"{front} {front} amber", 5)} == {0, 2}
    assert words.search(corpus, f"{front} one amber", 5) == []


def test_a_condition_is_on_top(corpus: sqlite3.Connection) -> None:
    assert [row for row, _ in words.search(corpus, "amber", 5, "AND rowid > ?", (0,))] == [2]


FOUND = [
    ("copied", "She copies the file"),
    ("COPY", "it was copied"),
    ("resume", "my résumé"),
    ("résumé", "my re\u0301sume\u0301"),
    ("re\u0301sume\u0301", "My Résumé"),
    ("ΣΟΦΟΣ", "ο σοφος"),
    ("istanbul", "İstanbul"),
    ("bar", "foo_bar"),
    ("foo_bar", "a foo bar"),
    ("item", "\uf0b7item"),
    ("日本", "私は日本語を話します"),
    ("話", "私は日本語を話します"),
    ("カメラ", "新しいカメラを買った"),
    ("𠮷野家", "昨日𠮷野家で食べた"),
    ("北京", "我在北京大学学习"),
    ("ประเทศ", "ประเทศไทยสวยงาม"),
    ("สวย", "ประเทศไทยสวยงาม"),
    ("ភាសា", "ខ្ញុំរៀនភាសាខ្មែរ"),
    ("한국어", "나는 한국어 공부"),
]


@pytest.mark.parametrize(("query", "text"), FOUND)
def test_words_are_found_in_other_forms_and_inside_sentences(query: str, text: str) -> None:
    with new_words() as db:
        words.add(db, [(1, "", "nothing of it"), (2, "", text), (3, text, "")])
        assert [row for row, _ in words.search(db, query, 5)] == [2, 3]
    ((start, stop), *_) = words.marked(query, [text])[0]
    assert stop > start


QUESTIONS = [
    ("東京の天気はどうですか", "東京の天気は晴れです。", "東京の天気は"),
    ("カメラの電池はどこで買えますか", "新しい電池とカメラを買った", "電池"),
    ("わたしのねこはどこ", "ねこはやねのうえ", "ねこは"),
    ("人々の暮らし", "島に住む人々は", "人々"),
    ("北京的大学怎么样？", "我在北京大学学习中文", "大学"),
    ("ประเทศไทยอยู่ที่ไหน", "ประเทศไทยสวยงามมาก", "ประเทศไทย"),
    ("新しいUSBメモリは", "a usb stick", "usb"),
]


@pytest.mark.parametrize(("question", "text", "shared"), QUESTIONS)
def test_a_question_without_spaces_finds_what_shares_some_of_its_words(question: str, text: str, shared: str) -> None:
    others = ["昨夜は雨だった", "她昨天买了书", "แมวนอนหลับ", "nothing of it"]
    with new_words() as db:
        words.add(db, [(row, "", each) for row, each in enumerate([*others, text])])
        assert words.search(db, question, 5)[0][0] == len(others)
    assert shared in [text[start:stop] for start, stop in words.marked(question, [text])[0]]


def test_a_question_with_spaces_is_its_words() -> None:
    assert words.query("Where do the foxes of foo_bar2 sleep, in a re\u0301sume\u0301?") == (
        '"Where" OR "do" OR "foxes" OR "foo_bar2" OR "sleep" OR "re\u0301sume\u0301"'
    )
    assert words.query("한국어 공부") == '"한국어" OR "공부"'


def test_cjk_characters_in_another_order_are_no_hit() -> None:
    with new_words() as db:
        words.add(db, [(1, "", "本日は晴天なり")])
        assert words.search(db, "日本", 5) == []


PIECES = st.lists(
    st.sampled_from(
        [
            "copy",
            "Copied",
            "copies",
            "paper",
            "日本",
            "本",
            "語",
            "ไทย",
            "สวย",
            "résumé",
            "re\u0301sume\u0301",
            "𠮷",
            "🙂",
        ]
        + [
            "👩‍👩‍👧",
            "e\u0301",
            "\ue000",
            "\ue001",
            "\uf0b7",
            "\0",
            "\ud800",
            " ",
            "  ",
            "\n",
            "\t ",
            "\u3000",
            "-",
            "_",
            ".",
        ]
    ),
    max_size=14,
).map("".join)


def is_found(query: str, text: str) -> bool:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(words.SCHEMA)
        words.add(db, [(1, "", text)])
        return bool(words.search(db, query, 1))


@given(query=PIECES, passages=st.lists(PIECES, max_size=3))
def test_marks_are_the_words_that_are_shared_and_no_others(query: str, passages: list[str]) -> None:
    marks = words.marked(query, passages)
    assert len(marks) == len(passages)
    for passage, spans in zip(passages, marks, strict=True):
        rest, end = "", 0
        for start, stop in spans:
            assert end <= start < stop <= len(passage)
            word = passage[start:stop]
            assert is_found(query, word) and word == word.strip()
            rest += passage[end:start] + " zzz "
            end = stop
        assert not is_found(query, rest + passage[end:])


def test_marks_by_hand() -> None:
    passage = "\ue000Copied 🙂 e\u0301 日本語, copying\0copy"
    spans = words.marked("copy 日本 é", [passage, "nothing", ""])
    assert [[passage[a:b] for a, b in some] for some in spans] == [
        ["Copied", "e\u0301", "日本", "copying", "copy"],
        [],
        [],
    ]
    assert words.marked("", ["copy"]) == [[]]
    assert words.marked("copy", []) == []
