"""Compare the searches of an index on BEIR tasks: by meaning, by words, by both; contextual and plain chunks.

    python scripts/compare_search.py --task data/scifact --task data/qmsum --cache runs/search --variant contextual \
        --variant plain --markdown table.md

Each task's corpus is indexed as `diffembed index` does it, into --cache, where it is found again the next time. A
document is as good as its best chunk. BM25 over whole documents stands beside them; differences come with paired
bootstrap intervals, on every task and on the mean of the tasks.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffembed.errors import DiffembedError
from diffembed.evaluation.evaluate import Result, bm25, measure_hits
from diffembed.evaluation.statistics import paired_bootstrap, stratified_bootstrap
from diffembed.evaluation.tasks import Task, read_tasks
from diffembed.files import write_whole
from diffembed.index import fusion
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.snapshot import Snapshot
from diffembed.library.index import Index
from diffembed.library.update import index_files

CHUNKS = 1_000
"""Retrieved by each search; their documents are what is measured."""
VARIANTS = {"contextual": True, "plain": False}
BASELINE = "bm25s documents"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        tasks = read_tasks(options.task)
        results: dict[str, dict[str, Result]] = {}
        for folder, task in zip(options.task, tasks, strict=True):
            for system, hits in _search_all(folder, task, options).items():
                result = measure_hits(task, hits, model=system, measures=(options.measure,))
                results.setdefault(system, {})[task.name] = result
                print(f"{task.name:<24} {system:<36} {100 * result.value(options.measure):.1f}", file=sys.stderr)
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    markdown = _markdown(results, [task.name for task in tasks], options)
    print(markdown)
    if options.markdown:
        write_whole(options.markdown, markdown + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", required=True, type=Path, metavar="FOLDER", help="repeatable")
    parser.add_argument("--model", default="builtin", metavar="M")
    parser.add_argument("--cache", required=True, type=Path, metavar="DIR", help="where the indexes are kept")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="repeatable; contextual when absent")
    parser.add_argument("--chunk-tokens", type=int, metavar="N")
    parser.add_argument("--measure", default="nDCG@10", metavar="NAME")
    parser.add_argument("--dense-weight", type=float, default=fusion.DENSE_WEIGHT, metavar="W")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    return parser


def _search_all(folder: Path, task: Task, options: argparse.Namespace) -> dict[str, Hits]:
    """System -> hits over the task's documents."""
    whole = bm25()(task, CHUNKS)
    systems = {BASELINE: whole}
    for variant in options.variant or ["contextual"]:
        index = _index(folder, task, variant, options)
        found = index._store.read(lambda snapshot, index=index: _search(snapshot, index, task, options))
        if "words" not in systems:
            systems["words"] = found["words"]  # the chunks are the same in every variant
        systems[f"dense {variant}"] = found["dense"]
        systems[f"hybrid {variant}"] = found["hybrid"]
        systems[f"hybrid by ranks {variant}"] = found["ranks"]
        systems[f"dense {variant} + {BASELINE}"] = fusion.hybrid(
            found["dense"], whole, CHUNKS, dense_weight=options.dense_weight
        )
    return systems


def _index(folder: Path, task: Task, variant: str, options: argparse.Namespace) -> Index:
    [corpus] = [path for path in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if path.is_file()]
    to = options.cache / f"{task.name}-{variant}"
    account = index_files(
        [corpus], to, model=options.model, chunk_tokens=options.chunk_tokens, contextual=VARIANTS[variant]
    )
    if account.tokens:
        rate = account.tokens / account.model_seconds
        print(f"{to}: {account.tokens:,} tokens in {account.seconds:.0f} s ({rate:,.0f}/s)", file=sys.stderr)
    return Index.open(to, model=options.model)


def _search(snapshot: Snapshot, index: Index, task: Task, options: argparse.Namespace) -> dict[str, Hits]:
    _ = index._model.embedder  # faster than the small engine once there are hundreds of questions
    vectors = index._model.queries(task.queries)
    dense, words = snapshot.dense(vectors, CHUNKS), snapshot.lexical(task.queries, CHUNKS)
    hybrid = fusion.hybrid(dense, words, CHUNKS, dense_weight=options.dense_weight)
    ranks = fusion.by_ranks(dense, words, CHUNKS)
    found = {"dense": dense, "words": words, "hybrid": hybrid, "ranks": ranks}
    ids = sorted({int(row) for hits in found.values() for row in np.unique(hits.rows) if row != NO_ROW})
    rows = {key: row for row, key in enumerate(task.document_ids)}
    document_of = {number: rows[chunk.id] for number, chunk in snapshot.chunks(ids).items()}
    return {name: _by_document(hits, document_of) for name, hits in found.items()}


def _by_document(hits: Hits, document_of: Mapping[int, int]) -> Hits:
    """Each document once, where its best chunk stands."""
    scores, rows = np.zeros_like(hits.scores), np.full_like(hits.rows, NO_ROW)
    for i, (scores_K, rows_K) in enumerate(zip(hits.scores, hits.rows, strict=True)):
        best: dict[int, float] = {}
        for score, row in zip(scores_K, rows_K, strict=True):
            if row != NO_ROW:
                best.setdefault(document_of[int(row)], float(score))
        rows[i, : len(best)] = list(best)
        scores[i, : len(best)] = list(best.values())
    return Hits(scores, rows)


def _markdown(results: Mapping[str, Mapping[str, Result]], tasks: Sequence[str], options: argparse.Namespace) -> str:
    measure = options.measure
    lines = [f"{measure} x100; a document counts as its best chunk", ""]
    lines += [f"| system | {' | '.join(tasks)} | mean |", "|---|" + "---:|" * (len(tasks) + 1)]
    for system, by_task in results.items():
        values = [100 * by_task[task].value(measure) for task in tasks]
        lines.append(f"| {system} | {' | '.join(f'{each:.1f}' for each in values)} | {np.mean(values):.1f} |")
    lines += ["", "Differences x100 with 95% intervals (paired bootstrap over queries, 10,000 resamples, seed 0).", ""]
    lines += ["| difference | task | value | low | high | p |", "|---|---|---:|---:|---:|---:|"]
    for first, second in _pairs(list(results)):
        pairs = [
            (
                list(results[first][task].per_query[measure].values()),
                list(results[second][task].per_query[measure].values()),
            )
            for task in tasks
        ]
        rows = [(task, paired_bootstrap(*pair)) for task, pair in zip(tasks, pairs, strict=True)]
        for task, each in [*rows, ("mean", stratified_bootstrap(pairs))]:
            span = f"{100 * each.difference:+.1f} | {100 * each.low:+.1f} | {100 * each.high:+.1f} | {each.p:.4f}"
            lines.append(f"| {second} - {first} | {task} | {span} |")
    return "\n".join(lines)


def _pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared: each hybrid with its parts, contextual with plain, chunks with whole documents."""
    pairs = [(BASELINE, "words")]
    variants = [system.removeprefix("dense ") for system in systems if system in [f"dense {name}" for name in VARIANTS]]
    for variant in variants:
        pairs += [(part, f"hybrid {variant}") for part in (f"dense {variant}", "words", f"hybrid by ranks {variant}")]
        pairs.append((BASELINE, f"dense {variant} + {BASELINE}"))
    if len(variants) == 2:
        pairs += [(f"{kind} plain", f"{kind} contextual") for kind in ("dense", "hybrid")]
    return pairs


if __name__ == "__main__":
    sys.exit(main())
