"""Run a retriever on a task and measure it.

A retriever takes a task and a depth and returns hits whose rows are positions in `task.documents`. `dense`, `bm25` and
`fused` make them; hits can also be made once and measured or fused afterwards (`measure_hits`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError
from diffembed.evaluation.measures import cutoff, measure, rank
from diffembed.evaluation.tasks import Task, read_tasks
from diffembed.files import write_whole
from diffembed.index import exact, fusion
from diffembed.index.hits import NO_ROW, Hits, best
from diffembed.index.lexical import Lexical
from diffembed.readout.numbers import maxsim

DEFAULT_MEASURES = ("nDCG@10", "Recall@100", "RR@10", "Acc@1")
DEPTH = 1_000
"""Documents a retriever is asked for; BEIR and trec_eval's convention."""
MAXSIM_BLOCK = 4_096
"""Documents that are compared with a query at a time."""
BM25 = "bm25"
"""Stands for the lexical baseline wherever a model is named."""

Retriever = Callable[[Task, int], Hits]


class TextEmbedder(Protocol):
    """What can be measured: rivals as well as `diffembed.embedder.Embedder`."""

    def encode_query(self, texts: list[str], /, *, instruction: str | None = None) -> NDArray[np.float32]: ...

    def encode_document(self, texts: list[str], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One model on one task."""

    task: str
    model: str
    documents: int
    queries: int
    unjudged_queries: int
    unknown_queries: int
    unknown_documents: int
    per_query: Mapping[str, Mapping[str, float]]
    """Measure -> query id -> value; queries in the task's order."""

    def value(self, name: str) -> float:
        """Mean of a measure over all queries; one without hits counts 0."""
        return float(np.mean(list(self.per_query[name].values())))

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object per measure."""
        facts = {
            "queries": self.queries,
            "documents": self.documents,
            "unjudged_queries": self.unjudged_queries,
            "unknown_queries": self.unknown_queries,
            "unknown_documents": self.unknown_documents,
        }
        return [
            {"task": self.task, "measure": name, "value": self.value(name), "model": self.model, **facts}
            for name in self.per_query
        ]

    def query_rows(self) -> Iterator[dict[str, Any]]:
        """One JSON object per query, with every measure's value."""
        for query_id in next(iter(self.per_query.values())):
            values = {name: values[query_id] for name, values in self.per_query.items()}
            yield {"task": self.task, "model": self.model, "query": query_id, **values}


def dense(embedder: TextEmbedder, *, instruction: str | None = None) -> Retriever:
    """Retrieve by exact search over an embedder's vectors.

    Args:
        embedder: Anything that encodes queries and documents.
        instruction: For queries that bring none of their own.
    """

    def retrieve(task: Task, depth: int) -> Hits:
        query_BE = _encode_queries(embedder, task, instruction)
        return _nearest(query_BE, embedder.encode_document(list(task.documents)), depth)

    return retrieve


def _nearest(queries: NDArray[np.float32], documents: NDArray[np.float32], depth: int) -> Hits:
    """The best documents by inner product, or by MaxSim where texts have several vectors."""
    if queries.ndim == documents.ndim == 2:
        return exact.search(queries, documents, depth)
    scores, rows = [], []
    for query in queries:
        blocks = [documents[start : start + MAXSIM_BLOCK] for start in range(0, len(documents), MAXSIM_BLOCK)]
        scores_N = np.concatenate([maxsim(query[None], block)[0] for block in blocks])
        rows.append(best(scores_N, depth))
        scores.append(scores_N[rows[-1]])
    return Hits(np.stack(scores), np.stack(rows))


def bm25() -> Retriever:
    """Retrieve by BM25; a query's own instruction is part of its words."""

    def retrieve(task: Task, depth: int) -> Hits:
        pairs = zip(task.instructions, task.queries, strict=True)
        queries = [f"{instruction or ''} {query}".strip() for instruction, query in pairs]
        return Lexical(task.documents).search(queries, depth)

    return retrieve


def fused(
    embedder: TextEmbedder, *, dense_weight: float = fusion.DENSE_WEIGHT, instruction: str | None = None
) -> Retriever:
    """Retrieve by an embedder and BM25 together."""
    by_meaning, by_words = dense(embedder, instruction=instruction), bm25()
    return lambda task, depth: fusion.hybrid(
        by_meaning(task, depth), by_words(task, depth), depth, dense_weight=dense_weight
    )


def check_measures(measures: Sequence[str], depth: int = DEPTH) -> None:
    """Refuse measures that are unknown or look further than `depth` documents.

    Raises:
        ConfigError: There is such a measure, or none at all.
    """
    if not measures:
        raise ConfigError("no measure to compute", hint=f"for example {', '.join(DEFAULT_MEASURES)}")
    for name in measures:
        if cutoff(name) > depth:
            raise ConfigError(
                f"{name} looks further than the {depth} documents retrieved", hint=f"use a cut-off of at most {depth}"
            )


def evaluate(
    task: Task, retrieve: Retriever, *, model: str, measures: Sequence[str] = DEFAULT_MEASURES, depth: int = DEPTH
) -> Result:
    """Run a retriever on a task and measure what it finds.

    Args:
        task: Corpus, queries, judgements.
        retrieve: Makes hits for all queries.
        model: Name that the result carries.
        measures: Names such as `nDCG@10`.
        depth: Documents to retrieve per query, before a query's excluded ones are deleted.

    Raises:
        ConfigError: A measure is unknown or looks further than `depth`.
    """
    check_measures(measures, depth)
    return measure_hits(task, retrieve(task, retrieval_depth(task, depth)), model=model, measures=measures)


def retrieval_depth(task: Task, depth: int = DEPTH) -> int:
    """How many hits to ask for so that `depth` remain when excluded documents are deleted."""
    return depth + max((len(each) for each in task.excluded.values()), default=0)


def measure_hits(task: Task, hits: Hits, *, model: str, measures: Sequence[str] = DEFAULT_MEASURES) -> Result:
    """Measure hits that were made before; a query's excluded documents are deleted, not moved down."""
    functions = {name: measure(name) for name in measures}
    per_query: dict[str, dict[str, float]] = {name: {} for name in functions}
    for query_id, scores, rows in zip(task.query_ids, hits.scores, hits.rows, strict=True):
        excluded = task.excluded.get(query_id, frozenset())
        found = {
            document_id: float(score)
            for score, row in zip(scores, rows, strict=True)
            if row != NO_ROW and (document_id := task.document_ids[row]) not in excluded
        }
        ranking = rank(found)
        for name, function in functions.items():
            per_query[name][query_id] = function(ranking, task.qrels[query_id])
    return Result(
        task=task.name,
        model=model,
        documents=len(task.documents),
        queries=len(task.queries),
        unjudged_queries=task.unjudged_queries,
        unknown_queries=task.unknown_queries,
        unknown_documents=task.unknown_documents,
        per_query=per_query,
    )


def write_query_rows(path: Path, results: Iterable[Result]) -> None:
    """Write JSON lines, one for each query of each result."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for result in results for row in result.query_rows()]
    write_whole(path, "".join(lines).encode())


def evaluate_model(
    model: str,
    folders: Sequence[str | Path],
    *,
    measures: Sequence[str] = DEFAULT_MEASURES,
    with_bm25: bool = False,
    instruction: str | None = None,
    device: str | None = None,
) -> Iterator[Result]:
    """Measure a named model on task folders, one result at a time.

    All folders are read and the names of the measures checked before the model is loaded.

    Args:
        model: What `Embedder.load` takes, or `bm25` for the baseline (a folder of that name is `./bm25`).
        folders: BEIR folders.
        measures: Names such as `nDCG@10`.
        with_bm25: Fuse the model with BM25.
        instruction: For queries that bring none of their own.
        device: As for `Embedder.load`.

    Raises:
        ConfigError: A measure can't be used, two folders have one name, or the baseline is asked for what only a model
            can do.
        DataError: A folder can't be read.
    """
    check_measures(measures)
    if model == BM25 and (with_bm25 or instruction is not None):
        raise ConfigError(
            f"{BM25} {'cannot be fused with itself' if with_bm25 else 'takes no instruction'}",
            hint="name a model, or leave the option out",
        )
    tasks = read_tasks(folders)
    retrieve, name = bm25(), model
    if model != BM25:
        from diffembed.embedder import Embedder  # torch is heavy, and the baseline doesn't need it

        embedder = Embedder.load(model, device=device)
        retrieve = dense(embedder, instruction=instruction)
        if with_bm25:
            retrieve, name = fused(embedder, instruction=instruction), f"{model}+{BM25}"
    for task in tasks:
        yield evaluate(task, retrieve, model=name, measures=measures)


def _encode_queries(embedder: TextEmbedder, task: Task, default: str | None) -> NDArray[np.float32]:
    """Encode all queries with few calls: one for each instruction that occurs."""
    instructions = [own if own is not None else default for own in task.instructions]
    rows_of: dict[str | None, list[int]] = {}
    for row, instruction in enumerate(instructions):
        rows_of.setdefault(instruction, []).append(row)
    vectors: dict[int, NDArray[np.float32]] = {}
    for instruction, rows in rows_of.items():
        texts = [task.queries[row] for row in rows]
        # Without an instruction none is passed, so an embedder that knows no instructions can be measured too.
        keywords = {} if instruction is None else {"instruction": instruction}
        vectors.update(zip(rows, embedder.encode_query(texts, **keywords), strict=True))
    return np.stack([vectors[row] for row in range(len(task.queries))])
