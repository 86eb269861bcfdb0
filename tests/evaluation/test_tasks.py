import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffembed.errors import DataError
from diffembed.evaluation.tasks import read_task

CORPUS = [
    {"_id": "d1", "title": "Apples", "text": "red fruit"},
    {"_id": "d2", "title": "", "text": "blue sky\u2028above"},
    {"_id": 3, "text": "no title"},
]
QUERIES = [
    {"_id": "q1", "text": "fruit", "instruction": "find food", "excluded_ids": ["d2", "N/A"]},
    {"_id": "q2", "text": "sky", "excluded_ids": ["N/A"]},
    {"_id": "unjudged", "text": "nothing"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\tgone\t1\nq2\t3\t0\nnobody\td1\t1\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(
        corpus: str | None = None, queries: str | None = None, qrels: str | None = QRELS, zipped: bool = False
    ) -> Path:
        folder = tmp_path / "fruit"
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        for stem, text, rows in (("corpus", corpus, CORPUS), ("queries", queries, QUERIES)):
            data = ("".join(json.dumps(row) + "\n" for row in rows) if text is None else text).encode()
            path = folder / f"{stem}.jsonl"
            path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(data)) if zipped else path.write_bytes(data)
        if qrels is not None:
            (folder / "qrels" / "test.tsv").write_text(qrels)
        return folder

    return make


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_what_is_there(write: Write, zipped: bool) -> None:
    task = read_task(write(zipped=zipped))
    assert task.name == "fruit"
    assert task.document_ids == ("d1", "d2", "3")
    assert task.documents == ("Apples red fruit", "blue sky\u2028above", "no title")
    assert task.query_ids == ("q1", "q2")
    assert task.queries == ("fruit", "sky")
    assert task.instructions == ("find food", None)
    assert task.excluded == {"q1": {"d2"}}
    assert task.qrels == {"q1": {"d1": 2, "gone": 1}, "q2": {"3": 0}}
    assert (task.unjudged_queries, task.unknown_queries, task.unknown_documents) == (1, 1, 1)


def test_judgements_need_no_header_and_blank_lines_are_no_rows(write: Write) -> None:
    task = read_task(write(qrels="q1\td1\t1\n\nq2\td2\t1\r\n"))
    assert task.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1}}


GOOD = '{"_id": "d1", "text": "x"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not JSON"),
        ("[1, 2]", "not a JSON object but list"),
        ('{"text": "x"}', "`_id` must be a string or a whole number, got None"),
        ('{"_id": true, "text": "x"}', "`_id`"),
        ('{"_id": "d2"}', "`text` must be a string, got None"),
        ('{"_id": "d2", "text": 5}', "`text` must be a string, got 5"),
        ('{"_id": "d2", "text": "x", "title": ["y"]}', "`title` must be a string"),
        ('{"_id": "d1", "text": "again"}', "'d1' occurs twice"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_corpus_line_is_named(write: Write, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_task(write(corpus=f"{GOOD}\n{line}\n"))
    assert "corpus.jsonl:3" in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("value", ['"d1"', "[1.5]", "[null]", "7"])
def test_bad_exclusions_are_named(write: Write, value: str) -> None:
    with pytest.raises(DataError, match=r"queries\.jsonl:1: `excluded_ids`"):
        read_task(write(queries=f'{{"_id": "q1", "text": "x", "excluded_ids": {value}}}\n'))


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1\td1\t1\nq2 d2 1\n", r"test\.tsv:2: want 3 fields.*got 1"),
        ("q1\td1\t1\nq2\td2\t1\textra\n", r"test\.tsv:2: want 3 fields.*got 4"),
        ("h\th\th\nq1\td1\t1.5\n", r"test\.tsv:2: relevance.*'1\.5'"),
        ("q1\td1\t1.0\nq1\td2\t1\n", r"test\.tsv:1: relevance.*'1\.0'"),
        ("q1\td1\t" + "9" * 400 + "\n", r"test\.tsv:1: relevance"),
        ("q1\td1\t1\nq1\td1\t2\n", r"test\.tsv:2: q1 and d1"),
        ("other\td1\t1\n", "no query has a judgement"),
        ("", "no query has a judgement"),
    ],
)
def test_bad_judgements_are_named(write: Write, qrels: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_task(write(qrels=qrels))


def test_a_byte_order_mark_is_no_part_of_an_id(write: Write) -> None:
    assert read_task(write(qrels="\ufeffq1\td1\t1\n")).qrels == {"q1": {"d1": 1}}


def test_missing_files(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no task folder"):
        read_task(tmp_path / "nowhere")
    folder = write(qrels=None)
    with pytest.raises(DataError, match=r"cannot read .*test\.tsv"):
        read_task(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"no queries\.jsonl and no queries\.jsonl\.gz"):
        read_task(folder)
    with pytest.raises(DataError, match="corpus is empty"):
        read_task(write(corpus="\n"))


def test_damaged_files(write: Write) -> None:
    folder = write()
    (folder / "corpus.jsonl").write_bytes(GOOD.encode() + b'{"_id": "d2", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:2 is not UTF-8"):
        read_task(folder)
    (folder / "corpus.jsonl").unlink()
    packed = gzip.compress("".join(f'{{"_id": "{i}", "text": "{i * i}"}}\n' for i in range(2_000)).encode())
    for damaged in (packed[: len(packed) // 2], packed[:200] + b"\0" * 50 + packed[250:], b"no gzip at all"):
        (folder / "corpus.jsonl.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"corpus\.jsonl\.gz(:\d+)? is (damaged|not)"):
            read_task(folder)
