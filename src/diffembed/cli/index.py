"""`diffembed index`: files into an index that can be searched."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffembed.cli.frame import one_line, print_json, talk
from diffembed.errors import ConfigError, IndexFormatError

if TYPE_CHECKING:
    from diffembed.library.account import Account
    from diffembed.library.index import Index

SHOWN_SKIPPED = 20
SHOWN_WITHOUT_TEXT = 3
OPTIONS = {"precision": "--precision", "chunk_tokens": "--chunk-tokens", "contextual": "--contextual/--plain"}
PLAIN_S = 10.0
"""Between two lines of progress where there is no terminal."""


def command(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Files and folders.")] = None,
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
    settings = {"precision": precision, "chunk_tokens": chunk_tokens, "contextual": contextual}
    for verb in [name for name, is_asked in (("--remove", remove), ("--verify", verify)) if is_asked]:
        _expect_alone(verb, {"--model": model, **settings, "--remove": remove or None, "--verify": verify or None})
    if verify and paths:
        raise ConfigError(f"--verify takes no path, got {paths[0]}", hint="name the index alone: --to DIR --verify")
    if not verify and not paths:
        raise ConfigError("there is no path to index", hint="name files or folders")

    from diffembed import hardware

    hardware.limit_blas_threads()
    if verify:
        _verify(to, as_json)
    elif remove:
        _remove(to, paths or [], as_json)
    else:
        _index(to, paths or [], {"model": model, **settings}, as_json)


def _expect_alone(verb: str, others: dict[str, object]) -> None:
    """Refuse what has no meaning beside --remove or --verify."""
    for name, value in others.items():
        if name != verb and value is not None:
            option = OPTIONS.get(name, name)
            raise ConfigError(f"{option} doesn't go together with {verb}", hint=f"leave {option} out")


def _index(to: Path, paths: list[str], options: "dict[str, Any]", as_json: bool) -> None:
    from diffembed.library.index import Index
    from diffembed.library.update import index_files

    with _progress() as on_progress:
        account = index_files(paths, to, on_progress=on_progress, **options)
    for line in _summary(account):
        talk(one_line(line))
    with Index.open(to) as index:
        talk(_size(index))
    if as_json:
        print_json(account.facts())


def _remove(folder: Path, paths: list[str], as_json: bool) -> None:
    from diffembed.library.index import Index

    with Index.open(folder) as index:
        removed = index.remove(paths=paths, must_exist=True)
        talk(f"{removed:,} files removed; {_size(index)}")
    if as_json:
        print_json({"removed": removed})


def _verify(folder: Path, as_json: bool) -> None:
    from diffembed.index.failures import DAMAGED_HINT
    from diffembed.library.index import Index

    with Index.open(folder) as index:
        problems = index.check()
        size = "" if problems else _size(index)
    if as_json:
        print_json({"problems": problems})
    if problems:
        raise IndexFormatError(f"the index in {folder} is damaged: {'; '.join(problems)}", hint=DAMAGED_HINT)
    talk(f"sound: {size}")


def _summary(account: "Account") -> Iterator[str]:
    parts = [f"{account.files_read:,} files read", f"{account.files_unchanged:,} unchanged"]
    if account.files_kept:
        parts.append(f"{account.files_kept:,} kept")
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
    if account.lacked_room:
        yield "the disk has no room to write the vectors anew: those that are not used any more stay until the next run"
    from diffembed.library.plan import taken_out

    for gone, count in account.gone_elsewhere.items():
        yield f"{gone} isn't there any more, and {count:,} files of it are still found: {taken_out(gone)}"
    yield from _skipped(account)
    if account.other_kinds:
        kinds = Counter(account.other_kinds).most_common(8)
        yield "of other kinds, not read: " + ", ".join(
            f"{count:,} {suffix or 'without suffix'}" for suffix, count in kinds
        )


def _skipped(account: "Account") -> Iterator[str]:
    problems, without_text = account.problems, account.without_text
    for each in problems[:SHOWN_SKIPPED]:
        yield f"skipped {each.path}: {each.reason}"
    if len(problems) > SHOWN_SKIPPED:
        reasons = Counter(each.reason for each in problems[SHOWN_SKIPPED:])
        more = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(5))
        yield f"skipped {len(problems) - SHOWN_SKIPPED:,} more (--json names them all): {more}"
    # Last and in one line: empty `__init__.py` files are many, and as they should be.
    if without_text:
        shown = ", ".join(each.path for each in without_text[:SHOWN_WITHOUT_TEXT])
        yield f"skipped {len(without_text):,} without text: {shown}" + ", ..." * (
            len(without_text) > SHOWN_WITHOUT_TEXT
        )


def _size(index: "Index") -> str:
    counts = index.counts()
    return one_line(
        f"{index.folder}: {counts.files:,} files, {counts.documents:,} documents, {counts.chunks:,} chunks, "
        f"{counts.size_bytes / 1e6:,.1f} MB"
    )


@contextmanager
def _progress() -> "Iterator[Callable[[Account], None]]":
    """A bar on a terminal, a line now and then where there is none."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from diffembed.training.progress import clock

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

            def draw(account: "Account") -> None:
                done, total = _share(account)
                bar.update(row, description=_pace(account), completed=done, total=max(total, 1))

            yield draw
        return
    last = time.monotonic()

    def say(account: "Account") -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_S:
            last = time.monotonic()
            done, total = _share(account)
            share = done / max(total, 1)
            left = account.seconds * (1 - share) / share if share else 0.0
            talk(f"{_pace(account)}, {share:.0%}, {clock(round(left))} left")

    yield say


def _is_looking(account: "Account") -> bool:
    return account.files_looked_at < account.files_found


def _share(account: "Account") -> tuple[int, int]:
    """What is done of what, in the stage that the run is in."""
    if _is_looking(account):
        return account.files_looked_at, account.files_found
    return account.bytes_done, account.bytes_total


def _pace(account: "Account") -> str:
    if _is_looking(account):
        return f"looking at {account.files_found:,} files"
    rate = account.tokens / account.seconds if account.seconds else 0.0
    return f"{account.documents:,} documents, {rate:,.0f} tokens/s"
