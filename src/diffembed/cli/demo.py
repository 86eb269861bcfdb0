"""`diffembed demo`: ask Python's standard library."""

import json
from typing import Annotated

import typer

from diffembed.cli.frame import talk


def command(
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="Some sample ones when absent.")] = None,
    k: Annotated[int, typer.Option("--k", metavar="N", min=1, help="Hits of each search.")] = 3,
    model: Annotated[str, typer.Option(metavar="M", help="`builtin`, a model folder or a hub id.")] = "builtin",
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a hit.")] = False,
) -> None:
    """Ask Python's standard library in plain words."""
    from diffembed.demo import render, run

    for answer in run(question, model=model, k=k, say=talk):
        if as_json:
            for row in answer.rows():
                print(json.dumps(row, ensure_ascii=False), flush=True)
        else:
            render(answer)
