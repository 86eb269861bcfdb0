"""`diffembed search`: ask an index."""

import io
import itertools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from diffembed.cli.frame import as_utf8, one_line, print_json, report, talk
from diffembed.errors import ConfigError, DataError, DiffembedError

if TYPE_CHECKING:
    from diffembed.library.hits import Hit
    from diffembed.library.index import Index

BLOCK = 64
"""Lines of a file that are answered together."""
BOLD, DIM, PLAIN = "\033[1m", "\033[2m", "\033[0m"
HISTORY = 1_000
LONGEST_LINE = 400_000
"""Bytes of a question from stdin: more than the longest question has."""


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
    pattern = _pattern(where)
    if instruction is not None:
        instruction = as_utf8(instruction)

    from diffembed import hardware

    hardware.limit_blas_threads()
    from diffembed.index.fusion import CANDIDATES
    from diffembed.library.index import Index

    with Index.open(folder, model=model) as index:
        if mode == "hybrid" and k > 2 * CANDIDATES:
            talk(f"hybrid has {2 * CANDIDATES} hits at most; --mode dense and --mode lexical have any number")

        def show(texts: list[str], *, many: bool = False) -> None:
            found = index.search_many(texts, k, mode, where=pattern, instruction=instruction, fuse=fuse)
            for text, hits in zip(texts, found, strict=True):
                _show(text if many else None, hits, pattern, as_json=as_json)

        if query == "-":
            for texts in _blocks():
                show(texts, many=True)
        elif query is not None:
            show([as_utf8(query)])
        elif sys.stdin is not None and sys.stdin.isatty():
            _converse(index, lambda text: show([text]))
        else:
            raise ConfigError("there is no query", hint="name one, or - for one a line from stdin")


def _show(question: str | None, hits: "list[Hit]", pattern: str | None, *, as_json: bool) -> None:
    """Print what was found; which question it was for, where there are many."""
    if as_json:
        for hit in hits:
            row = {**({} if question is None else {"query": question}), **asdict(hit)}
            print_json(row)
        return
    if question is not None:
        print(f"? {_visible(question)}", flush=True)
    for hit in hits:
        _print(hit)
    if not hits:
        talk("nothing found" + (f" below {one_line(pattern)}" if pattern else ""))


def _pattern(where: str | None) -> str | None:
    if where is None:
        return None
    key, equals, pattern = as_utf8(where).partition("=")
    if key != "path" or not equals or not pattern:
        raise ConfigError(f"--where is {where!r}", hint="for example --where 'path=notes/*.md'")
    return pattern


def _blocks() -> Iterator[list[str]]:
    """The lines of stdin: of a file many at a time, of anything else each when it comes."""
    size, block = BLOCK if _is_file(sys.stdin) else 1, list[str]()
    try:
        for line in _lines():
            block.append(line)
            if len(block) == size:
                yield block
                block = []
    except DataError:
        if block:  # what stands before a bad line is answered
            yield block
        raise
    if block:
        yield block


def _is_file(stream: "IO[str] | None") -> bool:
    try:
        return stream is not None and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # it is closed, or has no number
        return False


def _lines() -> Iterator[str]:
    if sys.stdin is None:
        raise DataError("stdin is closed", hint="pipe the queries in")
    for number in itertools.count(1):
        raw = sys.stdin.buffer.readline(LONGEST_LINE + 1)
        if not raw:
            return
        if len(raw) > LONGEST_LINE:
            raise DataError(f"line {number} of stdin has over {LONGEST_LINE:,} bytes", hint="give one question a line")
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

    history = None
    with suppress(OSError):
        history = cache_folder() / "search-history"
        readline.read_history_file(history)
    readline.set_history_length(HISTORY)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a byte that is no text ends a question, not the conversation
    talk(f"{index.counts().chunks:,} chunks; an empty line or Ctrl-D ends")
    try:
        while text := _ask().strip():
            try:
                show(as_utf8(text))
            except DiffembedError as error:
                report(error)
    except EOFError:
        talk("")
    finally:
        if history is not None:
            _keep(history)


def _keep(history: Path) -> None:
    import readline

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
    print(f"{hit.rank:>2}  {hit.score:.2f}  {bold}{_place(hit)}{plain}  {dim}{_visible(hit.title)}{plain}")
    sentence = _visible(hit.sentence or hit.text)
    if hit.words and bold:
        pattern = "|".join(re.escape(word) for word in sorted(hit.words, key=len, reverse=True))
        sentence = re.sub(rf"\b({pattern})\b", rf"{bold}\1{plain}", sentence, flags=re.IGNORECASE)
    print(f"          {sentence}")


def _place(hit: "Hit") -> str:
    from diffembed.library.reading.read import is_verbatim

    if not hit.path:
        return one_line(hit.id)
    path = os.path.relpath(hit.path) if hit.path.startswith(os.getcwd() + os.sep) else hit.path
    if hit.id != hit.path:
        return one_line(f"{path}#{hit.id}")
    return one_line(f"{path}:{hit.line}" if is_verbatim(path) else path)


def _visible(text: str) -> str:
    """White space made single, and no control character that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))
