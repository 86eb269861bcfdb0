"""Training data that is wrong: named with file, line and value; counted and passed over only when asked to."""

import gzip
import json
import lzma
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data.readers import read_examples
from diffembed.data.readers.layouts import ROW_LAYOUTS
from diffembed.data.sources import Row
from diffembed.errors import DataError
from tests.examples import examples
from tests.memory import STATUS

OPENERS = {".jsonl": open, ".gz": gzip.open, ".xz": lzma.open}
ROW = {"query": "why?", "positive": "because", "negatives": ["no"], "scores": [1, 0]}
PASSAGES = [{"docid": "1", "title": "T", "text": "t"}]
GOOD = {
    "rows": {
        **ROW,
        "instruction": "i",
        "kind": "k",
        "topic": "t",
        "chunks": ["because", "c"],
        "source": "s",
        "label": 1,
    },
    "reasonaug": {
        "user_query": "q",
        "positive_document": "p",
        "hard_negative_document": "n",
        "task": "t",
        "task_type": "p2i",
        "instance": "i",
    },
    "msmarco-instructions": {
        "query": "q",
        "positive_passages": PASSAGES,
        "new_negatives": [{"title": "", "text": "new"}],
        "negative_passages": [{"title": "N", "text": "n"}],
    },
    "tevatron": {"query": "q", "positive_passages": PASSAGES, "negative_passages": []},
    "flagembedding": {
        "query": "q",
        "pos": ["p"],
        "neg": ["n"],
        "pos_scores": [1],
        "neg_scores": [0],
        "prompt": "i",
        "type": "k",
    },
    "pairs": {"q": "q", "p": "p", "kind": "k"},
    "sentences": {"text": "s"},
}
"""Of each layout a row with every key that it reads."""


