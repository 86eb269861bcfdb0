"""`diffembed explain`: a score as a sum over the words of both texts."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffembed.cli.frame import as_utf8, one_line
from diffembed.errors import ConfigError, DataError

if TYPE_CHECKING:
    from diffembed.embedder import TokenShare

STYLES = ("", "yellow", "bold yellow", "bold reverse yellow")
"""Of tokens, by how far their share lies from the text's mean towards its largest: from two fifths of the way on, from
three, from four. Where there are no colours the last two are left."""
SHOWN_CHARACTERS = 40


def command(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="In plain words.")],
    document: Annotated[
        str | None, typer.Argument(metavar="DOCUMENT", help="The text that it is compared with; - reads stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Take the document from a file that `index` reads.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="M", help="`builtin`, a model folder or a hub id.")] = "builtin",
    instruction: Annotated[
        str | None, typer.Option(metavar="S", help="What the query asks for, in place of the model's own instruction.")
    ] = None,
    centred: Annotated[
        bool, typer.Option("--centred", help="Subtract the mean share: what is above and below it adds up to 0.")
    ] = False,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Words of each table.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object: score, and the tokens of both.")] = False,
) -> None:
    """Split a score over the words of a query and a document.

    A share is what is carried at a word's place, and not what the word caused: the model reads each word together with
    those around it. The shares of each text add up to the score.
    """
    query = as_utf8(query)
    text = _read_document(document, file)
    if instruction is not None:
        instruction = as_utf8(instruction)

    from diffembed import hardware
    from diffembed.embedder import Embedder

    hardware.limit_threads()
    explanation = Embedder.load(model).explain(query, text, instruction=instruction, centred=centred)
    if as_json:
        print(json.dumps(asdict(explanation), ensure_ascii=False))
        return
    _show_text(text, explanation.document)
    print(f"score {explanation.score:.4f}" + ("; shares are centred" if centred else ""))
    for name, side, tokens in (("query", query, explanation.query), ("document", text, explanation.document)):
        print()
        _print_words(name, side, tokens, top)


def _read_document(document: str | None, file: Path | None) -> str:
    if document is not None and file is not None:
        raise ConfigError("the document comes from the command line or from --file, not both", hint="leave one out")
    if file is not None:
        return _read_file(file)
    if document is None:
        raise ConfigError("there is no document", hint="name its text, - for stdin, or --file PATH")
    return as_utf8(document) if document != "-" else _read_stdin()


def _read_stdin() -> str:
    from diffembed.library.reading import plain
    from diffembed.library.reading.document import Unreadable

    if sys.stdin is None:
        raise DataError("stdin is closed", hint="pipe the document in, or name a file")
    try:
        return plain.decode(sys.stdin.buffer.read())
    except Unreadable as error:
        raise DataError(f"cannot read stdin: {error.reason}", hint="pipe UTF-8 text in") from None


def _read_file(path: Path) -> str:
    from diffembed.library.reading import read
    from diffembed.library.reading.document import Unreadable

    if read.is_rows(path):
        raise ConfigError(f"each row of {path} is a document", hint="pass the text of one of them")
    if not path.exists():
        raise DataError(f"there is no file {path}", hint="check the path")
    try:
        return read.read_document(path, read.read_bytes(path)).text
    except Unreadable as error:
        raise DataError(f"cannot read {path}: {error.reason}", hint=error.hint) from None


def _show_text(text: str, tokens: "Sequence[TokenShare]") -> None:
    """Print the document with its strongest tokens emphasised, where that can be seen: on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        return
    levels = _levels(text, tokens)
    start = 0
    for line in text.split("\n"):
        shown = Text()
        for level, run in groupby(range(start, start + len(line)), levels.__getitem__):
            characters = (text[position] for position in run)
            # Nothing in a text may give the terminal orders.
            shown.append("".join(c if c.isprintable() else " " for c in characters), style=STYLES[level])
        console.print(shown)
        start += len(line) + 1
    console.print()


def _levels(text: str, tokens: "Sequence[TokenShare]") -> list[int]:
    """For each character the place in STYLES of the strongest token that covers it."""
    levels = [0] * len(text)
    own = [token for token in tokens if not token.special]
    mean = sum(token.share for token in own) / max(len(own), 1)
    span = max((token.share for token in own), default=mean) - mean
    for token in own:
        # Of equal shares none is stronger.
        level = min(int(5 * (token.share - mean) / span) - 1, len(STYLES) - 1) if span > 1e-9 else 0
        for position in range(token.start, token.end):
            if not text[position].isspace():
                levels[position] = max(levels[position], level)
    return levels


def _print_words(name: str, text: str, tokens: "Sequence[TokenShare]", top: int) -> None:
    """Print the words of one side with the largest shares, and what is left, so that the column adds up."""
    from diffembed.embedder.explain import by_word

    words = by_word(text, tokens)
    print(f"  share  word of the {name}")
    for word in words[:top]:
        shown = one_line(word.text)
        if len(shown) > SHOWN_CHARACTERS:
            shown = shown[: SHOWN_CHARACTERS - 1] + "…"
        print(f"{word.share:+.4f}  {shown}" + (f" x{word.count}" if word.count > 1 else ""))
    if rest := words[top:]:
        print(f"{sum(word.share for word in rest):+.4f}  ({len(rest)} more)")
