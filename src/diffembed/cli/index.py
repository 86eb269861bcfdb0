"""`diffembed index`: files into an index that can be searched."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from diffembed.cli.frame import talk
from diffembed.errors import ConfigError, IndexFormatError

if TYPE_CHECKING:
    from diffembed.library.account import Account
    from diffembed.library.index import Index

SHOWN_SKIPPED = 20
PLAIN_S = 10.0
"""Between two lines of progress where there is no terminal."""


def command(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH", help="Files and folders.")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="The index; made if it isn't there.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="`builtin` (the default), a model folder or a hub id.")
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(help="Of the vectors on disk; float16 when absent, int8 for millions of chunks."),
    ] = None,
    chunk_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of the largest chunk; 256 when absent.")
    ] = None,
    contextual: Annotated[
        bool | None,
        typer.Option(
            "--contextual/--plain", help="Whether the chunks of a document see all of it; they do by default."
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the paths out of the index instead.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check the index instead, every byte of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one object.")] = False,
) -> None:
    """Bring files into an index, or up to date in it."""
    if to is None:
        raise ConfigError("there is no index to write to", hint="name its folder: --to DIR")
    if verify:
        _verify(to, paths or [], as_json)
        return
    if not paths:
        raise ConfigError("there is no path to index", hint="name files or folders")

    from diffembed.library.index import Index
    from diffembed.library.update import index_files

    if remove:
        with closing(Index.open(to)) as index:
            removed = index.remove(paths=paths)
            talk(f"{removed} files removed; {_size(index)}")
        if as_json:
            print(json.dumps({"removed": removed}))
        return
    with _progress() as on_progress:
        account = index_files(
            paths,
            to,
            model=model,
            precision=precision,
            chunk_tokens=chunk_tokens,
            contextual=contextual,
            on_progress=on_progress,
        )
    for line in _summary(account):
        talk(line)
    with closing(Index.open(to)) as index:
        talk(_size(index))
    if as_json:
        print(json.dumps(account.facts(), ensure_ascii=False))


def _verify(folder: Path, paths: list[Path], as_json: bool) -> None:
    from diffembed.library.index import Index

    if paths:
        raise ConfigError(f"--verify takes no path, got {paths[0]}", hint="name the index alone: --to DIR --verify")
    with closing(Index.open(folder)) as index:
        problems = index.check()
        size = "" if problems else _size(index)
    if as_json:
        print(json.dumps({"problems": problems}))
    if problems:
        raise IndexFormatError(
            f"the index in {folder} is damaged: {'; '.join(problems)}",
            hint="delete the folder and index again; your files are not touched",
        )
    talk(f"sound: {size}")


def _summary(account: "Account") -> Iterator[str]:
    parts = [f"{account.files_read:,} files read", f"{account.files_unchanged:,} unchanged"]
    if account.files_dropped:
        parts.append(f"{account.files_dropped:,} dropped")
    parts.append(f"{len(account.skipped):,} skipped")
    yield ", ".join(parts) + f", in {account.seconds:.1f} s"
    if account.files_read:
        rate = f" ({account.tokens / account.model_seconds:,.0f} tokens/s)" if account.model_seconds else ""
        yield (
            f"{account.documents:,} documents, {account.chunks:,} chunks, {account.tokens:,} tokens embedded{rate}, "
            f"{account.reused:,} documents reused, {account.empty:,} empty, {account.truncated:,} truncated, "
            f"{account.windowed:,} longer than the model reads at a time: read in windows"
        )
    for each in account.skipped[:SHOWN_SKIPPED]:
        yield f"skipped {each.path}: {each.reason}"
    if len(account.skipped) > SHOWN_SKIPPED:
        reasons = Counter(each.reason for each in account.skipped[SHOWN_SKIPPED:])
        more = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(5))
        yield f"skipped {len(account.skipped) - SHOWN_SKIPPED:,} more (--json names them all): {more}"
    if account.other_kinds:
        kinds = Counter(account.other_kinds).most_common(8)
        yield "of other kinds, not read: " + ", ".join(
            f"{count:,} {suffix or 'without suffix'}" for suffix, count in kinds
        )


def _size(index: "Index") -> str:
    counts = index.counts()
    return (
        f"{index.folder}: {counts.files:,} files, {counts.documents:,} documents, {counts.chunks:,} chunks, "
        f"{counts.size_bytes / 1e6:,.1f} MB"
    )


@contextmanager
def _progress() -> "Iterator[Callable[[Account], None]]":
    """A bar on a terminal, a line now and then where there is none."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    stderr = Console(stderr=True)
    if stderr.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=stderr, transient=True) as bar:
            row = bar.add_task("indexing", total=None)
            yield lambda account: bar.update(
                row, description=_pace(account), completed=account.bytes_done, total=max(account.bytes_total, 1)
            )
        return
    last = time.monotonic()

    def say(account: "Account") -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_S:
            last = time.monotonic()
            share = account.bytes_done / max(account.bytes_total, 1)
            left = account.seconds * (1 - share) / share if share else 0.0
            minutes, seconds = divmod(round(left), 60)
            talk(f"{_pace(account)}, {share:.0%}, {minutes // 60}:{minutes % 60:02}:{seconds:02} left")

    yield say


def _pace(account: "Account") -> str:
    rate = account.tokens / account.seconds if account.seconds else 0.0
    return f"{account.documents:,} documents, {rate:,.0f} tokens/s"
