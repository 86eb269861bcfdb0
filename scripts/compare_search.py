"""Compare the searches of an index on BEIR tasks: by meaning, by words, by both; contextual and plain chunks.

    python scripts/compare_search.py --task data/scifact --task data/qmsum --cache runs/search --variant contextual \
        --variant plain --markdown table.md

Each task's corpus is indexed as `diffembed index` does it, into --cache, where it is found again the next time. A
document is as good as its best chunk. BM25 over whole documents stands beside them; differences come with paired
bootstrap intervals, on every task and on the mean of the tasks.
"""

import argparse
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, DiffembedError
from diffembed.evaluation.evaluate import Result, bm25, check_measures, measure_hits
from diffembed.evaluation.statistics import holm, paired_bootstrap, stratified_bootstrap
from diffembed.evaluation.tasks import Task, read_tasks
from diffembed.files import write_whole
from diffembed.index import fusion, words
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.snapshot import Snapshot
from diffembed.library.index import Index
from diffembed.library.update import index_files

DEPTH = 5_000
"""Chunks retrieved by each search, whose documents are measured; a hybrid fuses the first hundred of each."""
VARIANTS = {"contextual": True, "plain": False}
BM25S, FTS5 = "bm25s documents", "FTS5 documents"
WORDS = "FTS5 chunks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print its tables."""
    options = _parser().parse_args(arguments)
    try:
        check_measures([options.measure])
        tasks = read_tasks(options.task)
        results: dict[str, dict[str, Result]] = {}
        for folder, task in zip(options.task, tasks, strict=True):
            for system, hits in _search_all(folder, task, options).items():
                result = measure_hits(task, hits, model=system, measures=(options.measure,))
                results.setdefault(system, {})[task.name] = result
                print(f"{task.name:<24} {system:<36} {100 * result.value(options.measure):.1f}", file=sys.stderr)
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    markdown = _markdown(results, [task.name for task in tasks], options.measure)
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
    parser.add_argument(
        "--dense-weight",
        type=float,
        nargs="*",
        default=[],
        metavar="W",
        help="further weights of the dense search",
    )
    parser.add_argument("--measure", default="nDCG@10", metavar="NAME")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    return parser


def _search_all(folder: Path, task: Task, options: argparse.Namespace) -> dict[str, Hits]:
    """System -> hits over the task's documents."""
    whole = bm25()(task, DEPTH)
    systems = {BM25S: whole, FTS5: _search_documents(task)}
    for variant in options.variant or ["contextual"]:
        with _index(folder, task, variant, options) as index:
            vectors = _embed(index, task)
            found = index.read(lambda snapshot, vectors=vectors: _search(snapshot, vectors, task, options.dense_weight))
        systems.setdefault(WORDS, found["words"])  # the chunks are the same in every variant
        systems[f"dense {variant}"] = found["dense"]
        systems[f"hybrid {variant}"] = found["scores"]
        systems[f"hybrid by ranks {variant}"] = found["ranks"]
        for weight in options.dense_weight:
            systems[f"hybrid {variant} at {weight}"] = found[f"at {weight}"]
        systems[f"dense {variant} + {BM25S}"] = fusion.hybrid(_filled(found["dense"]), whole, DEPTH)
    return systems


def _search_documents(task: Task) -> Hits:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(words.SCHEMA)
        words.add(db, [(row, "", document) for row, document in enumerate(task.documents)])
        found = [words.search(db, query, DEPTH) for query in task.queries]
    width = min(DEPTH, len(task.documents))
    hits = Hits(np.zeros((len(found), width), np.float32), np.full((len(found), width), NO_ROW, np.int64))
    for i, ranked in enumerate(found):
        hits.rows[i, : len(ranked)] = [row for row, _ in ranked]
        hits.scores[i, : len(ranked)] = [score for _, score in ranked]
    return hits


def _index(folder: Path, task: Task, variant: str, options: argparse.Namespace) -> Index:
    corpus = next(path for path in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if path.is_file())
    to = options.cache / f"{task.name}-{variant}"
    account = index_files(
        [corpus], to, model=options.model, chunk_tokens=options.chunk_tokens, contextual=VARIANTS[variant]
    )
    if account.tokens:
        rate = account.tokens / account.model_seconds
        print(f"{to}: {account.tokens:,} tokens in {account.seconds:.0f} s ({rate:,.0f}/s)", file=sys.stderr)
    return Index.open(to, model=options.model)


def _embed(index: Index, task: Task) -> NDArray[np.float32]:
    """Vectors of the queries, those with the same instruction together."""
    vectors = np.empty((len(task.queries), index.settings.dims), np.float32)
    for instruction in dict.fromkeys(task.instructions):
        rows = [row for row, each in enumerate(task.instructions) if each == instruction]
        vectors[rows] = index.embed_queries([task.queries[row] for row in rows], instruction)
    return vectors


