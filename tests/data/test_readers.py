"""Training data in each published layout, and in the places and pieces that it is kept in."""

import csv
import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data.examples import Example
from diffembed.data.pairs import read_pairs
from diffembed.data.readers import describe_data, e5, read_examples
from diffembed.data.readers.read import LAYOUTS
from diffembed.errors import ConfigError, DataError, MissingExtraError
from diffembed.evaluation.tasks import read_task

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROW = {"query": "why?", "positive": "because"}


def write(path: Path, rows: Iterable[dict | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with OPENERS.get(path.suffix, open)(path, "wt", encoding="utf-8") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return path


def shown(example: Example) -> dict:
    """What an example says, as the page writes it."""
    default = {field.name: field.default for field in fields(Example)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(example).items()
        if value != default[name]
    }


def page_cases() -> list[tuple[str, dict[str, str], dict]]:
    """Of the page's layouts: name, files, and the first example."""
    cases, files = [], {}
    for section in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name = re.match(r"`([\w-]+)`", section)
        for kind, path, text in re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            if path:
                files[path] = text
            elif name and kind == "json":
                cases.append((name[1], files, json.loads(text)))
                files = {}
    return cases


CASES = page_cases()


@pytest.mark.parametrize(("layout", "files", "wanted"), CASES, ids=[f"{case[0]} {list(case[1])[0]}" for case in CASES])
def test_the_page_tells_the_truth(tmp_path: Path, layout: str, files: dict[str, str], wanted: dict) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    named = layout if layout in ("e5", "sentences") else None
    first = next(read_examples(tmp_path, layout=named))
    assert shown(first) == {**wanted, "source": wanted["source"].replace("FOLDER", tmp_path.name)}
    if set(files) & {"my.jsonl", "allnli.jsonl", "wiki.txt"}:
        assert len(list(read_examples(tmp_path, layout=named))) == 2


def test_the_page_names_every_layout() -> None:
    assert set(re.findall(r"`([\w-]+)`", " ".join(re.findall("^### .*", PAGE.read_text(), re.MULTILINE)))) >= {*LAYOUTS}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@st.composite
def any_example(draw: st.DrawFn) -> Example:
    positives = draw(st.lists(TEXT, min_size=1, max_size=3))
    negatives = draw(st.lists(TEXT.filter(lambda text: text not in positives), max_size=3))
    size = 1 + len(negatives)
    number = st.floats(allow_nan=False, allow_infinity=False)
    return Example(
        query=draw(TEXT),
        positives=tuple(positives),
        negatives=tuple(negatives),
        source=draw(TEXT),
        kind=draw(TEXT),
        instruction=draw(st.none() | st.just("") | TEXT),
        topic=draw(st.none() | TEXT),
        scores=draw(st.none() | st.lists(number, min_size=size, max_size=size).map(tuple)),
        chunks=draw(st.none() | st.just((positives[0], "more"))),
    )


@given(st.lists(any_example(), min_size=1, max_size=4), st.sampled_from(["", ".gz", ".xz"]))
def test_what_is_written_as_rows_is_read_as_it_was(tmp_path_factory, examples: list[Example], packed: str) -> None:
    path = tmp_path_factory.mktemp("rows") / f"x.jsonl{packed}"
    assert list(read_examples(write(path, [asdict(example) for example in examples]))) == examples


@given(st.lists(st.tuples(TEXT, TEXT, TEXT | st.just("")), min_size=1, max_size=4))
def test_what_the_csv_module_writes_is_read(tmp_path_factory, rows: list[tuple[str, str, str]]) -> None:
    path = tmp_path_factory.mktemp("table") / "x.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question", "answer", "negative"), *rows])
    try:
        found = [(each.query, each.positives, each.negatives) for each in read_examples(path)]
    except DataError as error:
        assert "is a positive too" in error.message
        assert any(answer == negative for _, answer, negative in rows)
    else:
        # The csv module's reader takes any end of line inside a cell as it stands, and so do we.
        assert found == [(query, (answer,), (negative,) if negative else ()) for query, answer, negative in rows]


