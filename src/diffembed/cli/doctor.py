"""`diffembed doctor`: is a model folder all right?"""

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from diffembed.cli.frame import one_line, talk


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`builtin`, a model folder, an adapter or a hub id.")],
    adapter: Annotated[str | None, typer.Option(metavar="A", help="Folder or hub id of an adapter for it.")] = None,
    no_replay: Annotated[
        bool, typer.Option("--no-replay", help="Don't load the model: read what its files say of themselves.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a check.")] = False,
) -> None:
    """Check a model folder: files, direction, tokenizer, vectors, and who else reads it right."""
    from diffembed import hardware
    from diffembed.doctor import examine

    hardware.limit_threads()
    findings = examine(model, adapter, replay=not no_replay)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        if as_json:
            print(json.dumps(asdict(finding), ensure_ascii=False))
            continue
        print(f"{finding.status:<4}  {finding.check:<{width}}  {one_line(finding.message)}")
        if finding.hint is not None:
            print(f"{'':<4}  {'':<{width}}  -> {one_line(finding.hint)}")
    counts = Counter(finding.status for finding in findings)
    talk(", ".join(f"{counts[status]} {status}" for status in ("ok", "warn", "fail")))
    if counts["fail"]:
        raise typer.Exit(1)
