"""`diffembed eval`: measure a model on retrieval tasks."""

from pathlib import Path
from typing import Annotated

import typer

from diffembed.cli.frame import print_json, talk
from diffembed.errors import DataError


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="`builtin`, a model folder, a hub id, or `bm25` for the baseline.")
    ],
    tasks: Annotated[list[Path], typer.Option("--task", metavar="FOLDER", help="A folder in BEIR form. Repeatable.")],
    measures: Annotated[
        list[str] | None, typer.Option("--measure", metavar="NAME", help="For example nDCG@10. Repeatable.")
    ] = None,
    with_bm25: Annotated[bool, typer.Option("--with-bm25", help="Fuse the model with BM25.")] = False,
    instruction: Annotated[
        str | None, typer.Option(metavar="S", help="For queries that bring no instruction of their own.")
    ] = None,
    per_query: Annotated[
        Path | None, typer.Option("--per-query", metavar="FILE", help="Write one JSON object a task and query there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a task and measure.")] = False,
) -> None:
    """Measure a model on retrieval tasks."""
    from diffembed.evaluation.evaluate import DEFAULT_MEASURES, Result, evaluate_model, write_query_rows

    if per_query is not None and not per_query.parent.is_dir():
        raise DataError(f"there is no folder {per_query.parent} for --per-query", hint="make it first")
    names = measures or DEFAULT_MEASURES
    results: list[Result] = []
    for result in evaluate_model(model, tasks, measures=names, with_bm25=with_bm25, instruction=instruction):
        if not results and not as_json:
            talk(f"{'task':<28} {'measure':<12} value (x100)")
        results.append(result)
        for row in result.rows():
            if as_json:
                print_json(row)
            else:
                print(f"{row['task']:<28} {row['measure']:<12} {100 * row['value']:.2f}", flush=True)
    if per_query is not None:
        write_query_rows(per_query, results)