def test_own_folders_give_what_they_always_gave(tmp_path: Path) -> None:
    sentences = " ".join(f"Sentence number {word} says something about the old river and its boats." for word in "abcd")
    write(tmp_path / "wiki" / "docs.jsonl.xz", [{"title": "Boats", "text": sentences}, {"title": "", "text": "Short."}])
    write(tmp_path / "qa" / "pairs.jsonl.gz", [{"q": "why?", "p": "because", "kind": "asked"}])
    problems = [{"concept": "Ohm", "problem": f"P{i}", "solution": f"S{i}", "check_ok": i != 1} for i in range(3)]
    write(tmp_path / "maths" / "problems.jsonl", problems)
    write(tmp_path / "maths" / "definitions.jsonl", [{"concept": "Ohm", "definition": "U = R I"}])
    found = list(read_examples(tmp_path))
    assert found == [pair.example() for pair in read_pairs(tmp_path)]
    assert {example.source for example in found} == {"wiki", "qa", "maths"}
    assert [each.positives for each in found if each.source == "qa"] == [("because",)]


E5_ROW = {"query": "q", "positive": "p", "negative": "n"}


def test_e5_is_cut_at_the_papers_number_and_its_two_instructions_take_turns(tmp_path: Path) -> None:
    for name in e5.E5_INSTRUCTIONS:
        write(tmp_path / f"{name}.jsonl", [E5_ROW] * 3)
    write(tmp_path / "quora_duplicates.jsonl", ({**E5_ROW, "query": str(i)} for i in range(e5.E5_ROWS + 5)))
    write(tmp_path / "dureader.jsonl", [E5_ROW])
    found = list(read_examples(tmp_path))  # known by its files
    assert list(dict.fromkeys(each.source for each in found)) == list(e5.E5_INSTRUCTIONS)
    quora = [each for each in found if each.source == "quora_duplicates"]
    assert [each.query for each in quora] == [str(i) for i in range(8000)]
    assert len({each.instruction for each in quora[::2]}) == len({each.instruction for each in quora[1::2]}) == 1
    assert quora[0].instruction != quora[1].instruction
    assert all(each.instruction and each.positives == ("p",) for each in found)
    whole = list(read_examples(tmp_path, layout="e5-all"))
    assert len(whole) == len(found) + 5 + 1
    assert {each.source for each in whole} - {each.source for each in found} == {"dureader"}
    assert "dureader.jsonl" not in describe_data(tmp_path)


def test_a_few_files_with_names_of_e5_are_not_e5(tmp_path: Path) -> None:
    write(tmp_path / "nq.jsonl", [E5_ROW])
    assert [each.instruction for each in read_examples(tmp_path)] == [None]
    assert [each.instruction for each in read_examples(tmp_path, layout="e5")] == list(e5.E5_INSTRUCTIONS["nq"])


def test_instruction_negatives_come_first_and_are_three_at_most(tmp_path: Path) -> None:
    def passages(*texts: str) -> list[dict]:
        return [{"docid": text, "title": "", "text": text} for text in texts]

    row = {
        "query": "q",
        "positive_passages": passages("p1", "p2"),
        "new_negatives": passages("i1", "i2", "i3", "i4"),
        "negative_passages": passages(*"abcdefghijklmnop"),
        "has_instruction": True,
    }
    (found,) = read_examples(write(tmp_path / "x.jsonl", [row]))
    assert found.positives == ("p1",)
    assert found.negatives == ("i1", "i2", "i3", *"abcdefghijklmnop")
    row["negative_passages"] = passages("p2")
    with pytest.raises(DataError, match=r"x\.jsonl:1: the negative 'p2' is a positive too"):
        list(read_examples(write(tmp_path / "x.jsonl", [row])))
    del row["new_negatives"], row["has_instruction"]
    row["negative_passages"] = []
    (found,) = read_examples(write(tmp_path / "x.jsonl", [row]))
    assert (found.positives, found.instruction) == (("p1", "p2"), None), "Tevatron's: any positive may be drawn"


