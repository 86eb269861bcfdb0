"""Compare model folders, BM25 and their fusion on BEIR tasks: a table, differences with paired bootstrap intervals.

    python scripts/compare.py untrained=runs/a/model tuned=runs/b/model full=builtin \
        --task data/scifact --task data/cranfield --cache runs/compare --markdown table.md --json rows.jsonl

Each model is compared with the one before it, and each fusion with BM25, on every task and on the mean of the tasks.
What a model retrieves is kept in --cache by the content of model and task and by --dtype, so an interrupted comparison
goes on where it stopped, and other measures or weights cost nothing. Empty that folder when the code that embeds has
changed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffembed import builtin
from diffembed.errors import ConfigError, DataError, DiffembedError
from diffembed.evaluation.evaluate import (
    BM25,
    Result,
    TextEmbedder,
    bm25,
    check_measures,
    dense,
    measure_hits,
    retrieval_depth,
)
from diffembed.evaluation.statistics import Comparison, holm, paired_bootstrap, stratified_bootstrap
from diffembed.evaluation.tasks import Task, read_tasks
from diffembed.files import folder_digest, write_whole
from diffembed.index import fusion
from diffembed.index.hits import Hits

MEAN = "mean"
"""Stands for the mean over tasks where a task is named."""
BUILTIN = "builtin"
DTYPES = ("float32", "bfloat16")

Results = Mapping[str, Mapping[str, Result]]
"""System -> task -> result."""
Load = Callable[[Path, str], TextEmbedder]
"""(folder, dtype) -> model."""
Fusion = Callable[[Hits, Hits, int], Hits]
"""(hits by meaning, hits by words, k) -> hits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much better `system` is than `baseline` on a task, or on the mean of several."""

    system: str
    baseline: str
    task: str
    measure: str
    comparison: Comparison
    p_holm: float | None
    """Adjusted over all differences of means; None for a single task."""

    def row(self) -> dict[str, Any]:
        names = {"system": self.system, "baseline": self.baseline, "task": self.task, "measure": self.measure}
        return {**names, **asdict(self.comparison), "p_holm": self.p_holm}


def main(arguments: Sequence[str] | None = None, *, load: Load | None = None) -> int:
    """Run the comparison; `load` stands in for `Embedder.load` in tests."""
    options = _parser().parse_args(arguments)
    try:
        check_measures([options.measure])
        fusions = _fusions(options)
        models = _models(options.models)
        tasks = read_tasks(options.task)
        clean = _clean_queries(options.queries, tasks)
        results = _evaluate(models, tasks, fusions, options, load or _load)
        results = {system: _with_clean(by_task, clean) for system, by_task in results.items()}
        in_mean = [_clean_name(task.name) if options.clean_mean and task.name in clean else task.name for task in tasks]
        differences = _compare(results, list(models), list(fusions), in_mean, options)
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    markdown = _markdown(results, differences, in_mean, options)
    print(markdown)
    if options.markdown:
        write_whole(options.markdown, markdown.encode() + b"\n")
    if options.json:
        rows = [row for system in results.values() for result in system.values() for row in result.rows()]
        rows += [difference.row() for difference in differences]
        write_whole(options.json, "".join(json.dumps({**row, "dtype": options.dtype}) + "\n" for row in rows).encode())
    return 0


def _parser() -> argparse.ArgumentParser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=MODEL", help="a folder or builtin, from weakest to strongest"
    )
    parser.add_argument("--task", action="append", required=True, type=Path, metavar="FOLDER", help="repeatable")
    parser.add_argument(
        "--queries",
        action="append",
        default=[],
        metavar="TASK=FILE",
        help="a JSON list of query ids: report that task for these queries too, as TASK (clean); repeatable",
    )
    parser.add_argument(
        "--clean-mean", action="store_true", help="TASK (clean) counts in the mean, in place of the whole task"
    )
    parser.add_argument("--cache", required=True, type=Path, metavar="DIR", help="where retrieved rows are kept")
    parser.add_argument("--measure", default="nDCG@10", metavar="NAME")
    parser.add_argument(
        "--dense-weight", nargs="+", type=float, default=[fusion.DENSE_WEIGHT], metavar="W", help="of each fusion"
    )
    parser.add_argument("--by-ranks", action="store_true", help="fuse by reciprocal rank too")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="in which the models compute")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results and differences, one object a line")
    return parser


def _models(specifications: Sequence[str]) -> dict[str, Path]:
    models: dict[str, Path] = {}
    for specification in specifications:
        name, separator, model = specification.partition("=")
        if not separator or not name or name in models or name in (BM25, MEAN):
            raise ConfigError(
                f"cannot use the model {specification!r}",
                hint=f"write NAME=FOLDER or NAME={BUILTIN}, each name once and none of them {BM25} or {MEAN}",
            )
        models[name] = builtin.folder() if model == BUILTIN else Path(model)
        if not models[name].is_dir():
            raise DataError(f"no model folder {model}", hint=f"train it first, or name {BUILTIN}")
    return models


def _fusions(options: argparse.Namespace) -> dict[str, Fusion]:
    """What a model's name gets behind it -> how its hits and those of BM25 are fused."""

    def weighted(weight: float) -> Fusion:
        return lambda dense, lexical, k: fusion.hybrid(dense, lexical, k, dense_weight=weight)

    for weight in options.dense_weight:
        if not 0 <= weight <= 1:
            raise ConfigError(f"--dense-weight must be in 0..1, got {weight:g}", hint="0 is BM25 alone, 1 dense alone")
    found = {f" + {BM25} at {weight:g}": weighted(weight) for weight in options.dense_weight}
    if options.by_ranks:
        found[f" + {BM25} by ranks"] = lambda dense, lexical, k: fusion.reciprocal_rank([dense, lexical], k)
    return found


