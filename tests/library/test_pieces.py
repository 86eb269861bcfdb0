"""Very long texts go through the model in pieces, and nothing of them is lost or moved."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed import Embedder
from diffembed.errors import DataError
from diffembed.library import pieces
from diffembed.library.account import Account
from diffembed.library.index import Index
from diffembed.library.model import LibraryModel
from diffembed.library.pieces import cut_pieces, embed
from diffembed.library.reading import document
from diffembed.library.reading.document import Document
from diffembed.library.update import index_files
from tests.library.conftest import CHUNK, rows, write
from tests.tiny_embedders import SENTENCE

SIZE = 300
TEXT = st.text(st.sampled_from("ab \n.漢🙂"), max_size=60)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", SIZE)


@given(text=TEXT, size=st.integers(1, 70), data=st.data())
def test_pieces_follow_each_other_and_share_the_headings(text: str, size: int, data: st.DataObject) -> None:
    headings = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_CHARACTERS", size)
        found = list(cut_pieces(text, headings))
    assert "".join(piece.text for piece in found) == text
    assert [piece.start for piece in found] == [sum(len(each.text) for each in found[:n]) for n in range(len(found))]
    assert all(len(piece.text) <= size for piece in found)
    assert sorted(piece.start + heading for piece in found for heading in piece.headings) == headings
    assert all(0 <= heading <= len(piece.text) for piece in found for heading in piece.headings)


def test_a_piece_ends_where_a_paragraph_does() -> None:
    words = "word " * 35
    text = f"{words}\n\n{words}\n{words}\n{words}" + "x" * 400
    found = [piece.text for piece in cut_pieces(text, ())]
    assert found[0] == f"{words}\n\n" and found[1] == f"{words}\n"
    assert [len(piece) for piece in found[2:]] == [len(words) + 1, len(words), SIZE, 100]


def test_headings_that_are_none_are_left_for_the_embedder_to_refuse() -> None:
    text = "x" * (2 * SIZE)
    first, last = cut_pieces(text, (-1, 3, 2 * SIZE + 1))
    assert (first.headings, last.headings) == ([-1, 3], [SIZE + 1])


@pytest.mark.parametrize("contextual", [True, False])
def test_chunks_partition_a_text_and_have_the_vectors_of_their_piece(
    model: Path, embedder: Embedder, contextual: bool
) -> None:
    long = "\n\n".join(f"# Part {n}\n\n{SENTENCE}, part {n}." for n in range(9))
    headings = [offset for offset in range(len(long)) if long.startswith("# Part", offset)]
    texts = [("short one", ()), (long, headings), ("short two", ())]
    account, told = Account(), []
    library_model = LibraryModel.of(embedder)
    found = list(
        embed(
            texts,
            library_model,
            account,
            chunk_tokens=CHUNK,
            contextual=contextual,
            on_piece=lambda: told.append(account.tokens),
        )
    )
    assert [spans for spans, _ in (found[0], found[2])] == [[(0, 9)], [(0, 9)]]
    spans, vectors = found[1]
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])] and spans[-1][1] == len(long)
    wanted, tokens = [], 0
    for piece in cut_pieces(long, headings):
        assert piece.text.strip() and (piece.start == 0 or piece.start in [start for start, _ in spans])
        chunks = embedder.embed_chunks(piece.text, CHUNK, headings=piece.headings, contextual=contextual)
        wanted.append(chunks.vectors)
        tokens += chunks.report.tokens
    assert len(wanted) > 2
    assert np.array_equal(vectors, np.concatenate(wanted))
    short = [embedder.embed_chunks(text, CHUNK, contextual=contextual).report.tokens for text, _ in texts[::2]]
    assert account.tokens == tokens + sum(short)
    assert told and told == sorted(told)  # who waits for a long text hears of it


def test_hits_of_a_text_in_pieces_stand_where_they_say(tmp_path: Path, embedder: Embedder) -> None:
    text = "\n\n".join(f"{SENTENCE}, for the {n}th time." for n in range(12)) + "\n\nHere is the needle.\n"
    write(tmp_path / "tree", {"long.txt": text.encode()})
    index_files([tmp_path / "tree"], tmp_path / "index", model=embedder, chunk_tokens=CHUNK)
    with Index.open(tmp_path / "index") as index:
        assert index.check() == []
        (hit,) = index.search("needle", mode="lexical")
        assert text[hit.start : hit.end] == hit.text and hit.sentence == "Here is the needle."
        assert hit.line == text.count("\n")


def test_there_is_a_longest_text(tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "LONGEST_TEXT", 1_000)
    long = b"word " * 201
    files = {"a.txt": long, "b.md": long, "c.rst": long, "d.py": long, "e.txt": long[:1000]}
    write(tmp_path / "tree", files | {"f.jsonl": rows({"_id": "1", "text": "x"}, {"_id": "2", "text": long.decode()})})
    account = index_files([tmp_path / "tree"], tmp_path / "index", model=embedder, chunk_tokens=CHUNK)
    assert [Path(each.path).name for each in account.skipped] == ["a.txt", "b.md", "c.rst", "d.py", "f.jsonl"]
    assert {each.reason for each in account.skipped[:4]} == {"over 0.001 million characters"}
    assert account.skipped[4].reason == "line 2: over 0.001 million characters"
    with Index.open(tmp_path / "index") as index:
        assert index.counts().documents == 1
        with pytest.raises(DataError, match="the text of the document 'a' is over 0.001 million characters"):
            index.add([Document(id="a", text=long.decode())])