@st.composite
def beir_task(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, str], dict[tuple[str, str], int]]:
    documents = {f"d{i}": f"text {i}" for i in range(draw(st.integers(1, 6)))}
    queries = {f"q{i}": f"query {i}" for i in range(draw(st.integers(1, 4)))}
    pairs = st.tuples(st.sampled_from(list(queries)), st.sampled_from(list(documents)))
    return documents, queries, draw(st.dictionaries(pairs, st.integers(-1, 2), min_size=1))


@given(beir_task(), st.sampled_from(["", ".gz"]))
def test_a_beir_folder_gives_what_the_evaluation_reads_of_it(tmp_path_factory, task, packed: str) -> None:
    folder = tmp_path_factory.mktemp("beir")
    documents, queries, qrels = task
    write(folder / f"corpus.jsonl{packed}", [{"_id": i, "title": "T", "text": text} for i, text in documents.items()])
    write(folder / f"queries.jsonl{packed}", [{"_id": i, "text": text} for i, text in queries.items()])
    lines = [f"{query}\t{document}\t{score}" for (query, document), score in qrels.items()]
    write(folder / "qrels" / "dev.tsv", ["query-id\tcorpus-id\tscore", *lines])
    read = read_task(folder, split="dev")
    text_of = dict(zip(read.document_ids, read.documents, strict=True))
    wanted = {
        query: tuple(
            {text_of[each] for each, score in read.qrels[name].items() if (score > 0) is positive}
            for positive in (True, False)
        )
        for name, query in zip(read.query_ids, read.queries, strict=True)
    }
    complete = {query: sides for query, sides in wanted.items() if sides[0]}
    if len(complete) < len(wanted) or not complete:
        with pytest.raises(DataError, match=r"queries\.jsonl.*there is no positive for 'query"):
            list(read_examples(folder, split="dev"))
    if complete:
        found = list(read_examples(folder, split="dev", on_bad_row="skip"))
        assert {each.query: (set(each.positives), set(each.negatives)) for each in found} == complete
        assert [each.query for each in found] == [query for query in read.queries if query in complete]
        assert {each.source for each in found} == {folder.name}


def test_files_of_a_folder_are_sources_and_those_of_splits_are_one(tmp_path: Path) -> None:
    for name in (
        "nq.jsonl",
        "web/fever-00000-of-00002.jsonl.gz",
        "web/fever-00001-of-00002.jsonl.gz",
        ".hidden/x.jsonl",
    ):
        write(tmp_path / "plain" / name, [ROW])
    write(tmp_path / "plain" / "notes.txt", ["no data"])
    (tmp_path / "plain" / "dataset_infos.json").write_text("{}")
    assert sorted(each.source for each in read_examples(tmp_path / "plain")) == ["nq", "web/fever", "web/fever"]
    for name in (
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
        "data/test-00000-of-00001.jsonl",
    ):
        write(tmp_path / "split" / name, [{**ROW, "query": name[5:10]}])
    assert [(each.source, each.query) for each in read_examples(tmp_path / "split")] == [("split", "train")] * 2
    assert [each.query for each in read_examples(tmp_path / "split", split="test")] == ["test-"]
    with pytest.raises(DataError, match="no split dev") as caught:
        read_examples(tmp_path / "split", split="dev")
    assert "test, train" in caught.value.hint
    (named,) = read_examples(tmp_path / "split" / "data" / "test-00000-of-00001.jsonl")
    assert named.source == "data"


def test_files_of_one_folder_may_be_of_several_layouts(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [ROW])
    write(tmp_path / "b.jsonl", [{"query": "q", "pos": ["p"], "neg": []}])
    assert [(each.source, each.query) for each in read_examples(tmp_path)] == [("a", "why?"), ("b", "q")]


