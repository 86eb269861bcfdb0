"""Compare model folders, BM25 and their fusion on BEIR tasks: a table, differences with paired bootstrap intervals.

    python scripts/compare.py untrained=runs/a/model tuned=runs/b/model full=runs/c/model \
        --task data/scifact --task data/cranfield --cache runs/compare --markdown table.md --json rows.jsonl

Each model is compared with the one before it, and each fusion with BM25, on every task and on the mean of the tasks.
What a model retrieves is kept in --cache by the content of model and task, so an interrupted comparison goes on where
it stopped, and other measures or weights cost nothing. Empty that folder when the code that embeds has changed.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import ConfigError, DataError, DiffembedError
from diffembed.evaluation.evaluate import BM25, Result, TextEmbedder, bm25, dense, measure_hits, retrieval_depth
from diffembed.evaluation.measures import cutoff
from diffembed.evaluation.statistics import Comparison, holm, paired_bootstrap, stratified_bootstrap
from diffembed.evaluation.tasks import Task, read_task
from diffembed.index import fusion
from diffembed.index.hits import Hits

MEAN = "mean"
"""Stands for the mean over tasks where a task is named."""

Results = Mapping[str, Mapping[str, Result]]
"""System -> task -> result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much better `system` is than `baseline` on a task, or on the mean of all."""

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


def main(arguments: Sequence[str] | None = None, *, load: Callable[[Path], TextEmbedder] | None = None) -> int:
    """Run the comparison; `load` stands in for `Embedder.load` in tests."""
    options = _parser().parse_args(arguments)
    try:
        models = _models(options.models)
        tasks = [read_task(folder) for folder in options.task]
        if len({task.name for task in tasks}) < len(tasks):
            raise ConfigError("two task folders have the same name", hint="rename one: results are named after them")
        cutoff(options.measure)
        results = _evaluate(models, tasks, options, load or _load)
        differences = _compare(results, list(models), options)
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    markdown = _markdown(results, differences, options)
    print(markdown)
    if options.markdown:
        _write(options.markdown, markdown.encode() + b"\n")
    if options.json:
        rows = [row for system in results.values() for result in system.values() for row in result.rows()]
        rows += [difference.row() for difference in differences]
        _write(options.json, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return 0


def _parser() -> argparse.ArgumentParser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER", help="model folders, from weakest to strongest")
    parser.add_argument("--task", action="append", required=True, type=Path, metavar="FOLDER", help="repeatable")
    parser.add_argument("--cache", required=True, type=Path, metavar="DIR", help="where retrieved rows are kept")
    parser.add_argument("--measure", default="nDCG@10", metavar="NAME")
    parser.add_argument(
        "--dense-weight", nargs="+", type=float, default=[fusion.DENSE_WEIGHT], metavar="W", help="of each fusion"
    )
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results and differences, one object a line")
    return parser


def _models(specifications: Sequence[str]) -> dict[str, Path]:
    models: dict[str, Path] = {}
    for specification in specifications:
        name, separator, folder = specification.partition("=")
        if not separator or not name or name in models or name in (BM25, MEAN):
            raise ConfigError(
                f"cannot use the model {specification!r}",
                hint="write NAME=FOLDER, each name once and none of them bm25",
            )
        if not Path(folder).is_dir():
            raise DataError(f"no model folder {folder}", hint="train it first")
        models[name] = Path(folder)
    return models


def _evaluate(
    models: Mapping[str, Path], tasks: Sequence[Task], options: argparse.Namespace, load: Callable[[Path], TextEmbedder]
) -> Results:
    results: dict[str, dict[str, Result]] = {}

    def add(system: str, task: Task, hits: Hits) -> None:
        results.setdefault(system, {})[task.name] = measure_hits(task, hits, model=system, measures=[options.measure])

    by_words = {task.name: bm25()(task, retrieval_depth(task)) for task in tasks}
    for task in tasks:
        add(BM25, task, by_words[task.name])
    for name, folder in models.items():
        digest = _digest(folder)
        embedder: TextEmbedder | None = None
        for task, task_folder in zip(tasks, options.task, strict=True):
            path = options.cache / f"{digest}-{_digest(task_folder)}.safetensors"
            hits = _read_hits(path)
            if hits is None:
                print(f"{name}: {task.name}, {len(task.documents):,} documents", file=sys.stderr)
                embedder = embedder or load(folder)
                hits = dense(embedder)(task, retrieval_depth(task))
                _write_hits(path, hits)
            add(name, task, hits)
            for weight in options.dense_weight:
                fused = fusion.hybrid(hits, by_words[task.name], retrieval_depth(task), dense_weight=weight)
                add(_fused_name(name, weight), task, fused)
    return results


def _compare(results: Results, models: Sequence[str], options: argparse.Namespace) -> list[Difference]:
    pairs = list(zip(models, models[1:], strict=False))
    pairs += [(BM25, _fused_name(name, weight)) for name in models for weight in options.dense_weight]

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
        found.append((system, baseline, MEAN, stratified_bootstrap(list(values.values()), **settings)))
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


def _markdown(results: Results, differences: Sequence[Difference], options: argparse.Namespace) -> str:
    tasks = list(results[BM25])
    means = {
        system: float(np.mean([result.value(options.measure) for result in by_task.values()]))
        for system, by_task in results.items()
    }
    lines = [
        f"{options.measure} x100",
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


def _fused_name(model: str, weight: float) -> str:
    return f"{model} + {BM25} at {weight:g}"


def _load(folder: Path) -> TextEmbedder:
    from diffembed.embedder import Embedder  # torch is not needed when everything is in the cache

    return Embedder.load(str(folder))


def _digest(folder: Path) -> str:
    """Hash of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]


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

    _write(path, save({"scores": hits.scores, "rows": hits.rows.astype(np.int32)}))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
