"""Files that hold a document in each row: what is read, and what is said of a row that can't be."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from diffembed.library.reading import document
from diffembed.library.reading.document import Unreadable
from diffembed.library.reading.rows import Rows


def write_rows(path: Path, lines: list[str]) -> Path:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_rows(tmp_path, suffix):
    rows = [
        {"_id": "a", "title": "Cats", "text": "They purr."},
        {"_id": 7, "title": "", "text": " Dogs. "},
        {"_id": "b", "title": None, "text": ""},
        {"_id": "c", "text": "half \ud83d"},
    ]
    path = write_rows(tmp_path / f"corpus{suffix}", [json.dumps(row) for row in rows] + ["", "  "])
    documents = list(Rows(path))
    assert [(each.id, each.title, each.text) for each in documents[:3]] == [
        ("a", "Cats", "Cats They purr."),
        ("7", "", "Dogs."),
        ("b", "", ""),
    ]
    assert documents[3].text.encode().startswith(b"half ")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"_id": "1", "text": "again"}', "twice"),
        ('{"_id": 1, "text": "the same id"}', "twice"),
        ('{"_id": "2"}', "no text"),
        ('{"_id": "2", "text": 3}', "no text"),
        ('{"_id": "2", "text": "x", "title": 3}', "title"),
        ('{"text": "x"}', "`_id`"),
        ('{"_id": "", "text": "x"}', "`_id`"),
        ('{"_id": true, "text": "x"}', "`_id`"),
        ('{"_id": ["' + "a" * 1000 + '"], "text": "x"}', "`_id`"),
        ('{"_id": "2", "text": "x"', "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, complaint):
    path = write_rows(tmp_path / "a.jsonl", ['{"_id": "1", "text": "fine"}', line])
    with pytest.raises(Unreadable, match="line 2") as caught:
        list(Rows(path))
    assert complaint in caught.value.reason and len(caught.value.reason) < 200


def test_rows_of_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(Unreadable, match="not a regular file"):
        next(iter(Rows(tmp_path / "a.jsonl")))


def test_rows_stream(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ['{"_id": "1", "text": "fine"}', "broken"])
    assert next(iter(Rows(path))).id == "1"


def test_an_id_of_any_length_makes_no_long_reason(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [json.dumps({"_id": "a" * 100_000, "text": "x"})] * 2)
    with pytest.raises(Unreadable, match="line 2: the id 'aaa.*a occurs twice") as caught:
        list(Rows(path))
    assert len(caught.value.reason) < 200


@pytest.mark.parametrize(
    "row",
    [{"_id": "a" * 101, "text": "x"}, {"_id": 1, "title": " " * 101, "text": "x"}, {"_id": 1, "text": "x" * 101}],
)
def test_no_part_of_a_row_is_longer_than_a_document(tmp_path, monkeypatch, row):
    monkeypatch.setattr(document, "LONGEST_TEXT", 100)
    path = write_rows(tmp_path / "a.jsonl", [json.dumps({"_id": 2, "text": "fine"}), json.dumps(row)])
    with pytest.raises(Unreadable, match=r"line 2: over 0\.0001 million characters"):
        list(Rows(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_the_digest_is_that_of_what_was_read(tmp_path, suffix):
    path = write_rows(tmp_path / f"a{suffix}", [json.dumps({"_id": n, "text": "x" * 999}) for n in range(3000)])
    rows = Rows(path)
    reading = iter(rows)
    assert next(reading).id == "0" and rows.digest is None
    data = path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(b"another file in its place")
    other.replace(path)
    assert sum(1 for _ in reading) == 2999
    assert rows.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_the_digest_of_a_broken_file_is_that_of_all_of_it(tmp_path, suffix):
    path = write_rows(tmp_path / f"a{suffix}", ["broken", *("{}" + " " * 999 for _ in range(3000))])
    rows = Rows(path)
    with pytest.raises(Unreadable) as caught:
        list(rows)
    assert caught.value.digest == hashlib.sha256(path.read_bytes()).hexdigest() and rows.digest is None
    path.unlink()
    with pytest.raises(Unreadable, match="not there any more") as caught:
        list(rows)
    assert caught.value.digest is None