def _clean_queries(specifications: Sequence[str], tasks: Sequence[Task]) -> dict[str, frozenset[str]]:
    """Task -> ids of the queries that it is restricted to."""
    known = {task.name: frozenset(task.query_ids) for task in tasks}
    clean: dict[str, frozenset[str]] = {}
    for specification in specifications:
        name, separator, file = specification.partition("=")
        if not separator or name not in known or name in clean:
            raise ConfigError(
                f"cannot use --queries {specification!r}",
                hint=f"write TASK=FILE, each task once; the tasks are {', '.join(known)}",
            )
        try:
            ids = json.loads(Path(file).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file}: cannot be read: {error}", hint="a JSON list of query ids is wanted") from None
        if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
            raise DataError(f"{file}: not a list of query ids", hint='for example ["q1", "q2"]')
        clean[name] = frozenset(ids)
        if unknown := sorted(clean[name] - known[name]):
            raise DataError(f"{file}: {name} has no judged query {unknown[0]!r}", hint="is it another task's file?")
    return clean


def _evaluate(
    models: Mapping[str, Path],
    tasks: Sequence[Task],
    fusions: Mapping[str, Fusion],
    options: argparse.Namespace,
    load: Load,
) -> Results:
    results: dict[str, dict[str, Result]] = {}

    def add(system: str, task: Task, hits: Hits) -> None:
        results.setdefault(system, {})[task.name] = measure_hits(task, hits, model=system, measures=[options.measure])

    by_words = {task.name: bm25()(task, retrieval_depth(task)) for task in tasks}
    for task in tasks:
        add(BM25, task, by_words[task.name])
    for name, folder in models.items():
        digest = folder_digest(folder)
        embedder: TextEmbedder | None = None
        for task, task_folder in zip(tasks, options.task, strict=True):
            path = options.cache / f"{digest}-{options.dtype}-{folder_digest(task_folder)}.safetensors"
            hits = _read_hits(path)
            if hits is None:
                print(f"{name}: {task.name}, {len(task.documents):,} documents", file=sys.stderr)
                embedder = embedder or load(folder, options.dtype)
                hits = dense(embedder)(task, retrieval_depth(task))
                _write_hits(path, hits)
            add(name, task, hits)
            for how, fuse in fusions.items():
                add(name + how, task, fuse(hits, by_words[task.name], retrieval_depth(task)))
    return results


