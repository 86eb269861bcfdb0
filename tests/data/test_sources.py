"""Sources on disk: every readable form read, every damaged one named with its line."""

import gzip
import json
import lzma
import tracemalloc

import pytest

from diffembed.data import sources
from diffembed.data.sources import find_sources, iter_texts, read_rows
from diffembed.errors import DataError

ROWS = [
    {"id": "1", "title": "Cats", "text": "They purr."},
    {
        "id": "2",
        "title": "",
        "sections": [{"h": "", "sub": "", "text": "Lead."}, {"h": "A", "sub": "b", "text": "Body."}],
    },
]
OPENERS = {".jsonl": open, ".jsonl.gz": gzip.open, ".jsonl.xz": lzma.open}


def write(path, rows, opener=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.mark.parametrize("suffix", OPENERS)
def test_every_form_is_read(tmp_path, suffix):
    write(tmp_path / "cats" / f"docs{suffix}", ROWS, OPENERS[suffix])
    (source,) = find_sources(tmp_path)
    assert source.name == "cats"
    assert list(iter_texts(source)) == ["Cats\nThey purr.", "Lead.\nA b\nBody."]


def test_pairs_serve_where_there_are_no_documents(tmp_path):
    write(tmp_path / "a" / "pairs.jsonl", [{"q": "who?", "p": "me"}])
    write(tmp_path / "b" / "pairs.jsonl", [{"q": "not", "p": "read"}])
    write(tmp_path / "b" / "docs.jsonl", ROWS[:1])
    assert [list(iter_texts(source)) for source in find_sources(tmp_path)] == [["who?\nme"], ["Cats\nThey purr."]]


def test_a_folder_may_be_a_source_itself(tmp_path):
    write(tmp_path / "docs.jsonl", ROWS[:1])
    assert [source.name for source in find_sources(tmp_path)] == [tmp_path.name]


def test_folders_without_sources_are_refused(tmp_path):
    with pytest.raises(DataError, match="no docs.jsonl"):
        find_sources(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        find_sources(tmp_path / "missing")


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", "3"])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=r"docs\.jsonl:3 is not"):
        list(read_rows(path))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' * 300 + b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"docs\.jsonl:301"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.xz"])
@pytest.mark.parametrize("damage", ["cut short", "foreign"])
def test_damaged_archives_are_named(tmp_path, suffix, damage):
    path = tmp_path / f"docs{suffix}"
    write(path, [{"text": f"some text {i * 7919}"} for i in range(500)], OPENERS[suffix])
    path.write_bytes(path.read_bytes()[:-200] if damage == "cut short" else b"this is no archive")
    with pytest.raises(DataError, match=r"docs\.jsonl"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", OPENERS)
@pytest.mark.parametrize("last", ["\n", ""])
def test_a_line_without_end_is_named_and_not_read_to_its_end(tmp_path, suffix, last):
    """A few kilobytes of archive can hold gigabytes."""
    path = tmp_path / f"docs{suffix}"
    size = 3 * sources.MOST_LINE_BYTES
    if suffix == ".jsonl":
        with path.open("wb") as file:
            file.write(b'{"text": "fine"}\n')
            file.truncate(20 * size)  # sparse
    else:
        with OPENERS[suffix](path, "wb") as file:
            file.write(b'{"text": "fine"}\n')
            for _ in range(0, size, 1_000_000):
                file.write(bytes(1_000_000))
            file.write(last.encode())
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"docs\.jsonl.*:2 is longer than 16 MB"):
            list(read_rows(path))
        buffers = 2_000_000  # of what unpacks, however long the line may be
        assert tracemalloc.get_traced_memory()[1] < 2.5 * sources.MOST_LINE_BYTES + buffers
    finally:
        tracemalloc.stop()


def test_a_row_with_half_a_character_is_not_held_twice(tmp_path):
    peaks = []
    for half in ("", "\\ud800"):
        path = tmp_path / "docs.jsonl"
        path.write_text('{"text": "' + half + '", "more": [' + "{}," * 200_000 + "{}]}")
        tracemalloc.start()
        try:
            (row,) = read_rows(path)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert row.text("text") == "?" * bool(half)
    assert peaks[1] < 1.5 * peaks[0]


def test_the_longest_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_LINE_BYTES", 17)
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "fine"}')
    assert [row.place for row in read_rows(path)] == [f"{path}:1", f"{path}:2"]
    path.write_text('{"text": "fine"}\n{"text": "fine!"}\n')
    with pytest.raises(DataError, match=r"docs\.jsonl:2 is longer"):
        list(read_rows(path))


@pytest.mark.parametrize("row", [{"title": "x"}, {"text": 3}, {"sections": [{"h": "x"}]}])
def test_rows_without_text_are_refused(tmp_path, row):
    write(tmp_path / "docs.jsonl", [row])
    with pytest.raises(DataError, match=r"docs\.jsonl:1 has (no text `text`|a section whose `text` is no text)"):
        list(iter_texts(find_sources(tmp_path)[0]))


def test_problems_without_definitions_are_refused(tmp_path):
    write(tmp_path / "made" / "problems.jsonl", [{"concept": "c", "problem": "p", "solution": "s"}])
    with pytest.raises(DataError, match=r"only one of problems\.jsonl"):
        find_sources(tmp_path)


def test_a_linked_source_keeps_the_name_of_the_link(tmp_path):
    write(tmp_path / "elsewhere" / "docs.jsonl", ROWS[:1])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cats").symlink_to(tmp_path / "elsewhere")
    assert [source.name for source in find_sources(tmp_path / "data")] == ["cats"]
