"""`diffembed mine`: hard negatives for training data."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from diffembed.cli.frame import as_utf8, one_line, talk

PLAIN_S = 10.0
"""Between two lines of progress."""


def command(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Training data in any layout of docs/data.md: rows {query, positives}."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="The examples with their negatives.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="M", help="`builtin`, a model folder or a hub id; `builtin` when absent, none for `--by lexical`."
        ),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Candidates {title, text}; the texts of DATA when absent.")
    ] = None,
    layout: Annotated[str | None, typer.Option(metavar="NAME", help="Of DATA, where its files do not show it.")] = None,
    by: Annotated[
        Literal["dense", "lexical", "both"], typer.Option(help="What finds them: the model, BM25 or both.")
    ] = "dense",
    negatives: Annotated[int, typer.Option("-n", "--negatives", metavar="N", help="Wanted for each query.")] = 7,
    choose: Annotated[Literal["top", "random"], typer.Option(help="The best ranked, or any at random.")] = "top",
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random choice.")] = 0,
    skip: Annotated[int, typer.Option(metavar="N", help="Pass over the N best ranks.")] = 0,
    depth: Annotated[int, typer.Option(metavar="N", help="Look no further than this rank.")] = 100,
    relative_margin: Annotated[
        float, typer.Option(metavar="X", help="Stay below the positive's score by this share of it.")
    ] = 0.05,
    absolute_margin: Annotated[
        float | None, typer.Option(metavar="X", help="Stay below the positive's score by this.")
    ] = None,
    max_score: Annotated[float | None, typer.Option(metavar="X", help="Highest score of a negative.")] = None,
    no_margin: Annotated[bool, typer.Option("--no-margin", help="Keep no relative margin.")] = False,
    veto: Annotated[
        str | None, typer.Option(metavar="M", help="Another model, which must keep the same margins.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(metavar="S", help="For queries that bring no instruction of their own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over FILE.jsonl if it is there.")] = False,
) -> None:
    """Find hard negatives for training data; FILE.jsonl.audit.md shows a sample of them."""
    from dataclasses import asdict

    from diffembed import hardware

    hardware.limit_blas_threads()
    from diffembed.mining import report
    from diffembed.mining.mine import mine
    from diffembed.mining.reading import read_corpus, read_examples
    from diffembed.mining.rules import Rules

    rules = Rules(
        negatives=negatives,
        choose=choose,
        seed=seed,
        skip=skip,
        depth=depth,
        relative_margin=None if no_margin else relative_margin,
        absolute_margin=absolute_margin,
        max_score=max_score,
    )
    report.check_out(out, inputs=[data] if corpus is None else [data, corpus], force=force)
    examples = list(read_examples(data, layout))
    passages = None if corpus is None else list(read_corpus(corpus))
    if model is None and by != "lexical":
        model = "builtin"
    embedder, judge = (_load(name) if name is not None else None for name in (model, veto))
    mined = mine(
        examples,
        passages,
        embedder=embedder,
        by=by,
        rules=rules,
        veto=judge,
        instruction=None if instruction is None else as_utf8(instruction),
        folder=out.parent,
        progress=_Progress(),
    )
    settings = {"model": model, "by": by, "veto": veto, "corpus": corpus, "instruction": instruction}
    report.write(out, mined, settings | asdict(rules))
    for line in report.summary(mined.account, negatives):
        talk(line)
    talk(one_line(f"{out}; read a sample in {report.audit_path(out)}"))


def _load(name: str):  # noqa: ANN202, an Embedder: torch is imported when there is a model to load
    from diffembed import hardware
    from diffembed.embedder import Embedder

    hardware.limit_threads()
    return Embedder.load(name)


class _Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._last >= PLAIN_S:
            self._last = time.monotonic()
            talk(f"{what}: {done:,} of {total:,}")
