"""nDCG@10 on a retrieval task, measured now and then while a model trains.

All ranks encode: texts are cut into chunks, rank r takes chunks r, r + world, and so on.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffembed.data.sources import read_lines, read_rows
from diffembed.errors import ConfigError, DataError
from diffembed.training.distributed import Ranks

Role = Literal["query", "document"]
Encode = Callable[[Sequence[str], Role], Tensor]
"""(n texts, their role) -> (n, D) unit rows on the rank's device, with the weights of the moment, without gradients."""

CUTOFF = 10
# Texts that are encoded in one call, and queries that are scored at once.
CHUNK_TEXTS, CHUNK_QUERIES = 64, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """What to measure while training, and how often."""

    folder: str
    """A task in BEIR's form: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""
    every_steps: int
    """Steps between measurements; the last step is always measured."""
    split: str = "test"

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ConfigError(
                f"every_steps must be at least 1, got {self.every_steps}", hint="500 costs little on a small task"
            )


@dataclass(frozen=True, slots=True)
class JudgedTask:
    """A corpus, queries, and for each query the relevance of some documents by their number."""

    documents: tuple[str, ...]
    queries: tuple[str, ...]
    relevance: tuple[Mapping[int, int], ...]
    unknown_gains: tuple[tuple[int, ...], ...]
    """For each query the relevance of judged documents that the corpus lacks: nobody can find them, as in trec_eval."""


class Validation:
    """Measures nDCG@10 of a task with the weights of the moment."""

    def __init__(self, config: ValidationConfig, encode: Encode, ranks: Ranks) -> None:
        """Read the task.

        Raises:
            DataError: It cannot be read.
        """
        self.config, self.encode, self.ranks = config, encode, ranks
        self.task = read_judged(Path(config.folder), config.split)
        self.name = f"nDCG@{CUTOFF}"

    def is_due(self, step: int, num_steps: int) -> bool:
        return step % self.config.every_steps == 0 or step == num_steps

    def measure(self) -> dict[str, float]:
        """The mean over the queries, the same on all ranks; every rank must call it."""
        documents_ND = self._vectors(self.task.documents, "document")
        queries_QD = self._vectors(self.task.queries, "query")
        total = 0.0
        for start in range(0, len(queries_QD), CHUNK_QUERIES):
            scores_QN = queries_QD[start : start + CHUNK_QUERIES] @ documents_ND.T
            best_QK = scores_QN.topk(min(CUTOFF, scores_QN.shape[1])).indices.tolist()
            for number, best in enumerate(best_QK, start):
                total += ndcg(best, self.task.relevance[number], self.task.unknown_gains[number])
        return {self.name: total / len(self.task.queries)}

    @torch.no_grad()
    def _vectors(self, texts: Sequence[str], role: Role) -> Tensor:
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        chunks = [order[start : start + CHUNK_TEXTS] for start in range(0, len(order), CHUNK_TEXTS)]
        own = self.ranks.share(chunks)
        rows = [self.encode([texts[number] for number in chunk], role).float() for chunk in own]
        if len(own) < -(-len(chunks) // self.ranks.world):
            # Spread weights are fetched by all ranks together, so all encode as often.
            self.encode([texts[order[0]]], role)
        rows_ND = self.ranks.gather_rows(rows)
        places = [
            number for rank in range(self.ranks.world) for chunk in chunks[rank :: self.ranks.world] for number in chunk
        ]
        return torch.empty_like(rows_ND).index_copy_(0, torch.tensor(places, device=rows_ND.device), rows_ND)


def ndcg(best: Sequence[int], relevance: Mapping[int, int], unknown: Sequence[int] = ()) -> float:
    """Discounted gain of the ranked document numbers over the ideal one: linear gain, as in trec_eval."""
    ideal = sorted((gain for gain in (*relevance.values(), *unknown) if gain > 0), reverse=True)
    most = _discounted(ideal)
    return _discounted([max(relevance.get(number, 0), 0) for number in best]) / most if most else 0.0


def read_judged(folder: Path, split: str) -> JudgedTask:
    """Read a task's files; queries without a judgement are left out.

    Raises:
        DataError: A file is missing, or a row has not what it must; the message names file and line.
    """
    documents = dict(_texts(folder, "corpus"))
    queries = dict(_texts(folder, "queries"))
    judged: dict[str, dict[str, int]] = {}
    for query_id, document_id, gain in _judgements(folder / "qrels" / f"{split}.tsv"):
        judged.setdefault(query_id, {})[document_id] = gain
    chosen = [query_id for query_id in queries if query_id in judged]
    if not chosen or not documents:
        raise DataError(f"{folder} has no document, or no judged query", hint="the ids of the files must be the same")
    numbers = {document_id: number for number, document_id in enumerate(documents)}
    return JudgedTask(
        documents=tuple(documents.values()),
        queries=tuple(queries[query_id] for query_id in chosen),
        relevance=tuple({numbers[d]: gain for d, gain in judged[q].items() if d in numbers} for q in chosen),
        unknown_gains=tuple(tuple(gain for d, gain in judged[q].items() if d not in numbers) for q in chosen),
    )


def _texts(folder: Path, stem: str) -> Iterator[tuple[str, str]]:
    paths = [folder / f"{stem}{ending}" for ending in (".jsonl", ".jsonl.gz")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise DataError(f"{folder} has no {stem}.jsonl", hint="a task folder is in BEIR's form")
    for row in read_rows(path):
        values: dict[str, Any] = row.values
        if not isinstance(values.get("_id"), str | int) or not isinstance(values.get("text"), str):
            raise DataError(f"{row.place}: a row needs `_id` and `text`", hint="give it both, as strings")
        yield str(values["_id"]), f"{values.get('title') or ''} {values['text']}".strip()


def _judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    if not path.is_file():
        raise DataError(f"there is no {path}", hint="name another split")
    for number, (place, line) in enumerate(read_lines(path)):
        cells = line.split("\t")
        if len(cells) == 3 and cells[2].strip().removeprefix("-").isdecimal():
            yield cells[0], cells[1], int(cells[2])
        elif number > 0:  # the first line may be BEIR's header
            raise DataError(f"{place}: a judgement is query, document and a whole number", hint="between tabs")


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:CUTOFF], start=1))