def _search(snapshot: Snapshot, vectors: NDArray[np.float32], task: Task, weights: Sequence[float]) -> dict[str, Hits]:
    dense, lexical = snapshot.dense(vectors, DEPTH), snapshot.lexical(task.queries, DEPTH)
    found = {
        "dense": dense,
        "words": lexical,
        "scores": fusion.hybrid(dense, lexical, DEPTH),
        "ranks": fusion.by_ranks(dense, lexical, DEPTH),
        **{f"at {weight}": fusion.hybrid(dense, lexical, DEPTH, dense_weight=weight) for weight in weights},
    }
    numbers = sorted({int(number) for hits in found.values() for number in np.unique(hits.rows) if number != NO_ROW})
    rows = {key: row for row, key in enumerate(task.document_ids)}
    document_of = {number: rows[chunk.id] for number, chunk in snapshot.chunks(numbers).items()}
    return {name: _by_document(hits, document_of) for name, hits in found.items()}


def _by_document(hits: Hits, document_of: Mapping[int, int]) -> Hits:
    """Each document once, where its best chunk stands."""
    scores, rows = np.zeros_like(hits.scores), np.full_like(hits.rows, NO_ROW)
    for i, (scores_K, numbers_K) in enumerate(zip(hits.scores, hits.rows, strict=True)):
        best: dict[int, float] = {}
        for score, number in zip(scores_K, numbers_K, strict=True):
            if number != NO_ROW:
                best.setdefault(document_of[int(number)], float(score))
        rows[i, : len(best)] = list(best)
        scores[i, : len(best)] = list(best.values())
    return Hits(scores, rows)


def _filled(hits: Hits) -> Hits:
    """With the lowest cosine in the empty places: a fusion takes what stands there for scores."""
    scores = hits.scores.copy()
    for scores_K, rows_K in zip(scores, hits.rows, strict=True):
        scores_K[rows_K == NO_ROW] = scores_K[rows_K != NO_ROW].min(initial=1.0)
    return Hits(scores, hits.rows)


def _markdown(results: Mapping[str, Mapping[str, Result]], tasks: Sequence[str], measure: str) -> str:
    lines = [f"{measure} x100; a document counts as its best chunk", ""]
    lines += [f"| system | {' | '.join(tasks)} | mean |", "|---|" + "---:|" * (len(tasks) + 1)]
    for system, by_task in results.items():
        values = [100 * by_task[task].value(measure) for task in tasks]
        lines.append(f"| {system} | {' | '.join(f'{each:.1f}' for each in values)} | {np.mean(values):.1f} |")
    lines += ["", "Differences x100 with 95% intervals: paired bootstrap over queries, 10,000 resamples, seed 0. p is"]
    lines += ["adjusted (Holm) over the differences of means.", ""]
    lines += ["| difference | task | value | low | high | p |", "|---|---|---:|---:|---:|---:|"]
    pairs = _pairs(list(results))
    values = {
        pair: [[list(results[system][task].per_query[measure].values()) for system in pair] for task in tasks]
        for pair in pairs
    }
    means = [stratified_bootstrap([(first, second) for first, second in values[pair]]) for pair in pairs]
    adjusted = holm([mean.p for mean in means])
    for (first, second), mean, p in zip(pairs, means, adjusted, strict=True):
        each_task = [paired_bootstrap(*both) for both in values[first, second]]
        rows = [*zip(tasks, each_task, [each.p for each in each_task], strict=True), ("mean", mean, p)]
        for task, each, shown in rows:
            span = f"{100 * each.difference:+.1f} | {100 * each.low:+.1f} | {100 * each.high:+.1f} | {shown:.4f}"
            lines.append(f"| {second} - {first} | {task} | {span} |")
    return "\n".join(lines)


def _pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared: stemmer, chunks with whole documents, each hybrid with its parts, contextual with plain."""
    pairs = [(BM25S, FTS5), (FTS5, WORDS)]
    variants = [variant for variant in VARIANTS if f"dense {variant}" in systems]
    for variant in variants:
        pairs += [(part, f"hybrid {variant}") for part in (f"dense {variant}", WORDS, f"hybrid by ranks {variant}")]
        pairs.append((BM25S, f"dense {variant} + {BM25S}"))
    if len(variants) == 2:
        pairs += [(f"{kind} plain", f"{kind} contextual") for kind in ("dense", "hybrid")]
    return pairs


if __name__ == "__main__":
    sys.exit(main())