def write(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with OPENERS.get(path.suffix, open)(path, "wt", encoding="utf-8") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return path


def changed(**values) -> dict:
    return {key: value for key, value in {**ROW, **values}.items() if value is not None}


BAD = [
    (changed(positive=None), "there is no positive for 'why?'", "there is no positive for …"),
    (changed(positive=[]), "there is no positive for 'why?'", "there is no positive for …"),
    (changed(query="  "), "`query` is blank: '  '", "`query` is blank: …"),
    (changed(positive="\n"), r"`positive` has a blank text: '\n'", "`positive` has a blank text: …"),
    (changed(negatives=["no", ""]), "`negatives` has a blank text: ''", "`negatives` has a blank text: …"),
    (changed(query=7), "`query` must be a text, got 7", "`query` must be a text, got …"),
    (changed(negatives=[["no"]]), "must be a text or a list of texts, got [['no']]", None),
    (changed(negatives=["because"]), "the negative 'because' is a positive too", "the negative … is a positive too"),
    (changed(scores=[1, 2, 3]), "3 scores for a positive and 1 negatives", None),
    (changed(scores=["high", "low"]), "`scores` must be finite numbers, got ['high', 'low']", None),
    ('{"query": "q", "positive": "p", "score": NaN}', "`score` must be finite numbers, got nan", None),
    (changed(scores=None, label=0), "the label 0 says", None),
    (changed(chunks=["other"]), "the first positive is none of the chunks", None),
    (changed(positive=None, postive="because"), "`postive` is no key, its value 'because'", None),
    (changed(negatives=None, Negatives=["no"]), "`Negatives` is no key, its value ['no']", None),
    (changed(positives=["because"]), "`positives` and `positive` mean the same", None),
    (changed(kind=["k"]), "`kind` must be a text, got ['k']", None),
]


@pytest.mark.parametrize(("row", "complaint", "reason"), BAD, ids=[complaint for _, complaint, _ in BAD])
def test_a_bad_row_is_named_or_counted(tmp_path: Path, row: dict | str, complaint: str, reason: str | None) -> None:
    path = write(tmp_path / "x.jsonl", [ROW, row, ROW])
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    assert caught.value.message.startswith(f"{path}:2: ")
    assert complaint in caught.value.message
    assert caught.value.hint
    skipped = Counter()
    assert len(list(read_examples(path, on_bad_row="skip", skipped=skipped))) == 2
    assert skipped.total() == 1
    assert reason is None or skipped == {reason: 1}


def test_the_nearest_key_is_proposed(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(read_examples(write(tmp_path / "x.jsonl", [ROW, changed(negatives=None, negitives=["no"])])))
    assert caught.value.hint == "did you mean `negatives`?"
    with pytest.raises(DataError, match=r"x\.jsonl:1: rows with the keys `qurey`, `positive` are of no") as caught:
        read_examples(write(tmp_path / "x.jsonl", [{"qurey": "q", "positive": "p"}]))
    assert "`query` by `qurey`" in caught.value.hint


def test_other_unknown_keys_are_left_alone(tmp_path: Path) -> None:
    row = {**ROW, "id": 1, "query_id": "a", "positive_ids": [2], "lang": "en", "meta": {"x": 1}, "title": "t"}
    assert len(list(read_examples(write(tmp_path / "x.jsonl", [row])))) == 1


def test_reasons_are_the_same_whatever_the_rows_hold(tmp_path: Path) -> None:
    rows = [changed(negatives=[text], positive=text) for text in ("it's", 'a "b" c', "12", "x" * 500, "[y]")]
    rows += [changed(scores=[1] * n) for n in (3, 14, 15)] + [changed(query=value) for value in (1, -2.5e9, 10**70)]
    skipped = Counter()
    list(read_examples(write(tmp_path / "x.jsonl", [ROW, *rows]), on_bad_row="skip", skipped=skipped))
    assert sorted(skipped.values()) == [3, 3, 5]


@pytest.mark.parametrize("rows", [[], ["", "  "]])
def test_an_empty_source_is_refused(tmp_path: Path, rows: list) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl has no row"):
        read_examples(write(tmp_path / "x.jsonl", rows))
    with pytest.raises(DataError, match="no file in .* holds rows"):
        read_examples(write(tmp_path / "sub" / "x.md", rows).parent)
    with pytest.raises(DataError, match=r"source sources .*pairs\.jsonl\) has no row"):
        list(read_examples(write(tmp_path / "sources" / "pairs.jsonl", rows).parent, on_bad_row="skip"))
    with pytest.raises(DataError, match=r"source s .* has no row that can be used: 2 were passed over"):
        list(read_examples(write(tmp_path / "s.jsonl", ["{}"] * 2), layout="rows", on_bad_row="skip"))


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.xz"])
def test_a_truncated_archive_is_an_error_either_way(tmp_path: Path, suffix: str, on_bad_row) -> None:
    path = write(tmp_path / f"x{suffix}", [{**ROW, "id": i * 7919} for i in range(2000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"x\{suffix} is damaged after line \d+"):
        list(read_examples(path, on_bad_row=on_bad_row))


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_line_that_is_no_json_is_an_error_either_way(tmp_path: Path, on_bad_row) -> None:
    path = write(tmp_path / "x.jsonl", [ROW] * 150 + ["{broken"])
    with pytest.raises(DataError, match=r"x\.jsonl:151 is not JSON"):
        list(read_examples(path, on_bad_row=on_bad_row))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("x.csv", "query,positive\na,b\nc,d,e\n", r"x\.csv:3: there are more cells than columns: \['e'\]"),
        ("x.csv", 'query,positive\n"a\nb",c\n"d\ne",\n', r"x\.csv:4: there is no positive for 'd\\ne'"),
        ("x.csv", 'query,positive\na,b\nc,"d\n', r"x\.csv:3 is no row of a table: unexpected end"),
        ("x.csv", "query,query\na,b\n", r"x\.csv:1: a column has no name, or two have the same"),
        ("x.tsv", "query\tpositive\tscore\na\tb\thigh\n", r"x\.tsv:2: `score` must be finite numbers, got 'high'"),
        ("x.csv", "query,positive\n", r"x\.csv has no row"),
    ],
)
def test_bad_tables_are_named_by_line(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=complaint):
        list(read_examples(tmp_path / name))


CORPUS = [{"_id": "d1", "text": "one"}, {"_id": "d2", "text": "two"}]
QUERIES = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}]
QRELS = ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td2\t1"]


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "complaint"),
    [
        ([], [], ["q1\tnone\t1"], r"queries\.jsonl:1: its document 'none' .*train\.tsv:4\) is not in the corpus"),
        ([], [], ["none\td1\t1"], r"train\.tsv:4: no query has the id 'none'"),
        ([], [], ["q1\td1\t1"], r"train\.tsv:4: 'q1' 'd1' occurs twice"),
        ([], [], ["q1 d1 1"], r"train\.tsv:4: want 3 fields with tabs between them, got 1"),
        ([], [], ["q1\td2\tmuch"], r"train\.tsv:4: the score must be a whole number, got 'much'"),
        ([], [], ["q1\td2\t99999999999"], r"train\.tsv:4: the score must be a whole number"),
        ([{"_id": "d1", "text": "again"}], [], [], r"corpus\.jsonl:3: 'd1' occurs twice"),
        ([{"_id": None, "text": "x"}], [], [], r"corpus\.jsonl:3: `_id` must be a string or a whole number, got None"),
        ([{"_id": "d3", "text": " "}], [], ["q1\td3\t1"], r"corpus\.jsonl:3: `title` and `text` are blank"),
        ([{"_id": "d3", "text": "one"}], [], ["q1\td3\t0"], r"queries\.jsonl:1: the negative 'one' is a positive too"),
        ([], [{"_id": "q1", "text": "again"}], [], r"queries\.jsonl:3: 'q1' occurs twice"),
        ([], [{"_id": "q3", "text": ["x"]}], ["q3\td1\t1"], r"queries\.jsonl:3: `text` must be a text, got \['x'\]"),
        ([], [{"_id": "q3", "text": "x"}], ["q3\td1\t0"], r"queries\.jsonl:3: there is no positive for 'x'"),
    ],
)
def test_bad_beir_folders(tmp_path: Path, corpus: list, queries: list, qrels: list, complaint: str) -> None:
    write(tmp_path / "corpus.jsonl", CORPUS + corpus)
    write(tmp_path / "queries.jsonl", QUERIES + queries)
    write(tmp_path / "qrels" / "train.tsv", QRELS + qrels)
    with pytest.raises(DataError, match=complaint):
        list(read_examples(tmp_path))
    skipped = Counter()
    found = list(read_examples(tmp_path, on_bad_row="skip", skipped=skipped))
    assert "second" in [example.query for example in found], "what has no fault is read"
    assert skipped.total() >= 1