def test_one_bad_row_does_not_hide_the_layout(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"query": "no positive"}, ROW])
    with pytest.raises(DataError, match=r"x\.jsonl:1: there is no positive for 'no positive'"):
        list(read_examples(path))


def test_every_file_that_is_read_is_described(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "d" / "a.jsonl", [ROW]),
        write(tmp_path / "d" / "sub" / "b.csv", ["anchor,positive", "a,b"]),
    )
    wanted = {
        path.relative_to(tmp_path / "d").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (first, second)
    }
    assert describe_data(tmp_path / "d") == wanted
    assert describe_data(str(first)) == {"a.jsonl": wanted["a.jsonl"]}


@pytest.mark.parametrize(
    ("changed", "complaint", "hint"),
    [
        ({"layout": "beirr"}, "no layout 'beirr'", "beir"),
        ({"layout": "zzz"}, "no layout 'zzz'", "flagembedding"),
        ({"on_bad_row": "ignore"}, "got 'ignore'", "error"),
        ({"data": 3}, "got int", "COMMIT"),
        ({"data": ""}, "an empty name", "COMMIT"),
    ],
)
def test_arguments_are_checked_at_once(tmp_path: Path, changed: dict, complaint: str, hint: str) -> None:
    path = write(tmp_path / "x.jsonl", [ROW])
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_examples(**{"data": path, **changed})
    assert hint in caught.value.hint


@pytest.mark.parametrize("named", ["no/such/file.jsonl", "nothing.jsonl", "x" * 5000, "null\0byte"])
def test_data_that_is_not_there(named: str) -> None:
    with pytest.raises(DataError, match="no file and no folder|cannot read"):
        read_examples(named)


@pytest.mark.parametrize("named", ["nobody/nothing", "nobody/nothing@main", f"nobody/nothing@{COMMIT[:12]}"])
def test_a_data_set_of_the_hub_needs_its_commit(named: str) -> None:
    with pytest.raises(DataError, match="lacks its commit") as caught:
        read_examples(named)
    assert "nobody/nothing@COMMIT" in caught.value.hint


@pytest.mark.extra
def test_a_data_set_of_the_hub_is_read_from_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, and a cache as it leaves it behind."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write(tmp_path / "datasets--owner--name" / "snapshots" / COMMIT / "data" / "train-00000-of-00001.jsonl", [ROW])
    (found,) = read_examples(f"owner/name@{COMMIT}")
    assert (found.source, found.query) == ("name", "why?")
    described = describe_data(f"owner/name@{COMMIT}")
    assert described["hub"] == f"owner/name@{COMMIT}"
    assert list(described) == ["hub", "data/train-00000-of-00001.jsonl"]
    with pytest.raises(DataError, match="the hub did not give owner/other@"):
        read_examples(f"owner/other@{COMMIT}")


@pytest.mark.extra
@pytest.mark.parametrize("compression", ["NONE", "SNAPPY"])
def test_parquet_is_read_like_rows(tmp_path: Path, compression: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"anchor": f"q{i}", "positive": f"p{i}", "negative_1": "n" if i % 2 else None} for i in range(700)]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path, compression=compression, row_group_size=300)
    as_lines = write(tmp_path / "lines" / "train.jsonl", rows)
    found = list(read_examples(path))
    assert [shown(each) for each in found] == [{**shown(each), "source": "data"} for each in read_examples(as_lines)]
    nested = [{"query": "q", "positive_passages": [{"docid": "1", "title": "T", "text": "t"}], "negative_passages": []}]
    parquet.write_table(arrow.Table.from_pylist(nested), path)
    assert [each.positives for each in read_examples(path)] == [("T t",)]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="is damaged after row 0"):
        list(read_examples(path))
    parquet.write_table(arrow.Table.from_pylist([*rows, {"anchor": "q", "positive": 3 * " "}]), path)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet:701: `positive` has a blank text"):
        list(read_examples(path))


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match="needs pyarrow") as caught:
        read_examples(tmp_path)
    assert "diffembed[parquet]" in caught.value.hint
