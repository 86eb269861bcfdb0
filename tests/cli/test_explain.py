"""`diffembed explain`: what it prints, on a terminal and elsewhere, and what it refuses."""

import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from diffembed import Embedder
from diffembed.cli import main
from diffembed.cli.explain import _levels
from diffembed.embedder import TokenShare
from tests.tiny_embedders import LONG, SENTENCE, make

Shown = pytest.CaptureFixture[str]
ESCAPE = re.compile(r"\x1b\[([\d;]*)m")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make().save(folder)
    return str(folder)


def explain(model: str, *args: str) -> int:
    return main(["explain", "--model", model, *args])


def from_stdin(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rich takes for a terminal with colours."""
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


# What it prints


@pytest.mark.parametrize("options", [{}, {"centred": True}, {"instruction": "find the dog"}])
def test_json_is_what_the_library_gives(model: str, capsys: Shown, options: dict) -> None:
    args = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    assert explain(model, "a fox", LONG + "\n日本語", "--json", *args) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    [line] = shown.out.splitlines()
    found, wanted = json.loads(line), asdict(Embedder.load(model).explain("a fox", LONG + "\n日本語", **options))
    assert list(found) == ["score", "query", "document"]
    assert found["score"] == pytest.approx(wanted["score"], abs=1e-5)
    for side in ("query", "document"):
        for ours, theirs in zip(found[side], wanted[side], strict=True):
            assert ours == {**theirs, "share": pytest.approx(theirs["share"], abs=1e-5)}


@pytest.mark.parametrize("way", ["stdin", "file"])
def test_the_document_from_elsewhere(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown, way: str
) -> None:
    data = "\ufeffthe lazy dog\r\n日本語\n".encode()
    from_stdin(data, monkeypatch)
    (tmp_path / "x.txt").write_bytes(data)
    assert explain(model, "a fox", *{"stdin": ["-"], "file": ["--file", str(tmp_path / "x.txt")]}[way], "--json") == 0
    assert explain(model, "a fox", "the lazy dog\n日本語\n", "--json") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_the_tables_add_up(model: str, capsys: Shown) -> None:
    assert explain(model, "a lazy fox", SENTENCE, "--top", "3") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    head, query, document = shown.split("\n\n")  # the text itself would say nothing without its emphasis
    score = float(head.removeprefix("score "))
    assert re.findall(r"word of the \w+", shown) == ["word of the query", "word of the document"]
    for table in (query, document):
        values = [float(row.split()[0]) for row in table.splitlines()[1:]]
        assert sum(values) == pytest.approx(score, abs=1e-3)
        assert values[:3] == sorted(values[:3], reverse=True)
        assert len(values) == 4 and re.search(r"\(\d+ more\)$", table.strip())


def test_a_terminal_shows_the_text_with_its_strongest_tokens(model: str, terminal: None, capsys: Shown) -> None:
    assert explain(model, "a fox", SENTENCE + "\n\n" + SENTENCE) == 0
    shown = capsys.readouterr().out
    assert "33" in ESCAPE.findall(shown) and "1;7;33" in ESCAPE.findall(shown)
    text, _ = ESCAPE.sub("", shown).split("\nscore ")
    assert text.split() == (SENTENCE + " " + SENTENCE).split()


def test_no_color(model: str, terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: Shown) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert explain(model, "a fox", SENTENCE) == 0
    codes = {code for each in ESCAPE.findall(capsys.readouterr().out) for code in each.split(";")}
    assert codes <= {"0", "1", "7", ""} and "7" in codes


def test_texts_give_the_terminal_no_orders(model: str, terminal: None, capsys: Shown) -> None:
    text = "red \x1b]0;owned\x07 \x1b[31malert [bold]:smile:\x9b1m\r\nover\u202e \u2028here\tand \x1b[2J"
    assert explain(model, f"a {text}", text) == 0
    ours = {f"\x1b[{code}m" for code in ("0", "33", "1;33", "1;7;33")}
    shown = ESCAPE.sub(lambda found: "" if found[0] in ours else found[0], capsys.readouterr().out)
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert "alert [bold]:smile:" in shown  # and rich's marks are none here


@pytest.mark.parametrize("document", ["", " ", "\n"])
def test_documents_without_a_word(model: str, terminal: None, capsys: Shown, document: str) -> None:
    assert explain(model, "", document) == 0
    shown = capsys.readouterr().out
    assert "(end of text)" in shown


def test_a_character_has_the_level_of_its_strongest_token() -> None:
    def levels(text: str, *tokens: tuple[int, int, float]) -> list[int]:
        return _levels(text, [TokenShare(text[a:b], a, b, share, special=a == b) for a, b, share in tokens])

    # Halfway from the mean, 2, to the largest share, and all of the way; what the model added doesn't matter.
    assert levels("abcde", (0, 1, 0), (1, 2, 1), (2, 3, 2), (3, 4, 3), (4, 5, 4), (5, 5, 99)) == [0, 0, 0, 1, 3]
    assert levels("ab", (0, 1, 4), (0, 1, -4), (1, 2, 0)) == [3, 0]
    assert levels("a bc", (0, 1, 0), (1, 3, 1), (2, 4, 0.8)) == [0, 0, 3, 1]
    assert levels("ab", (0, 1, 0.5), (1, 2, 0.5)) == [0, 0]


# What it refuses


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["a"], 2, "no document"),
        (["a", "b", "--file", "x.txt"], 2, "not both"),
        (["a", "b", "--top", "0"], 2, "top"),
        (["a", "--file", "nowhere.txt"], 1, "there is no file nowhere.txt"),
        (["a", "--file", "x\0y"], 2, "null byte"),
        (["a", "--file", "."], 1, "cannot read ."),
        (["a", "--file", "rows.jsonl"], 2, "each row of rows.jsonl is a document"),
        (["\udcff", "b"], 1, "half a surrogate pair"),
    ],
)
def test_misuse(model: str, capsys: Shown, args: list[str], status: int, message: str) -> None:
    assert explain(model, *args) == status
    shown = capsys.readouterr()
    assert shown.out == "" and message in shown.err
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["error", "hint"]


def test_documents_that_are_no_text(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown) -> None:
    (tmp_path / "x.txt").write_bytes(b"b\xffd")
    assert explain(model, "a", "--file", str(tmp_path / "x.txt")) == 1
    assert "not UTF-8 text (bad byte at offset 1)" in capsys.readouterr().err
    from_stdin(b"b\xffd", monkeypatch)
    assert explain(model, "a", "-") == 1
    assert "cannot read stdin: not UTF-8" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)
    assert explain(model, "a", "-") == 1
    assert "stdin is closed" in capsys.readouterr().err