def test_a_beir_folder_without_the_split_or_judgements(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", CORPUS)
    write(tmp_path / "queries.jsonl", QUERIES)
    write(tmp_path / "qrels" / "test.tsv", QRELS[:1])
    with pytest.raises(DataError, match="no judgements for the split train") as caught:
        read_examples(tmp_path)
    assert "test" in caught.value.hint
    with pytest.raises(DataError, match=r"test\.tsv has no judgement that makes an example"):
        list(read_examples(tmp_path, split="test"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "title", "x"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@examples(500)
@given(st.data())
def test_any_value_under_any_key_makes_an_example_or_a_bad_row(tmp_path_factory, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(list(ROW_LAYOUTS)), label="layout")
    row = dict(GOOD[layout])
    for key in data.draw(st.sets(st.sampled_from([*row, "id"]), min_size=1, max_size=3), label="keys"):
        row[key] = data.draw(JSON, label=key)
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", [GOOD[layout], row, GOOD[layout]])
    skipped = Counter()
    found = list(read_examples(path, layout=layout, on_bad_row="skip", skipped=skipped))
    assert len(found) + skipped.total() == 3
    assert found[0] == found[-1]
    try:
        assert list(read_examples(path, layout=layout)) == found
        assert not skipped
    except DataError as error:
        assert error.message.startswith(f"{path}:2")
        assert skipped.total() == 1


def test_the_fuzz_reaches_every_key() -> None:
    for layout in ROW_LAYOUTS.values():
        assert all(set(names) & GOOD[layout.name].keys() for names in layout.needs + layout.takes), layout.name
        assert layout.example(Row(GOOD[layout.name], "here:1"), "s").query


@examples(200)
@given(st.binary(max_size=60), st.sampled_from(["jsonl", "jsonl.gz", "csv", "tsv", "csv.xz", "json"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"bytes.{suffix}"
    start = b"query,positive\n" if suffix == "csv" else b"query\tpositive\n" if suffix == "tsv" else b""
    path.write_bytes(start + content)
    try:
        assert all(example.query.strip() for example in read_examples(path))
    except DataError as error:
        assert path.name in error.message


PEAK = (
    STATUS
    + """
import json, sys
from diffembed.data.readers import read_examples
print(json.dumps([sum(1 for _ in read_examples(sys.argv[1])), status("VmHWM")]))
"""
)


def peak_mb(path: Path) -> tuple[int, float]:
    """Examples that a process of its own reads, and its largest resident size in MB."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, check=True, text=True)
    count, peak = json.loads(done.stdout)
    return count, peak / 1e6


def growth(make, tmp_path: Path, few: int = 2_000, many: int = 200_000) -> float:
    peaks = []
    for number in (few, many):
        count, peak = peak_mb(make(tmp_path / str(number), number))
        assert count == number
        peaks.append(peak)
    return peaks[1] - peaks[0]


def many_rows(path: Path, number: int) -> Path:
    return write(path / "x.jsonl", [{"query": f"q{i}", "positive": f"{i:0170d}"} for i in range(number)])


def many_cells(path: Path, number: int) -> Path:
    return write(path / "x.csv", ["query,positive", *(f"q{i},{i:0180d}" for i in range(number))])


def many_judged(path: Path, number: int) -> Path:
    write(path / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": f"{i:0170d}"} for i in range(number)])
    write(path / "queries.jsonl", [{"_id": f"q{i}", "text": f"what is {i}?"} for i in range(number)])
    write(path / "qrels" / "train.tsv", [QRELS[0], *(f"q{i}\td{i}\t1" for i in range(number))])
    return path


def many_in_parquet(path: Path, number: int) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"query": f"q{i}", "positive": f"{i:0170d}"} for i in range(number)]
    path.mkdir()
    parquet.write_table(arrow.Table.from_pylist(rows), path / "x.parquet", row_group_size=1000)
    return path


MOST_GROWTH_MB = 40
"""Of 40 MB of rows, which as Python's objects would take more than twice that."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [many_rows, many_cells, many_judged, pytest.param(many_in_parquet, marks=pytest.mark.extra)]
)
def test_two_hundred_thousand_rows_need_no_more_memory_than_two_thousand(make, tmp_path: Path) -> None:
    assert growth(make, tmp_path) < MOST_GROWTH_MB
