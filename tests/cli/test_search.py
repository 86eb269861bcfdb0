"""`diffembed search`: what it prints, what it refuses, and how it talks with a person."""

import io
import json
import os
import pty
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffembed.cli import main
from diffembed.library.index import Index
from diffembed.library.reading.document import Document
from diffembed.library.reading.read import read_document
from diffembed.library.update import index_files
from tests.library.conftest import CHUNK, TREE, save_model, write

Shown = pytest.CaptureFixture[str]
MODES = ("dense", "lexical", "hybrid")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("searched") / "tree", TREE)


@pytest.fixture(scope="module")
def folder(tree: Path, model: Path) -> Path:
    index_files([tree], tree.with_name("index"), model=model, chunk_tokens=CHUNK)
    return tree.with_name("index")


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the index, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "index"))


def search(folder: Path, *args: str | Path) -> int:
    return main(["search", str(folder), *map(str, args)])


def refused(status: int, capsys: Shown, folder: Path, *args: str | Path) -> str:
    assert search(folder, *args) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["error", "hint"]
    return shown.err


def from_stdin(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


# What it prints


@pytest.mark.parametrize("mode", MODES)
def test_json_has_the_hits_of_the_library(folder: Path, tree: Path, capsys: Shown, mode: str) -> None:
    assert search(folder, "how to copy zebras", "--json", "--mode", mode, "-k", "4") == 0
    shown = capsys.readouterr()
    found = [json.loads(line) for line in shown.out.splitlines()]
    index = Index.open(folder)
    hits = index.search("how to copy zebras", 4, mode)  # type: ignore[arg-type]
    index.close()
    assert shown.err == ""
    assert [(row["path"], row["id"], row["start"], row["end"], row["text"]) for row in found] == [
        (hit.path, hit.id, hit.start, hit.end, hit.text) for hit in hits
    ]
    assert [row["score"] for row in found] == pytest.approx([hit.score for hit in hits], abs=1e-4)
    assert [row["rank"] for row in found] == list(range(1, len(found) + 1))
    if mode == "lexical":
        for row in found:
            path = Path(row["path"])
            assert read_document(path, path.read_bytes()).text[row["start"] : row["end"]] == row["text"]
            assert {word.lower() for word in row["words"]} <= {"how", "copies", "zebras"}


def test_a_person_reads_where_to_look_and_the_best_sentence(
    tree: Path, model: Path, tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    index_files([tree], folder, model=model)
    monkeypatch.chdir(tree)
    assert search(folder, "folders", "--mode", "lexical") == 0
    first, second = capsys.readouterr().out.splitlines()
    line = 1 + TREE["guide.md"].decode().partition("It copies")[0].count("\n")
    assert re.fullmatch(rf" 1  \d+\.\d\d  guide\.md:{line}  Guide", first)
    assert second.strip() == "It copies a folder."
    monkeypatch.chdir("/")
    assert search(folder, "boxes", "--mode", "lexical", "--where", "path=rows.jsonl", "-k", "1") == 0
    assert f"  {tree}/rows.jsonl#one  First" in capsys.readouterr().out


def test_nothing_found_is_no_failure(folder: Path, capsys: Shown) -> None:
    for more, said in [([], "nothing found\n"), (["--where", "path=nowhere"], "nothing found below nowhere\n")]:
        assert search(folder, "xylophone", "--mode", "lexical", *more) == 0
        assert capsys.readouterr() == ("", said)
        assert search(folder, "xylophone", "--mode", "lexical", "--json", *more) == 0
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", MODES)
def test_where(folder: Path, capsys: Shown, mode: str) -> None:
    for where, names in [
        ("*.md", {"guide.md"}),
        ("./tree/*.md", {"guide.md"}),
        ("deep/odd [old] name.txt", {"odd [old] name.txt"}),
    ]:
        assert search(folder, "the cat begins", "--where", f"path={where}", "--json", "--mode", mode, "-k", "999") == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {Path(row["path"]).name for row in rows} == names


def test_many_questions_from_stdin(folder: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = ["the cat", "日本語", "zebras"]
    from_stdin("\ufeffthe cat\r\n\n  \n日本語\nzebras".encode(), monkeypatch)
    assert search(folder, "-", "--json", "-k", "2", "--mode", "dense") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["query"], row["rank"]) for row in rows] == [(text, rank) for text in questions for rank in (1, 2)]
    from_stdin(b"zebras\nxylophone\n", monkeypatch)
    assert search(folder, "-", "--mode", "lexical", "-k", "1") == 0
    shown = capsys.readouterr()
    assert [line for line in shown.out.splitlines() if line.startswith("? ")] == ["? zebras", "? xylophone"]
    assert shown.err == "nothing found\n"


def test_a_text_gives_the_terminal_no_orders(tmp_path: Path, model: Path, capsys: Shown) -> None:
    text = "# A \x1b]0;owned\x07 title\n\nRed \x1b[31malert\x1b[0m comes from over here\x9b1m.\n"
    tree = write(tmp_path / "tree", {"x.md": text.encode()})
    index_files([tree], tmp_path / "index", model=model)
    assert search(tmp_path / "index", "red", "--mode", "lexical") == 0
    shown = capsys.readouterr().out
    assert "alert" in shown and "title" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.parametrize(("encoding", "is_escaped"), [("utf-8", False), ("ascii", True), ("latin-1", True)])
def test_json_is_json_in_every_encoding(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, is_escaped: bool
) -> None:
    text = "the cat says caf\u00e9 \U0001f600"
    tree = write(tmp_path / "tree", {"a.txt": text.encode()})
    index_files([tree], tmp_path / "index", model=model, chunk_tokens=CHUNK)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    assert search(tmp_path / "index", "cat", "--mode", "lexical", "--json") == 0
    printed = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert json.loads(printed)["text"] == text
    assert printed.isascii() is is_escaped


def test_names_give_the_terminal_no_orders(tmp_path: Path, model: Path, capsys: Shown) -> None:
    tree = write(
        tmp_path / "tree",
        {
            "a\x1b[2Jred.txt": b"red paint",
            "rows.jsonl": b'{"_id": "\\u001b[31mred", "title": "\\u0007red", "text": "red"}\n',
        },
    )
    index_files([tree], tmp_path / "index", model=model)
    with Index.open(tmp_path / "index") as index:
        index.add([Document(id="\x1b[1mred\nline", text="red")])
    assert search(tmp_path / "index", "red", "--mode", "lexical") == 0
    shown = capsys.readouterr().out
    assert shown.count("\\x1b[") == 3 and len(shown.splitlines()) == 6
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert search(tmp_path / "index", "red", "--mode", "lexical", "--where", "path=\x1b[1m") == 0
    assert capsys.readouterr().err == "nothing found below \\x1b[1m\n"


def test_lines_of_files_whose_text_is_their_own(
    tmp_path: Path, model: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: b"one\n\nthe needle is here\n" for name in ("A.TXT", "b.Md", "Makefile", "x.log")}
    write(tmp_path, files)
    index_files([tmp_path / name for name in files], tmp_path / "index", model=model)
    monkeypatch.chdir(tmp_path)
    assert search(tmp_path / "index", "needle", "--mode", "lexical") == 0
    places = {line.split()[2] for line in capsys.readouterr().out.splitlines()[::2]}
    assert places == {f"{name}:3" for name in files}


def test_hybrid_says_how_many_hits_it_has(folder: Path, capsys: Shown) -> None:
    for mode, k, is_said in [("hybrid", 201, True), ("hybrid", 200, False), ("dense", 201, False)]:
        assert search(folder, "cat", "-k", str(k), "--mode", mode, "--json") == 0
        assert ("hybrid has 200 hits at most" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize("num_lines", [1, 64, 130])
def test_a_file_of_questions_is_answered_as_each_by_itself(
    folder: Path, tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch, num_lines: int
) -> None:
    questions = [f"cat number {number}" for number in range(num_lines)]
    (tmp_path / "questions.txt").write_text("\n\n".join(questions) + "\n")
    args = ("-", "--json", "--mode", "lexical", "-k", "1")
    with (tmp_path / "questions.txt").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        asked: list[int] = []
        real = Index.search_many
        monkeypatch.setattr(
            Index,
            "search_many",
            lambda index, texts, *rest, **options: asked.append(len(texts)) or real(index, texts, *rest, **options),
        )
        assert search(folder, *args) == 0
    together = capsys.readouterr().out
    assert [json.loads(line)["query"] for line in together.splitlines()] == questions
    assert asked == [64] * (num_lines // 64) + [num_lines % 64] * (num_lines % 64 > 0)
    from_stdin("\n".join(questions).encode(), monkeypatch)
    assert search(folder, *args) == 0
    assert capsys.readouterr().out == together
    assert asked[-num_lines:] == [1] * num_lines


def test_a_bad_line_of_a_file(folder: Path, tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "questions.txt").write_bytes(b"zebras\ncat\n\xff\nboxes\n")
    with (tmp_path / "questions.txt").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert search(folder, "-", "--json", "--mode", "lexical", "-k", "1") == 1
    shown = capsys.readouterr()
    assert [json.loads(line)["query"] for line in shown.out.splitlines()] == ["zebras", "cat"]
    assert shown.err.startswith("error: line 3 of stdin is not UTF-8\n")


def test_arguments_of_a_terminal_that_is_not_utf8(folder: Path, tree: Path, capsys: Shown) -> None:
    """Python hands them over with a half surrogate for each byte."""
    strange = "日本語".encode().decode("ascii", "surrogateescape")
    assert search(folder, strange, "--mode", "lexical", "--json") == 0
    assert [Path(json.loads(line)["path"]).name for line in capsys.readouterr().out.splitlines()] == [
        "odd [old] name.txt"
    ]
    assert search(folder, "cat", "--instruction", strange, "--where", f"path={strange}") == 0
    assert capsys.readouterr().err == "nothing found below 日本語\n"


# Refusals


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([""], 1, "the query '' is empty"),
        ([" \t"], 1, "is empty"),
        (["\udcff"], 1, "half a surrogate pair"),
        (["cat", "--mode", "fuzzy"], 2, "'--mode'"),
        (["cat", "-k", "0"], 2, "'-k'"),
        (["cat", "-k", "ten"], 2, "'-k'"),
        (["cat", "--where", "*.md"], 2, "--where is '*.md'"),
        (["cat", "--where", "path="], 2, "--where is 'path='"),
        (["cat", "--where", "title=x"], 2, "for example --where 'path=notes/*.md'"),
        (["cat", "--where", "path=\udcff"], 2, "no Unicode"),
        (["cat", "--model", "{nowhere}"], 1, "there is no model folder"),
        (["cat", "--model", "{other}"], 1, "another model"),
        (["cat", "--instruction", "\udcff"], 2, "half a surrogate pair"),
        (["cat", "dog"], 2, "unexpected extra argument"),
    ],
)
def test_bad_input(args: list[str], status: int, message: str, folder: Path, tmp_path: Path, capsys: Shown) -> None:
    other = save_model(tmp_path / "other", max_tokens=200) if "{other}" in args else ""
    shown = refused(status, capsys, folder, *(arg.format(nowhere=tmp_path / "no", other=other) for arg in args))
    assert message in shown


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_no_index(name: str, tmp_path: Path, capsys: Shown) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    message = refused(1, capsys, tmp_path / name, "cat")
    assert "there is no index in" in message and "hint: make one: diffembed index PATH --to" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_no_query_and_no_terminal(folder: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    from_stdin(b"", monkeypatch)
    assert "there is no query" in refused(2, capsys, folder)
    monkeypatch.setattr("sys.stdin", None)
    assert "there is no query" in refused(2, capsys, folder)
    assert "stdin is closed" in refused(1, capsys, folder, "-")


def test_stdin_that_is_no_text(folder: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before the bad line was answered already."""
    from_stdin(b"zebras\n\xff\xfe\nthe cat\n", monkeypatch)
    assert search(folder, "-", "--json", "--mode", "lexical", "-k", "1") == 1
    shown = capsys.readouterr()
    assert [json.loads(line)["query"] for line in shown.out.splitlines()] == ["zebras"]
    error, hint = shown.err.splitlines()
    assert error == "error: line 2 of stdin is not UTF-8" and hint.startswith("hint: ")


def test_a_question_has_an_end(folder: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has 100,001 characters" in refused(1, capsys, folder, "a" * 100_001)
    from_stdin(b"cat\n" + b"a" * 400_001, monkeypatch)
    assert search(folder, "-", "--mode", "lexical") == 1
    assert "line 2 of stdin has over 400,000 bytes" in capsys.readouterr().err


def test_a_name_that_would_be_asked_for_on_the_network(own: Path, capsys: Shown) -> None:
    with sqlite3.connect(own / "index.sqlite") as db:
        db.execute("UPDATE settings SET value = 'somebody/model' WHERE key = 'model'")
    db.close()
    assert "neither `builtin` nor a folder" in refused(1, capsys, own, "cat")


@pytest.mark.parametrize("damage", [b"no database at all", None])
def test_a_damaged_database(own: Path, capsys: Shown, damage: bytes | None) -> None:
    path = own / "index.sqlite"
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    assert "damaged" in refused(1, capsys, own, "cat", "--mode", "lexical")


def test_a_missing_vector_file(own: Path, capsys: Shown) -> None:
    shutil.rmtree(own / "vectors")
    assert "is missing" in refused(1, capsys, own, "cat", "--mode", "dense")
    assert search(own, "cat", "--mode", "lexical") == 0
    assert "notes.txt" in capsys.readouterr().out


# In a process of its own


def alone(code: str, *args: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


MAIN = """
import json, sys
from diffembed import hardware
from diffembed.cli import main

def limit():
    assert "numpy" not in sys.modules or limit.calls, "too late for what numpy reads when it is imported"
    limit.calls += 1

limit.calls = 0
hardware.limit_blas_threads = limit
statuses = [main(["search", *args]) for args in json.loads(sys.argv[1])]
assert limit.calls
print(json.dumps([statuses, "torch" in sys.modules]))
"""


def test_closed_streams_are_no_fault_of_ours(folder: Path) -> None:
    command = [sys.executable, "-m", "diffembed", "search", str(folder), "cat", "--mode", "lexical"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = 'exec "$@" >&-'
    done = subprocess.run(["sh", "-c", script, "sh", *command], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    script = 'exec "$@" 2>&-'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command[:-1], "no-such"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""


def test_a_search_brings_no_torch(tree: Path, folder: Path, model: Path, tmp_path: Path, capsys: Shown) -> None:
    """Not where the model is gone either, and words alone are searched for."""
    gone = tmp_path / "gone"
    shutil.copytree(model, gone)
    index_files([tree], tmp_path / "index", model=gone, chunk_tokens=CHUNK)
    shutil.rmtree(gone)
    commands = [
        ["--help"],
        [tmp_path / "nowhere", "cat"],
        [tmp_path / "index", "cat", "--mode", "lexical"],
        [tmp_path / "index", "cat"],
        [folder, "cat"],
        [folder, "cat", "--mode", "fuzzy"],
        [folder, "cat", "--mode", "dense", "--instruction", "find it", "--json"],
    ]
    assert json.loads(alone(MAIN, json.dumps(commands, default=str))) == [[0, 1, 0, 1, 0, 2, 0], False]
    assert "--mode lexical" in refused(1, capsys, tmp_path / "index", "cat")


def test_a_first_search_with_the_builtin_model_brings_no_torch(tree: Path, tmp_path: Path) -> None:
    assert main(["index", str(tree / "guide.md"), str(tree / "notes.txt"), "--to", str(tmp_path / "index")]) == 0
    commands = [[str(tmp_path / "index"), "how do I feed a pet?", "-k", "1", "--json"]]
    assert json.loads(alone(MAIN, json.dumps(commands))) == [[0], False]


# With a person


class Terminal:
    """A terminal with `diffembed search` in it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "diffembed", "search", str(folder), "--mode", "lexical"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(home), "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def read_until(self, marker: str) -> str:
        shown, deadline = b"", time.monotonic() + 60
        while marker not in shown.decode(errors="replace"):
            assert time.monotonic() < deadline, shown
            if select.select([self._master], [], [], 1.0)[0]:
                shown += os.read(self._master, 4096)
        return shown.decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait(self) -> int:
        while select.select([self._master], [], [], 30.0)[0]:
            try:
                os.read(self._master, 4096)
            except OSError:  # the other end is closed
                break
        return self._process.wait(timeout=30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(folder: Path, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(folder, tmp_path / "cache")
    yield opened
    opened.close()


def test_a_conversation(terminal: Terminal, folder: Path, tmp_path: Path) -> None:
    assert " chunks; " in terminal.read_until("? ")
    terminal.type("plumber\n")
    answer = terminal.read_until("\n? ")
    assert "notes.txt:" in answer
    assert "\033[1mplumber\033[0m" in answer  # the word that is shared stands out
    terminal.type("   zebras and why\n")
    assert "paper.rst:" in terminal.read_until("\n? ")
    terminal.type("\x04")
    assert terminal.wait() == 0
    history = tmp_path / "cache" / "diffembed" / "search-history"
    assert history.read_text().split("\n")[:2] == ["plumber", "   zebras and why"]

    again = Terminal(folder, tmp_path / "cache")
    again.read_until("? ")
    again.type("\x10\x10\n")  # two questions back
    assert "notes.txt:" in again.read_until("\n? ")
    os.write(again._master, b"\xff\n")  # nor is a byte that is no text an end
    assert "no Unicode text" in again.read_until("\n? ")
    again.type("!!\n")  # a question without a word is no end
    assert "nothing found" in again.read_until("\n? ")
    again.type("\n")
    assert again.wait() == 0
    again.close()
    assert history.read_bytes().split(b"\n")[:3] == [b"plumber", b"   zebras and why", b"plumber"]
