import json
import re
import sys
from importlib import resources
from statistics import fmean
from typing import Any

import pytest

from diffembed.data.docstrings import read_docstrings
from diffembed.demo import SAMPLE_QUESTIONS

KINDS = {"words", "meaning", "long"}
PATH = resources.files("diffembed") / "demo" / "questions.jsonl"
QUESTIONS: list[dict[str, Any]] = [json.loads(line) for line in PATH.read_text("utf-8").splitlines()]
LEAST_ANSWERED = 150
OPTIONAL_MODULES = {"distutils", "tkinter", "turtle", "venv"}
"""Some systems ship these apart from Python."""
COMMON = """
a about after again all already an and any anything are as at away back be before but by came can come could did do
does down each else even ever every everything few find first for from gave get give go goes got had has have he her
here his how i if in into is it its itself just know last left let like look made make many may me more most much
must my need never new next no nobody none not nothing now of off on once one only onto or other our out over own
please put rather right said same say see she should show so some somebody something still such take tell than that
the their them then there these they thing things this those three through to too two under until up us use used
very want wants was way we were what when where whether which while who will with without would write written yet
you your
"""
STOP_WORDS = set(COMMON.split())


def content_words(text: str) -> set[str]:
    """Words in lower case without their endings, so that `files` meets `file` and `makeFile` is two words."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return {re.sub(r"(?<=\w{3})(ings?|ies|ed|es|s|ly|er)$", "", word) for word in words if word not in STOP_WORDS}


@pytest.fixture(scope="module")
def library() -> dict[str, str]:
    return {each.id: each.text for each in read_docstrings()}


def best(question: dict[str, Any], library: dict[str, str]) -> list[str]:
    return [name for name, grade in question["answers"].items() if grade == 2 and name in library]


def shared_words(question: dict[str, Any], library: dict[str, str]) -> float:
    """Share of a question's content words that stand in a best answer, whichever has most of them."""
    asked = content_words(question["question"])
    return max(len(asked & content_words(f"{name} {library[name]}")) / len(asked) for name in best(question, library))


def test_rows_are_whole_and_in_order() -> None:
    assert [each["id"] for each in QUESTIONS] == [f"q{number:03}" for number in range(1, len(QUESTIONS) + 1)]
    for each in QUESTIONS:
        assert each.keys() == {"id", "question", "kind", "answers"}, each["id"]
        assert each["question"] == each["question"].strip() != "", each["id"]
        assert set(each["answers"].values()) <= {1, 2} and 2 in each["answers"].values(), each["id"]


def test_each_kind_has_enough_questions() -> None:
    kinds = [each["kind"] for each in QUESTIONS]
    assert set(kinds) == KINDS
    assert len(kinds) >= LEAST_ANSWERED and all(kinds.count(kind) >= 35 for kind in KINDS)


def test_no_question_is_asked_twice() -> None:
    asked = [" ".join(re.findall(r"\w+", each["question"].casefold())) for each in QUESTIONS]
    assert len(set(asked)) == len(asked)
    for each in QUESTIONS:
        words = content_words(each["question"])
        for sample in map(content_words, SAMPLE_QUESTIONS):
            assert len(words & sample) < 0.5 * len(words | sample), each["id"]


def test_most_questions_can_be_answered_by_this_python(library: dict[str, str]) -> None:
    assert sum(bool(best(each, library)) for each in QUESTIONS) >= LEAST_ANSWERED


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the answers were chosen from Python 3.11")
def test_every_answer_is_a_passage(library: dict[str, str]) -> None:
    missing = {name for each in QUESTIONS for name in each["answers"] if name not in library}
    assert {name for name in missing if name.partition(".")[0] not in OPTIONAL_MODULES} == set()


def test_only_questions_by_words_name_their_answer() -> None:
    for each in QUESTIONS:
        if each["kind"] != "words":
            named = [name for name in each["answers"] if re.search(rf"(?<![\w.]){re.escape(name)}\b", each["question"])]
            assert named == [], each["id"]


def test_long_questions_describe_a_situation() -> None:
    for each in QUESTIONS:
        words, sentences = len(each["question"].split()), len(re.findall(r"[.?!](?=\s|$)", each["question"]))
        if each["kind"] == "long":
            assert 30 <= words <= 80 and 2 <= sentences <= 4, (each["id"], words, sentences)
        else:
            assert words < 30, each["id"]


def test_questions_by_meaning_share_few_words_with_their_answers(library: dict[str, str]) -> None:
    answered = [each for each in QUESTIONS if best(each, library)]
    shares = {kind: [shared_words(each, library) for each in answered if each["kind"] == kind] for kind in KINDS}
    assert fmean(shares["words"]) > 0.8 and min(shares["words"]) >= 0.5
    assert fmean(shares["meaning"]) < 0.3 and max(shares["meaning"]) <= 0.6
    assert fmean(shares["long"]) < 0.4
