"""`diffembed embed`: what it reads, refuses, prints and writes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffembed.backbone import Backbone, BackboneConfig
from diffembed.backbone.checkpoint import save_backbone
from diffembed.cli import main
from diffembed.cli.embed import _read_texts
from diffembed.embedder import Embedder
from diffembed.text.tokenizer import Tokenizer


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["embed", *args])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["error", "hint"]
    return status, shown.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no text"),
        (["a", "--input", "-"], "not from both"),
        (["a", "--out", "x.json"], "must name a .npy file, got 'x.json'"),
        (["a", "--out", ""], "must name a .npy file"),
        (["a", "--out", ".npy"], "for example --out vectors.npy"),
        (["--input", ""], "no file can be named ''"),
        (["--input", "a\0b"], "no file can be named"),
        (["a", "--model", ""], "no model can be named ''"),
        (["a", "--role", "query", "--instruction", "\udc80"], "the instruction holds half a surrogate pair"),
        (["a", "--instruction", "Find it"], "belongs to queries"),
    ],
)
def test_misuse(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = refused(args, capsys)
    assert status == 2
    assert message in shown


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"good\nb\xffd\n", "bad byte at offset 6"), (b"", "is empty")],
)
def test_a_bad_input_file(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    status, shown = refused(["--input", str(path)], capsys)
    assert status == 1
    assert message in shown


def test_closed_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", None)
    status, shown = refused(["--input", "-"], capsys)
    assert status == 1
    assert "stdin is closed" in shown


def test_out_in_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = refused(["a", "--out", str(tmp_path / "no" / "x.npy")], capsys)
    assert status == 1
    assert "there is no folder" in shown


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\ufeffa\n", ["a"]),
        ("a\n\nb\n", ["a", "", "b"]),  # line i is row i
        ("\n", [""]),
        ("a\u2028b\x0bc\n", ["a\u2028b\x0bc"]),  # only a newline ends a line
    ],
)
def test_one_text_a_line(content: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(content.encode())
    assert _read_texts([], str(path)) == texts
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert _read_texts([], "-") == texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random model of 64 positions: weights and tokenizer, nothing else."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(["the cat sat on the mat", "naïve 日本語 🙂"] * 10, 300)
    shape: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_width": 8, "mlp_width": 48}
    backbone = Backbone(BackboneConfig(vocab_size=tokenizer.vocab_size, width=32, max_positions=64, **shape))
    backbone.init_weights(torch.Generator().manual_seed(0))
    save_backbone(backbone, folder)
    tokenizer.save(folder)
    return str(folder)


TEXTS = ["the cat", "naïve 日本語 🙂", "the mat " * 100]


def test_json_has_each_text_with_its_vector(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    assert main(["embed", "--model", model, "--input", str(path), "--json"]) == 0
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    expected = Embedder.load(model).encode_document(TEXTS)
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-5)
    (talk,) = shown.err.splitlines()
    assert talk.startswith("3 texts, ") and " 0 truncated" in talk


def test_out_holds_the_vectors_and_nothing_else_is_left(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.npy"
    out.write_text("an older file")
    args = ["embed", "--model", model, "--role", "query", "--dims", "16", "--out", str(out), *TEXTS]
    assert main(args) == 0
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    expected = Embedder.load(model).encode_query(TEXTS, dims=16)
    np.testing.assert_allclose(np.load(out), expected, atol=1e-5)


def test_a_person_sees_a_line_for_each_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--model", model, *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [text[:7] in line for text, line in zip(TEXTS, lines, strict=True)] == [True] * 3
    assert all("32 dims" in line for line in lines)


def test_cut_texts_are_said_once_and_without_a_python_warning(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--model", model, "--overflow", "truncate", *TEXTS]) == 0  # a warning would be an error here
    (talk,) = capsys.readouterr().err.splitlines()
    assert ", 1 truncated to 64 tokens, " in talk


def test_arguments_that_python_could_not_decode(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What UTF-8 arguments look like where the locale is C."""
    escaped = "naïve 日本語".encode().decode("ascii", errors="surrogateescape")
    assert main(["embed", "--model", model, "--json", escaped]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "naïve 日本語"
    status, shown = refused(["--model", model, "good", "\udcff"], capsys)
    assert status == 1
    assert "text 1 holds half a surrogate pair" in shown


def test_a_refused_text_leaves_nothing(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--model", model, "--overflow", "error", "--out", str(tmp_path / "x.npy"), *TEXTS]
    status, shown = refused(args, capsys)
    assert status == 1
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nowhere", "./nowhere"])
def test_a_model_that_is_not_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = refused(["--model", name, "a"], capsys)
    assert status in (1, 2)
    assert "nowhere" in shown
