import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from diffembed.data.docstrings import Passage
from diffembed.demo import MODES, SAMPLE_QUESTIONS, Demo, answers, build_demo, cache, open_demo, render, run
from diffembed.embedder import Embedder, Encoded, Report
from diffembed.errors import DataError
from tests.hashed_words import HashedWords
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


class Counting(HashedWords):
    """Tells how many words it embedded, as a model tells its tokens."""

    def embed(self, texts: list[str], role: str) -> Encoded:
        assert role == "document"
        counts = dict(texts=len(texts), truncated=0, windowed=0, windows=0, empty=0)
        report = Report(**counts, tokens=sum(len(text.split()) for text in texts), seconds=0.0)
        return Encoded(vectors=self.encode_document(texts), report=report)


@pytest.fixture
def demo() -> Demo:
    return build_demo(Counting(), PASSAGES)


def shown(demo: Demo, question: str, width: int, **options) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    render(demo.ask(question), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_all_three_searches_find_the_passage(demo: Demo) -> None:
    answer = demo.ask("how do I read a csv file", k=2)
    assert list(answer.hits) == list(MODES)
    for mode, hits in answer.hits.items():
        assert hits[0].passage.id == "csv.reader", mode
        assert [hit.rank for hit in hits] == [1, 2]
        assert hits[0].score > hits[1].score
        assert hits[0].where == "csv/reader.py:10"


def test_vectors_stay_with_their_passages_whatever_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE_TEXTS", 2)
    shares: list[float] = []
    demo = build_demo(Counting(), PASSAGES, on_progress=shares.append)
    expected = HashedWords().encode_document([f"{each.id}\n{each.text}" for each in PASSAGES])
    assert np.array_equal(demo.vectors, expected)
    assert len(shares) == 3 and shares == sorted(shares) and shares[-1] == 1
    assert demo.tokens == sum(len(f"{each.id} {each.text}".split()) for each in PASSAGES)


def test_words_that_nobody_knows_and_no_question(demo: Demo) -> None:
    answer = demo.ask("xylophone")
    assert answer.hits["lexical"] == ()
    assert [hit.passage for hit in answer.hits["fused"]] == [hit.passage for hit in answer.hits["dense"]]
    assert "nothing found" in shown(demo, "xylophone", 100)
    with pytest.raises(DataError, match="question is empty"):
        demo.ask(" \n")
    with pytest.raises(DataError, match="no passage"):
        build_demo(Counting(), [])


def test_the_instruction_reaches_the_embedder(demo: Demo) -> None:
    demo.ask("read", instruction="find the function")
    demo.ask("read")
    assert [call[2] for call in demo.embedder.calls if call[0] == "query"] == ["find the function", None]  # type: ignore[attr-defined]


def test_rows_name_everything(demo: Demo) -> None:
    rows = list(demo.ask("read a csv file", k=2).rows())
    assert [(row["mode"], row["rank"]) for row in rows] == [(mode, rank) for mode in MODES for rank in (1, 2)]
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
    assert "lexical" in heading and "fused" in heading
    columns = [heading.index(mode) for mode in MODES]
    first = lines[lines.index(heading) + 2]
    cells = [first[start:end] for start, end in zip(columns, [*columns[1:], None], strict=True)]
    assert all(cell.rstrip().endswith("ThreadPoolExecutor.submit"[-12:]) for cell in cells)
    assert "[to]" in "\n".join(lines)  # square brackets are text, not markup


def test_narrow_terminals_get_one_below_the_other(demo: Demo) -> None:
    lines = shown(demo, "read a csv file", 50).split("\n")
    assert max(map(len, lines)) <= 50
    starts = [next(i for i, line in enumerate(lines) if line.startswith(mode)) for mode in MODES]
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


@pytest.mark.usefixtures("small_library")
def test_the_second_time_nothing_is_embedded_but_a_few_probes(tmp_path: Path) -> None:
    said: list[str] = []
    first = open_demo(Counting(), model="m", cache=tmp_path, say=said.append)
    assert "embedding 5 docstrings" in said[0] and "5 passages, 115 tokens, embedded in" in said[1]
    again = Counting()
    second = open_demo(again, model="m", cache=tmp_path, say=said.append)
    assert again.calls == [("document", 3, None)]
    assert "embedded earlier" in said[2] and len(said) == 3
    assert list(second.passages) == PASSAGES
    assert np.array_equal(second.vectors, first.vectors)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    open_demo(Counting(), model="another", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("small_library")
@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "retrained", "other dims"])
def test_a_cache_that_cannot_be_believed_is_made_again(tmp_path: Path, damage: str) -> None:
    open_demo(Counting(), model="m", cache=tmp_path)
    [path] = tmp_path.iterdir()
    good = path.read_bytes()
    damaged = {"empty": b"", "cut": good[:-100], "foreign": b"\x08\0\0\0\0\0\0\0{}      "}
    path.write_bytes(damaged.get(damage, good))
    embedder = {"retrained": Counting(seed=1), "other dims": Counting(dims=32)}.get(damage, Counting())
    said: list[str] = []
    demo = open_demo(embedder, model="m", cache=tmp_path, say=said.append)
    assert "damaged or from another model" in said[0] and "\n" not in said[0]
    assert np.array_equal(demo.vectors, build_demo(embedder, PASSAGES).vectors)
    said.clear()
    open_demo(embedder, model="m", cache=tmp_path, say=said.append)
    assert len(said) == 1 and "embedded earlier" in said[0]


@pytest.mark.usefixtures("small_library")
def test_a_cache_that_cannot_be_written_is_said_and_survived(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    demo = open_demo(Counting(), model="m", cache=tmp_path / "file", say=said.append)
    assert len(demo.passages) == 5
    assert "can't keep the vectors" in said[-1]


def narrow() -> Embedder:
    """Another model than `make()`."""
    return Embedder.from_backbone(make_backbone(width=16), TOKENIZER, max_tokens=LIMIT)


@pytest.mark.usefixtures("small_library")
def test_run_answers_the_samples_or_the_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []

    def ask(question: str | None = None) -> list[str]:
        found = list(run(question, model=str(tmp_path / "model"), k=1, say=said.append))
        assert {len(answer.hits["dense"]) for answer in found} == {1}
        return [answer.question for answer in found]

    assert ask() == list(SAMPLE_QUESTIONS)
    assert "tokens/s" in said[-1]
    assert ask("write rows") == ["write rows"]
    assert "embedded earlier" in said[-1]
    assert len(list((tmp_path / "diffembed").iterdir())) == 1
    # Another model under the old name: the vectors of the first one are left alone.
    narrow().save(tmp_path / "model")
    ask("write rows")
    assert "tokens/s" in said[-1]
    assert len(list((tmp_path / "diffembed").iterdir())) == 2


def test_what_counts_in_the_digest_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    seen = [cache.model_digest(tmp_path)]
    for name in ("model.safetensors", "config.json", "sub/config.json"):
        (tmp_path / name).write_text("1")
        seen.append(cache.model_digest(tmp_path))
    (tmp_path / "model.safetensors").write_text("2")
    seen.append(cache.model_digest(tmp_path))
    assert len(set(seen)) == 5
    (tmp_path / "README.md").write_text("words")
    assert cache.model_digest(tmp_path) == seen[-1]
