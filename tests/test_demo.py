import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from diffembed import Embedder, Index
from diffembed.data.docstrings import Passage
from diffembed.demo import SAMPLE_QUESTIONS, WORDS, Demo, as_rows, cache, documents, lines, open_demo, render, run
from diffembed.demo.measure import Question, measure_demo, read_questions
from diffembed.errors import DataError
from tests.tiny_embedders import LIMIT, TOKENIZER, make, make_backbone

TEXTS = {
    "csv.reader": "Read rows of a csv file.",
    "csv.writer": "Write rows to a csv file.",
    "threading.Barrier.wait": "Wait for the barrier until all threads have arrived.",
    "concurrent.futures.thread.some_rather_long_module_name.ThreadPoolExecutor.submit": "Submit a call [to] a pool: "
    + "it is executed as soon as a thread of the pool has time for it. " * 5,
    "heapq.nlargest": "Find the n largest elements in a dataset.",
}
PASSAGES = [
    Passage(id=name, text=text, path=name.replace(".", "/") + ".py", line=10 + i, kind="function")
    for i, (name, text) in enumerate(TEXTS.items())
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    index = Index.create(tmp_path_factory.mktemp("demo") / "index")
    index.add(documents(PASSAGES))
    return Demo(index)


def shown(demo: Demo, question: str, width: int, **options) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    render(demo.ask(question), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_all_three_searches_find_the_passage(demo: Demo) -> None:
    answer = demo.ask("wait until all threads are there", k=2)
    assert list(answer.hits) == list(WORDS)
    for mode, hits in answer.hits.items():
        assert hits[0].id == "threading.Barrier.wait", mode
        assert hits[0].text == "Wait for the barrier until all threads have arrived."
        assert [hit.rank for hit in hits] == [1, 2]
        assert hits[0].score > hits[1].score
        assert hits[0].where == "threading/Barrier/wait.py:12"


def test_a_docstring_of_several_chunks_is_one_hit(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    index = Index.create(tmp_path / "index", model=tmp_path / "model")
    long = Passage(id="a.long", text="fox dog " * 60, path="a.py", line=1, kind="function")
    index.add(documents([long, *PASSAGES]))
    assert index.counts().chunks > 12
    for mode in WORDS:
        names = [hit.id for hit in Demo(index).search("fox dog pool file dataset barrier", 6, mode)]
        assert len(names) == len(set(names)) == 6, mode


def test_of_one_name_the_first_docstring_is_taken(tmp_path: Path) -> None:
    again = Passage(id="csv.reader", text="Another one, for another platform.", path="csv.py", line=99, kind="function")
    assert [each.id for each in documents([*PASSAGES, again])] == list(TEXTS)
    assert documents([*PASSAGES, again])[0].text == "csv.reader\nRead rows of a csv file."


@pytest.mark.slow
def test_the_library_of_this_python(tmp_path: Path, model: Path) -> None:
    demo = open_demo(model, cache=tmp_path / "cache")
    assert len(demo.names()) > 3_000
    asked = [
        each for each in read_questions() if max(map(each.answers.get, demo.names() & set(each.answers)), default=0)
    ]
    assert len(asked) >= 150
    rows, _ = measure_demo(demo, asked[::20])
    words = {row.mode: row.value for row in rows if (row.kind, row.measure) == ("words", "nDCG@10")}
    assert words["lexical"] > 0.5


def test_words_that_nobody_knows_and_no_question(demo: Demo) -> None:
    answer = demo.ask("xylophone")
    assert answer.hits["lexical"] == ()
    assert [hit.id for hit in answer.hits["hybrid"]] == [hit.id for hit in answer.hits["dense"]]
    assert "nothing found" in shown(demo, "xylophone", 100)
    with pytest.raises(DataError, match="is empty"):
        demo.ask(" \n")


def test_rows_name_everything(demo: Demo) -> None:
    rows = list(demo.ask("read a csv file", k=2).rows())
    assert [(row["mode"], row["rank"]) for row in rows] == [(mode, rank) for mode in WORDS for rank in (1, 2)]
    assert rows[0] == {
        "question": "read a csv file",
        "mode": "dense",
        "rank": 1,
        "score": rows[0]["score"],
        "id": "csv.reader",
        "path": "csv/reader.py",
        "line": 10,
        "text": "Read rows of a csv file.",
    }


@pytest.mark.parametrize("width", [80, 100, 140])
def test_side_by_side_it_fits_and_reads_as_plain_text(demo: Demo, width: int) -> None:
    lines = shown(demo, "submit a call to the pool", width).split("\n")
    assert max(map(len, lines)) <= width
    assert not any(line != line.rstrip() for line in lines)
    assert "\x1b" not in "".join(lines)
    heading = next(line for line in lines if "dense" in line)
    assert "lexical" in heading and "hybrid" in heading
    columns = [heading.index(mode) for mode in WORDS]
    first = lines[lines.index(heading) + 2]
    cells = [first[start:end] for start, end in zip(columns, [*columns[1:], None], strict=True)]
    assert all(cell.rstrip().endswith("ThreadPoolExecutor.submit"[-12:]) for cell in cells)
    assert "[to]" in "\n".join(lines)  # square brackets are text, not markup


def test_narrow_terminals_get_one_below_the_other(demo: Demo) -> None:
    lines = shown(demo, "read a csv file", 50).split("\n")
    assert max(map(len, lines)) <= 50
    starts = [next(i for i, line in enumerate(lines) if line.startswith(mode)) for mode in WORDS]
    assert starts == sorted(starts)
    assert "csv/reader.py:10" in "".join(lines[starts[0] : starts[1]])


@pytest.mark.parametrize("width", [0, 1, 5])
def test_a_terminal_is_taken_for_twenty_columns_at_least(
    demo: Demo, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    render(demo.ask("read a csv file"))
    assert capsys.readouterr().out.partition("\n\n")[2] == shown(demo, "read a csv file", 20).partition("\n\n")[2]


def test_a_terminal_gets_colours(demo: Demo) -> None:
    assert "\x1b[" in shown(demo, "read a csv file", 100, force_terminal=True)


@pytest.fixture
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "read_docstrings", lambda: PASSAGES)
    monkeypatch.setattr(cache, "library_digest", lambda: "here")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.usefixtures("small_library")
def test_the_second_time_nothing_is_embedded(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    shares: list[float] = []
    first = open_demo(model, cache=tmp_path / "cache", say=said.append, on_progress=shares.append)
    assert "embedding 5 docstrings" in said[0] and "5 docstrings" in said[1] and "tokens/s" in said[1]
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]
    monkeypatch.setattr(cache, "read_docstrings", lambda: pytest.fail("the library is read again"))
    second = open_demo(model, cache=tmp_path / "cache", say=said.append)
    assert "kept in" in said[3] and len(said) == 4
    assert second.ask("write rows").hits == first.ask("write rows").hits
    assert second.names() == set(TEXTS)
    [folder] = (tmp_path / "cache").iterdir()
    assert Index.open(folder).search("write rows", 1, "lexical")[0].id == "csv.writer"


@pytest.mark.usefixtures("small_library")
@pytest.mark.parametrize("damage", ["database", "vectors", "no vectors", "empty database", "no database"])
def test_a_damaged_index_is_made_again(tmp_path: Path, model: Path, damage: str) -> None:
    cached = tmp_path / "cache"
    before = open_demo(model, cache=cached).ask("write rows").hits
    [folder] = cached.iterdir()
    [vectors] = (folder / "vectors").iterdir()
    if damage == "database":
        (folder / "index.sqlite").write_bytes(b"no database")
    elif damage == "vectors":
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"?")
    elif damage == "empty database":
        (folder / "index.sqlite").write_bytes(b"")
    elif damage == "no database":
        (folder / "index.sqlite").unlink()
    else:
        vectors.unlink()
    said: list[str] = []
    demo = open_demo(model, cache=cached, say=said.append)
    assert "damaged" in said[0]
    assert demo.ask("write rows").hits == before


@pytest.mark.usefixtures("small_library")
@pytest.mark.parametrize("is_damaged", [False, True])
def test_one_that_was_begun_is_finished(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    cached = tmp_path / "cache"
    monkeypatch.setattr(cache, "documents", lambda passages: documents(passages[:3]))
    open_demo(model, cache=cached)
    monkeypatch.undo()
    [folder] = cached.iterdir()
    begun = folder.rename(folder.with_suffix(".partial"))
    if is_damaged:
        (begun / "index.sqlite").write_bytes(b"no database")
    monkeypatch.setattr(cache, "read_docstrings", lambda: PASSAGES)
    monkeypatch.setattr(cache, "library_digest", lambda: "here")
    demo = open_demo(model, cache=cached)
    assert demo.names() == set(TEXTS)
    assert [path.suffix for path in cached.iterdir()] == [""]


@pytest.mark.usefixtures("small_library")
def test_one_that_had_hardly_begun_is_made(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "cache"
    open_demo(model, cache=cached)
    [folder] = cached.iterdir()
    shutil.rmtree(folder)
    folder.with_suffix(".partial").mkdir()  # all that a kill may leave
    assert open_demo(model, cache=cached).names() == set(TEXTS)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    said: list[str] = []
    assert open_demo(model, say=said.append).names() == set(TEXTS)
    assert "can't keep anything (this user has no home folder)" in said[0]


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.usefixtures("small_library")
def test_a_cache_that_cannot_be_written_is_said_and_survived(tmp_path: Path, model: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    demo = open_demo(model, cache=tmp_path / "file", say=said.append)
    assert demo.names() == set(TEXTS)
    assert "can't keep anything" in said[0]


@pytest.mark.usefixtures("small_library")
def test_run_answers_the_samples_or_the_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []

    def ask(question: str | None = None) -> list[str]:
        found = list(run(question, model=str(model), k=1, say=said.append))
        assert {len(answer.hits["dense"]) for answer in found} == {1}
        return [answer.question for answer in found]

    assert ask() == list(SAMPLE_QUESTIONS)
    assert "diffembed search" in said[-1]
    assert ask("write rows") == ["write rows"]
    assert len(list((tmp_path / "diffembed").iterdir())) == 1
    # Another model under the old name: the index of the first one is left alone.
    Embedder.from_backbone(make_backbone(width=16), TOKENIZER, max_tokens=LIMIT).save(model)
    ask("write rows")
    assert len(list((tmp_path / "diffembed").iterdir())) == 2


def test_measures_are_those_of_the_rankings(demo: Demo) -> None:
    questions = [
        Question(id="a", question="read a csv file", kind="words", answers={"csv.reader": 2, "gone": 2}),
        Question(id="b", question="zebra", kind="long", answers={"heapq.nlargest": 2, "csv.writer": 1}),
        Question(id="c", question="nobody can answer", kind="long", answers={"gone": 2, "csv.writer": 1}),
    ]
    rows, gains = measure_demo(demo, questions)
    found = {(row.kind, row.mode, row.measure): row for row in rows}
    assert found["words", "lexical", "nDCG@10"].value == 1 and found["words", "lexical", "nDCG@10"].questions == 1
    # No word of the second question is in the library; all five docstrings are among the ten nearest.
    assert found["long", "lexical", "Recall@10"].value == 0 and found["long", "dense", "Recall@10"].value == 1
    both = found["all", "lexical", "nDCG@10"]
    assert both.value == 0.5 and both.low == 0 and both.high == 1 and both.questions == 2
    [gain] = [each for mode, name, each in gains if (mode, name) == ("lexical", "Recall@10")]
    assert gain.difference == 0.5 and gain.n == 2
    table = lines(rows, gains)
    assert table[0].split()[1:3] == ["dense", "nDCG@10"] and any("50.0 (0.0-100.0)" in line for line in table)
    assert {row["measure"] for row in as_rows(rows, gains)} == {"nDCG@10", "Recall@10"}
