"""`diffembed embed`: texts to vectors."""

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffembed.cli.frame import as_utf8, print_json, talk
from diffembed.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy import ndarray

SHOWN_VALUES = 4
SHOWN_CHARACTERS = 40


def command(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts to embed.")] = None,
    source: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="Read one text a line from FILE; - is stdin.")
    ] = None,
    role: Annotated[
        Literal["query", "document"], typer.Option(help="What the texts are: questions, or what is searched.")
    ] = "document",
    model: Annotated[str, typer.Option(metavar="M", help="`builtin`, a model folder or a hub id.")] = "builtin",
    instruction: Annotated[
        str | None, typer.Option(metavar="S", help="What the query asks for, in place of the model's own instruction.")
    ] = None,
    dims: Annotated[int | None, typer.Option(metavar="N", help="Keep the first N dimensions.")] = None,
    overflow: Annotated[
        Literal["window", "truncate", "error"], typer.Option(help="What to do with a text over the model's limit.")
    ] = "window",
    out: Annotated[Path | None, typer.Option(metavar="X.npy", help="Write the vectors as a float32 array.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a text: text and vector.")] = False,
) -> None:
    """Turn texts into vectors."""
    rows = _read_texts([as_utf8(text) for text in texts or []], source)
    if out is not None and out.suffix != ".npy":
        raise ConfigError(f"--out must name a .npy file, got {str(out)!r}", hint="for example --out vectors.npy")
    if out is not None and not out.parent.is_dir():
        raise DataError(f"there is no folder {out.parent} for --out", hint="make it first")
    if instruction is not None and role != "query":
        raise ConfigError("--instruction belongs to queries, and the role is document", hint="add --role query")
    if instruction is not None:
        instruction = as_utf8(instruction)

    from diffembed import hardware
    from diffembed.embedder import Embedder

    hardware.limit_threads()
    embedder = Embedder.load(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that texts were cut is said below
        encoded = embedder.embed(rows, role=role, instruction=instruction, dims=dims, overflow=overflow)
    if out is not None:
        _write_array(out, encoded.vectors)
    if as_json:
        for text, vector in zip(rows, encoded.vectors, strict=True):
            print_json({"text": text, "vector": [float(value) for value in vector]})
    elif out is None:
        _print_table(rows, encoded.vectors)
    report = encoded.report
    cut = f" to {embedder.max_tokens} tokens" if report.truncated else ""
    talk(
        f"{report.texts} texts, {report.tokens} tokens, {report.truncated} truncated{cut}, {report.windows} windows, "
        f"{report.seconds:.2f} s"
    )


def _read_texts(texts: list[str], source: str | None) -> list[str]:
    if texts and source is not None:
        raise ConfigError("texts come from the command line or from --input, not from both", hint="leave one out")
    if source is None:
        if not texts:
            raise ConfigError("there is no text to embed", hint="name texts, or --input FILE (- reads stdin)")
        return texts
    if source == "-" and sys.stdin is None:
        raise DataError("stdin is closed", hint="pipe the texts in, or name a file")
    if not source or "\0" in source:
        raise ConfigError(f"no file can be named {source!r}", hint="check the path")
    name = "stdin" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}", hint="check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: bad byte at offset {error.start}",
            hint="convert it, for example with iconv -t UTF-8",
        ) from None
    if lines[-1] == "":  # what follows the last newline is no text; an empty line between others is one
        lines.pop()
    if not lines:
        raise DataError(f"{name} is empty", hint="put one text on a line")
    return [line.removesuffix("\r") for line in lines]


def _write_array(path: Path, vectors: "ndarray") -> None:
    import numpy as np

    from diffembed.files import replacing

    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}", hint="choose another --out") from None


def _print_table(texts: list[str], vectors: "Iterable[ndarray]") -> None:
    for text, vector in zip(texts, vectors, strict=True):
        shown = " ".join(text.split())
        if len(shown) > SHOWN_CHARACTERS:
            shown = shown[: SHOWN_CHARACTERS - 1] + "…"
        values = " ".join(f"{value:+.4f}" for value in vector[:SHOWN_VALUES])
        print(f"{shown:<{SHOWN_CHARACTERS}}  {len(vector)} dims  {values} …")
