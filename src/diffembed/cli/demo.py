"""`diffembed demo`: ask Python's standard library."""

from typing import Annotated

import typer

from diffembed.cli.frame import print_json, talk
from diffembed.errors import ConfigError


def command(
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="Some sample ones when absent.")] = None,
    k: Annotated[int, typer.Option("--k", metavar="N", min=1, help="Hits of each search.")] = 3,
    model: Annotated[str, typer.Option(metavar="M", help="`builtin`, a model folder or a hub id.")] = "builtin",
    measured: Annotated[
        bool, typer.Option("--measure", help="Measure every search on labelled questions instead; a minute or so.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a hit, or a measure.")] = False,
) -> None:
    """Ask Python's standard library in plain words."""
    from diffembed.demo import measure, render, run

    if measured:
        if question is not None:
            raise ConfigError(f"--measure brings its own questions, got {question!r}", hint="leave one out")
        table, rows = measure(model=model, say=talk)
        if as_json:
            for row in rows:
                print_json(row)
        else:
            print(*table, sep="\n")
        return
    for answer in run(question, model=model, k=k, say=talk):
        if as_json:
            for row in answer.rows():
                print_json(row)
        else:
            render(answer)
