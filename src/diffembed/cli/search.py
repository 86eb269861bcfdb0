"""`diffembed search`: ask an index."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffembed.cli.frame import report, talk
from diffembed.errors import ConfigError, DataError, DiffembedError

if TYPE_CHECKING:
    from diffembed.library.hits import Hit
    from diffembed.library.index import Index

LINED = (".txt", ".md", ".rst", ".py")
"""Kinds whose text is the file itself, so that a line number says where to look."""
BOLD, DIM, PLAIN = "\033[1m", "\033[2m", "\033[0m"
HISTORY = 1_000


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The index.")],
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERY", help="In plain words; - reads one a line from stdin; none asks you, again and again."
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", metavar="N", min=1, help="Hits of a query.")] = 10,
    mode: Annotated[
        Literal["dense", "lexical", "hybrid"], typer.Option(help="By meaning, by words, or both.")
    ] = "hybrid",
    where: Annotated[
        str | None,
        typer.Option(metavar="path=P", help="Only files whose path ends in P (* and ? allowed), or in a folder P."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Where the model of the index is now, if it was moved.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(metavar="S", help="What the query asks for, in place of the model's own instruction.")
    ] = None,
    fuse: Annotated[
        Literal["scores", "ranks"], typer.Option(help="What `hybrid` adds up; it has 200 hits at most.")
    ] = "scores",
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a hit.")] = False,
) -> None:
    """Search an index in plain words."""
    from diffembed.library.index import Index

    pattern = _pattern(where)
    with closing(Index.open(folder, model=model)) as index:

        def show(text: str, *, many: bool = False) -> None:
            hits = index.search(text, k, mode, where=pattern, instruction=instruction, fuse=fuse)
            if as_json:
                for hit in hits:
                    row = {**({"query": text} if many else {}), **asdict(hit)}
                    print(json.dumps(row, ensure_ascii=False), flush=True)
                return
            if many:
                print(f"? {text}")
            for hit in hits:
                _print(hit)
            if not hits:
                talk("nothing found" + (f" below {pattern}" if pattern else ""))

        if query == "-":
            for line in _lines():
                show(line, many=True)
        elif query is not None:
            show(query)
        elif sys.stdin is not None and sys.stdin.isatty():
            _converse(index, show)
        else:
            raise ConfigError("there is no query", hint="name one, or - for one a line from stdin")


def _pattern(where: str | None) -> str | None:
    if where is None:
        return None
    key, equals, pattern = where.partition("=")
    if key != "path" or not equals or not pattern:
        raise ConfigError(f"--where is {where!r}", hint="for example --where 'path=notes/*.md'")
    return pattern


def _lines() -> Iterator[str]:
    if sys.stdin is None:
        raise DataError("stdin is closed", hint="pipe the queries in")
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise DataError(f"line {number} of stdin is not UTF-8", hint="convert it, for example with iconv") from None
        if line:
            yield line


def _converse(index: "Index", show: Callable[[str], None]) -> None:
    """Ask for queries until the end of input; arrow keys bring back earlier ones, of earlier days too."""
    import readline

    from diffembed.files import cache_folder

    history = cache_folder() / "search-history"
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(HISTORY)
    talk(f"{index.counts().chunks:,} chunks; an empty line or Ctrl-D ends")
    try:
        while text := _ask().strip():
            try:
                show(text)
            except DiffembedError as error:
                report(error)
    except EOFError:
        talk("")
    finally:
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
        except OSError as error:
            talk(f"can't keep the history in {history}: {error.strerror}")


def _ask() -> str:
    if sys.stdout.isatty():
        return input("? ")
    # `input` would write the prompt among the hits.
    print("? ", end="", file=sys.stderr, flush=True)
    return input()


def _print(hit: "Hit") -> None:
    bold, dim, plain = (BOLD, DIM, PLAIN) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "", "")
    print(f"{hit.rank:>2}  {hit.score:.2f}  {bold}{_place(hit)}{plain}  {dim}{_one_line(hit.title)}{plain}")
    sentence = _one_line(hit.sentence or hit.text)
    if hit.words and bold:
        pattern = "|".join(re.escape(word) for word in sorted(hit.words, key=len, reverse=True))
        sentence = re.sub(rf"\b({pattern})\b", rf"{bold}\1{plain}", sentence, flags=re.IGNORECASE)
    print(f"          {sentence}")


def _place(hit: "Hit") -> str:
    if not hit.path:
        return hit.id
    path = os.path.relpath(hit.path) if hit.path.startswith(os.getcwd() + os.sep) else hit.path
    if hit.id != hit.path:
        return f"{path}#{hit.id}"
    return f"{path}:{hit.line}" if path.endswith(LINED) else path


def _one_line(text: str) -> str:
    """White space made single, and no control character that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))
