"""What verbs share: talk on stderr, errors as one line and a hint."""

import codecs
import difflib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any

import typer

from diffembed.errors import ConfigError, DiffembedError

INTERRUPTED = 130
CLOSED_PIPE = 141
"""128 + SIGINT and 128 + SIGPIPE: what a shell reports for a program that such a signal ended."""


def talk(message: str) -> None:
    """Say something to the person at the terminal; stdout stays data."""
    print(message, file=sys.stderr)


def print_json(row: Mapping[str, Any]) -> None:
    """Print one object a line, at once.

    A terminal gets ASCII: it would obey some characters of a text and turn others round. So does a stream that can't
    hold every character, where JSON must not depend on how the others are spelled out.
    """
    is_plain = sys.stdout.isatty() or not is_utf8(sys.stdout)
    print(json.dumps(row, ensure_ascii=is_plain), flush=True)


def is_utf8(stream: IO[str]) -> bool:
    """Whether every character can be written to a stream."""
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "ascii").name == "utf-8"
    except LookupError:
        return False


def one_line(text: str) -> str:
    r"""White space made single, and what a terminal would obey spelled out (`\x1b`)."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words)


def as_utf8(text: str) -> str:
    """An argument that Python could not read in the terminal's encoding, as UTF-8 if it is that (LC_ALL=C)."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text  # refused by whoever reads it


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Hint at the known name that a misspelt one is close to, if there is one."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else None


def report(error: BaseException) -> int:
    """Tell a person what went wrong in one line and a hint, and choose the exit status.

    With DIFFEMBED_DEBUG=1 in the environment the traceback comes first.
    """
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, BrokenPipeError):
        return _close_quietly()
    if os.environ.get("DIFFEMBED_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        talk("interrupted")
        return INTERRUPTED
    message, hint, status = _describe(error)
    talk(f"error: {one_line(message)}")
    if hint:
        talk(f"hint: {one_line(hint)}")
    return status


def _describe(error: BaseException) -> tuple[str, str | None, int]:
    if isinstance(error, DiffembedError):
        return error.message, error.hint, 2 if isinstance(error, ConfigError) else 1
    if isinstance(error, typer.TyperException):  # the command line itself: an unknown option, a missing argument
        context = getattr(error, "ctx", None)
        program = context.command_path if context else "diffembed"
        message = error.format_message().replace("Value error, ", "")  # pydantic's words, which typer passes on
        return message, f"`{program} --help` shows what it takes", error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", "check the path, its permissions and the free space", 1
    if isinstance(error, MemoryError) or "not enough memory" in str(error):  # torch raises RuntimeError for it
        return "there is not enough memory for this", "use a smaller model, batch or text", 1
    debug = "set DIFFEMBED_DEBUG=1 to see the traceback, and report it: this is a bug in diffembed"
    return f"internal error: {type(error).__name__}: {error}", debug, 1


def _close_quietly() -> int:
    # Whoever read our output has left (`| head`). What is still buffered goes nowhere, without a complaint at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED_PIPE