def _with_clean(by_task: Mapping[str, Result], clean: Mapping[str, frozenset[str]]) -> dict[str, Result]:
    """Put the restricted variant of a task behind it."""
    found: dict[str, Result] = {}
    for task, result in by_task.items():
        found[task] = result
        if task in clean:
            per_query = {
                measure: {query: value for query, value in values.items() if query in clean[task]}
                for measure, values in result.per_query.items()
            }
            name = _clean_name(task)
            found[name] = replace(result, task=name, queries=len(clean[task]), per_query=per_query)
    return found


def _compare(
    results: Results, models: Sequence[str], fusions: Sequence[str], in_mean: Sequence[str], options: argparse.Namespace
) -> list[Difference]:
    pairs = list(zip(models, models[1:], strict=False))
    pairs += [(BM25, name + how) for name in models for how in fusions]

    def values_of(result: Result) -> list[float]:
        return list(result.per_query[options.measure].values())

    settings = {"resamples": options.resamples, "seed": options.seed}
    found: list[tuple[str, str, str, Comparison]] = []
    for baseline, system in pairs:
        values = {
            task: (values_of(results[baseline][task]), values_of(results[system][task])) for task in results[BM25]
        }
        for task, (first, second) in values.items():
            found.append((system, baseline, task, paired_bootstrap(first, second, **settings)))
        found.append((system, baseline, MEAN, stratified_bootstrap([values[task] for task in in_mean], **settings)))
    adjusted = iter(holm([comparison.p for *_, task, comparison in found if task == MEAN]))
    return [
        Difference(
            system=system,
            baseline=baseline,
            task=task,
            measure=options.measure,
            comparison=comparison,
            p_holm=next(adjusted) if task == MEAN else None,
        )
        for system, baseline, task, comparison in found
    ]


def _markdown(
    results: Results, differences: Sequence[Difference], in_mean: Sequence[str], options: argparse.Namespace
) -> str:
    tasks = list(results[BM25])
    means = {
        system: float(np.mean([by_task[task].value(options.measure) for task in in_mean]))
        for system, by_task in results.items()
    }
    lines = [
        f"{options.measure} x100; models in {options.dtype}; the mean is over {', '.join(in_mean)}",
        "",
        f"| system | {' | '.join(tasks)} | {MEAN} | share of BM25 |",
        f"|---{'|---:' * (len(tasks) + 2)}|",
    ]
    for system, by_task in results.items():
        values = [f"{100 * by_task[task].value(options.measure):.1f}" for task in tasks]
        share = f"{100 * means[system] / means[BM25]:.0f}%" if means[BM25] else "-"
        lines.append(f"| {system} | {' | '.join(values)} | {100 * means[system]:.1f} | {share} |")
    lines += [
        "",
        f"Differences x100 with 95% intervals: paired bootstrap over queries, {options.resamples:,} resamples, seed "
        f"{options.seed}; the mean by resampling inside each task. p (Holm) is adjusted over the differences of means.",
        "",
        "| difference | task | value | low | high | p | p (Holm) | queries |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in differences:
        comparison = each.comparison
        numbers = [f"{100 * value:+.1f}" for value in (comparison.difference, comparison.low, comparison.high)]
        p_holm = "" if each.p_holm is None else f"{each.p_holm:.4f}"
        lines.append(
            f"| {each.system} - {each.baseline} | {each.task} | {' | '.join(numbers)} "
            f"| {comparison.p:.4f} | {p_holm} | {comparison.n} |"
        )
    return "\n".join(lines)


def _clean_name(task: str) -> str:
    return f"{task} (clean)"


def _load(folder: Path, dtype: str) -> TextEmbedder:
    from diffembed.embedder import Embedder  # torch is not needed when everything is in the cache

    return Embedder.load(folder, dtype=dtype)


def _read_hits(path: Path) -> Hits | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return Hits(tensors["scores"], tensors["rows"].astype(np.int64))
    except (OSError, SafetensorError, KeyError):
        return None


def _write_hits(path: Path, hits: Hits) -> None:
    from safetensors.numpy import save

    write_whole(path, save({"scores": hits.scores, "rows": hits.rows.astype(np.int32)}))


if __name__ == "__main__":
    sys.exit(main())
