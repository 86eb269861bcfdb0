"""The command line: `diffembed VERB ...`. Each verb is one file here, imported when it is asked for.

A verb parses, calls one function of the library and prints. stdout is data, stderr is talk. Exit status: 0 done,
1 failed, 2 misuse; 130 and 141 as a shell reports an interrupt and a closed pipe.
"""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffembed import __version__
from diffembed.cli import frame
from diffembed.errors import ConfigError

VERBS = (
    "index",
    "search",
    "embed",
    "explain",
    "pretrain",
    "finetune",
    "merge",
    "mine",
    "eval",
    "models",
    "doctor",
    "demo",
)
"""In the order of the help page; the verb `x` is the function `command` of `diffembed.cli.x`."""


class Verbs(TyperGroup):
    """A group that knows the names of its verbs and imports one only to run or describe it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the verbs in the order of the help page."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the file of one verb and build its command."""
        if cmd_name not in VERBS:
            return None
        from importlib import import_module

        verb = typer.Typer(add_completion=False, rich_markup_mode=None)
        verb.command(cmd_name)(import_module(f"diffembed.cli.{cmd_name}").command)
        return typer.main.get_command(verb)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb of a command line, or say which one was probably meant."""
        if args[0] in VERBS or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        hint = frame.nearest(args[0], VERBS) or "`diffembed --help` lists the verbs"
        raise ConfigError(f"there is no verb `{args[0]}`", hint=hint)


# Plain help instead of rich's: it is there in half the time and the docs test can read it.
app = typer.Typer(cls=Verbs, add_completion=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def diffembed(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Diffusion language models as text embedders."""


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status. No traceback reaches the user (see `frame.report`).

    Args:
        args: What follows the program's name; None takes it from `sys.argv`.
    """
    argv = list(sys.argv[1:] if args is None else args) or ["--help"]
    try:
        _check_surroundings()
        # Not typer's own `app()`: that turns errors into its format and exits by itself.
        group = typer.main.get_command(app)
        with group.make_context("diffembed", argv) as context:
            group.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()  # a closed pipe shows here, and not while the interpreter shuts down
    except typer.Exit as request:
        return request.exit_code
    except BaseException as error:
        return frame.report(error)
    return 0


def _check_surroundings() -> None:
    try:
        os.getcwd()
    except OSError:  # torch ends the process in such a place
        raise ConfigError("the working folder does not exist any more", hint="cd to another one") from None
    # `>&-` closes a stream, and Python then has none: print would take stdout for a stderr that isn't there.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115, for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # rather than fail where the terminal knows ASCII alone
