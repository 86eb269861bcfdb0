"""Pairs from every kind of source, and messages for what is malformed."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data import pairs
from diffembed.data.pairs import Pair, cut_passages, docstring_pairs, document_pairs, read_pairs, split_sentences
from diffembed.data.sources import Document, Row
from diffembed.errors import DataError

SENTENCES = [f"Sentence number {word} says something about the river and its many old boats." for word in "abcdef"]


def document_of(values) -> Document:
    return Document.from_row(Row(values, "here"))


def write(path: Path, rows: list) -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_ready_pairs_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "medicine" / f"pairs.jsonl{suffix}", [{"q": "why?", "p": "because", "kind": "asked", "year": 1}])
    assert list(read_pairs(tmp_path)) == [Pair("why?", "because", "medicine", "asked")]


def test_a_source_with_pairs_and_documents_gives_its_pairs(tmp_path: Path) -> None:
    write(tmp_path / "a" / "pairs.jsonl", [{"q": "why?", "p": "because", "kind": "asked"}])
    write(tmp_path / "a" / "docs.jsonl", [{"title": "Boats", "text": " ".join(SENTENCES)}])
    assert [pair.kind for pair in read_pairs(tmp_path)] == ["asked"]


def test_passages_stand_under_title_and_headings() -> None:
    text = " ".join(SENTENCES)
    row = {"title": "Boats", "sections": [{"h": "", "sub": "", "text": text}, {"h": "Use", "sub": "War", "text": text}]}
    found = [pair for pair in document_pairs(document_of(row), "wiki") if pair.kind == "heading->passage"]
    assert [pair.query for pair in found] == ["Boats", "Boats: Use: War"]
    assert all(pair.passage == text for pair in found)


def test_a_sentence_asks_for_the_passage_without_it() -> None:
    row = {"title": "Boats", "text": " ".join(SENTENCES)}
    (found,) = (pair for pair in document_pairs(document_of(row), "wiki") if pair.kind == "sentence->passage")
    assert found.query in SENTENCES
    assert found.query not in found.passage
    assert found.passage == " ".join(["Boats", *(s for s in SENTENCES if s != found.query)])


def test_a_lead_asks_for_a_long_body() -> None:
    lead, body = " ".join(SENTENCES[:4]), " ".join(SENTENCES * 5)
    row = {"title": "Boats", "sections": [{"h": "", "text": lead}, {"h": "Use", "text": body}]}
    (found,) = (pair for pair in document_pairs(document_of(row), "wiki") if pair.kind == "lead->body")
    assert lead.startswith(found.query)
    assert found.passage == f"Use\n{body}"
    short = {**row, "sections": [row["sections"][0], {"h": "Use", "text": lead}]}
    assert "lead->body" not in {pair.kind for pair in document_pairs(document_of(short), "wiki")}


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(20, 80))
def test_passages_hold_every_sentence_once_and_keep_to_the_limit(lengths: list[int], limit: int) -> None:
    sentences = [" ".join([f"S{number}", *["word"] * (length - 1)]) + "." for number, length in enumerate(lengths)]
    found = list(cut_passages(" ".join(sentences), limit))
    kept = [sentence for passage in found for sentence in passage]
    assert kept == sentences[: len(kept)]
    assert sum(lengths[len(kept) :]) < pairs.MIN_PASSAGE_WORDS  # only a short rest is dropped
    for passage in found:
        assert len(passage) == 1 or sum(len(s.split()) for s in passage) <= limit


def test_sentences_end_where_a_reader_would_say() -> None:
    text = 'He said "Stop."  It did.\nPi is 3.14 or so. e.g. this stays. (Really?) Yes!'
    assert split_sentences(text) == [
        'He said "Stop."',
        "It did.",
        "Pi is 3.14 or so. e.g. this stays.",
        "(Really?)",
        "Yes!",
    ]


def test_problems_meet_their_concept_and_another_solved_problem(tmp_path: Path) -> None:
    problems = [{"concept": "Ohm", "problem": f"P{i}", "solution": f"S{i}", "check_ok": i != 1} for i in range(3)] + [
        {"concept": "Bayes", "problem": "alone", "solution": "S"}
    ]
    write(tmp_path / "r" / "problems.jsonl.gz", problems)
    write(tmp_path / "r" / "definitions.jsonl.gz", [{"concept": "Ohm", "definition": "U = R I"}])
    found = list(read_pairs(tmp_path))
    by_kind = {kind: [p for p in found if p.kind == kind] for kind in {p.kind for p in found}}
    assert {(p.query, p.passage, p.topic) for p in by_kind["problem->definition"]} == {
        (f"P{i}", "U = R I", "Ohm") for i in range(3)
    }
    solved = by_kind["problem->solved problem"]
    assert {p.query for p in solved} == {"P0", "P1", "P2"}  # `alone` has no other problem of its concept
    for pair in solved:
        assert pair.topic == "Ohm"
        assert pair.passage in {"P0\nS0", "P2\nS2"}  # P1's solution was refused by its check
        assert not pair.passage.startswith(pair.query)


def test_docstrings_give_thousands_of_pairs_without_any_data() -> None:
    found = list(docstring_pairs())
    assert len(found) > 1000
    assert all(pair.query.strip() and pair.passage.strip() for pair in found)


GOOD = {"q": "why?", "p": "because", "kind": "asked"}


@pytest.mark.parametrize(
    ("name", "rows", "complaint"),
    [
        ("pairs.jsonl", [GOOD, {"q": "why?", "kind": "asked"}], r"pairs.jsonl:2 has no text `p`"),
        ("pairs.jsonl", [{**GOOD, "q": 7}], r"pairs.jsonl:1 has no text `q`"),
        ("pairs.jsonl", [GOOD, "{broken"], r"pairs.jsonl:2 is not JSON"),
        ("pairs.jsonl", ["[1]"], r"pairs.jsonl:1 is not a JSON object"),
        ("docs.jsonl", [{"title": "x"}], r"docs.jsonl:1 has no text `text`"),
        ("docs.jsonl", [{"title": ["x"], "text": "y"}], r"docs.jsonl:1 has no text `title`"),
        ("docs.jsonl", [{"title": "x", "sections": "y"}], r"docs.jsonl:1: `sections` is no list"),
        ("docs.jsonl", [{"title": "x", "sections": [{"h": 3, "text": "y"}]}], r"docs.jsonl:1 has a section whose `h`"),
    ],
)
def test_malformed_rows_are_named_by_file_and_line(tmp_path: Path, name: str, rows: list, complaint: str) -> None:
    write(tmp_path / "a" / name, rows)
    with pytest.raises(DataError, match=complaint) as caught:
        list(read_pairs(tmp_path))
    assert caught.value.hint


def test_a_folder_that_is_missing_empty_or_cut_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        list(read_pairs(tmp_path / "none"))
    with pytest.raises(DataError, match="no docs.jsonl or pairs.jsonl"):
        list(read_pairs(tmp_path))
    write(tmp_path / "a" / "pairs.jsonl.gz", [GOOD] * 1000)
    path = tmp_path / "a" / "pairs.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="damaged"):
        list(read_pairs(tmp_path))
