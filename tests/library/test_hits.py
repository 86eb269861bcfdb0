"""What a hit shows: the nearest sentence, the words it shares with the question, and the line to look at."""

from pathlib import Path

import pytest

from diffembed.index.snapshot import Chunk
from diffembed.library.hits import Hit, describe, plain
from diffembed.library.model import LibraryModel

TEXT = (
    "# Pets\n\n"
    "Cats sleep through most of the day.\n"
    "A dog wants to be walked in the rain.\n\n"
    "Sleeping cats, Cats, CATS: let them be.\n\n"
    "Fish need nothing of the kind.\n"
)


def chunk(text: str, line: int = 1) -> Chunk:
    return Chunk(path="/a.md", id="/a.md", title="Pets", start=7, stop=7 + len(text), line=line, text=text)


@pytest.fixture
def library_model(model: Path) -> LibraryModel:
    return LibraryModel.of(model)


def by_words(query: str, *texts: str) -> list[Hit]:
    """A search by words alone, with a model that is nowhere."""
    return describe(query, [(1.0, chunk(text)) for text in texts], None, LibraryModel("nowhere at all"))


def test_by_words_the_sentence_with_most_different_ones() -> None:
    (hit,) = by_words("the rain, and a dog", TEXT)
    assert hit.sentence == "A dog wants to be walked in the rain."
    assert (hit.words, hit.line) == (("dog", "rain"), 4)
    # One word three times is one word: the sentence that comes first wins.
    (hit,) = by_words("cats", TEXT)
    assert (hit.sentence, hit.line) == ("Cats sleep through most of the day.", 3)


def test_words_stand_as_in_the_passage_each_once() -> None:
    (hit,) = by_words("a cat that sleeps", TEXT)
    assert hit.words == ("Cats", "sleep", "Sleeping")


def test_words_of_scripts_without_spaces() -> None:
    (hit,) = by_words("猫", "Ein Satz. 黒い猫が雨の中を歩いている。")
    assert hit.words == ("猫",)
    assert "猫" in hit.sentence
    (hit,) = by_words("猫", "A sentence of five words. 黒い猫が雨の中を歩いている。")
    assert hit.sentence == "黒い猫が雨の中を歩いている。"


def test_by_meaning_the_nearest_sentence(library_model: LibraryModel) -> None:
    wanted = "Fish need nothing of the kind."
    query_E = library_model.passages([wanted])[0]
    (hit,) = describe("xylophones", [(0.5, chunk(TEXT, line=40))], query_E, library_model)
    assert (hit.sentence, hit.words) == (wanted, ())
    assert hit.line == 40 + TEXT.count("\n", 0, TEXT.index(wanted))


def test_a_heading_is_shown_only_where_there_is_nothing_else(library_model: LibraryModel) -> None:
    query_E = library_model.passages(["# Pets"])[0]
    found = describe("pets", [(1.0, chunk(TEXT)), (0.9, chunk("\n\n# Pets\n"))], query_E, library_model)
    assert [hit.sentence != "# Pets" for hit in found] == [True, False]
    assert found[1].line == 3


@pytest.mark.parametrize("text", ["x", "日本語", "?!", " \n.", "word " * 2000, "a. " * 300])
def test_any_passage_has_a_sentence_of_its_own(library_model: LibraryModel, text: str) -> None:
    query_E = library_model.passages(["anything"])[0]
    for vector in (query_E, None):
        (hit,) = describe("word", [(1.0, chunk(text))], vector, library_model)
        assert hit.sentence and hit.sentence in text
        assert hit.text == text


def test_hits_keep_their_order_and_scores(library_model: LibraryModel) -> None:
    query_E = library_model.passages(["dog"])[0]
    scored = [(2.0, chunk(TEXT)), (1.5, chunk("A dog.")), (1.5, chunk("Nothing here at all."))]
    for found in (describe("dog", scored, query_E, library_model), plain(scored)):
        assert [(hit.rank, hit.score, hit.text) for hit in found] == [
            (rank, score, each.text) for rank, (score, each) in enumerate(scored, start=1)
        ]
        assert {(hit.path, hit.id, hit.title, hit.start) for hit in found} == {("/a.md", "/a.md", "Pets", 7)}
    assert describe("dog", [], query_E, library_model) == plain([]) == []
