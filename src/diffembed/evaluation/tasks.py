"""Read a retrieval task from a folder in BEIR's form: a corpus, queries, and which documents answer which query."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.sources import read_lines, read_rows
from diffembed.errors import ConfigError, DataError

NO_EXCLUSION = "N/A"
"""BRIGHT writes this id where a query excludes nothing."""
LARGEST_RELEVANCE = 2**31
"""Beyond any scale in use, and safe to add up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A corpus, its judged queries and their judgements."""

    name: str
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    """Title and text of each document, joined by a space and stripped."""
    query_ids: tuple[str, ...]
    """Only queries with at least one judgement."""
    queries: tuple[str, ...]
    instructions: tuple[str | None, ...]
    """What each query brings along; None where it brings none."""
    excluded: Mapping[str, frozenset[str]]
    """Query id -> documents that are deleted from its ranking (its own source, for example)."""
    qrels: Mapping[str, Mapping[str, int]]
    """Query id -> document id -> relevance."""
    unjudged_queries: int
    """Queries of the folder without a judgement: left out."""
    unknown_queries: int
    """Queries that only the judgements name: left out."""
    unknown_documents: int
    """Judged pairs whose document isn't in the corpus: kept, so that nobody can score full marks, as trec_eval does."""


def read_task(folder: str | Path, *, split: str = "test") -> Task:
    """Read `corpus.jsonl`, `queries.jsonl` (either may end in .gz) and `qrels/{split}.tsv`.

    Args:
        folder: The task's folder; its name becomes the task's name.
        split: Which judgements.

    Raises:
        DataError: A file is missing or a line can't be used; the message names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no task folder {folder}", hint="name a folder with corpus.jsonl, queries.jsonl and qrels/")
    documents: dict[str, str] = {}
    for where, row in _rows(_find(folder, "corpus")):
        title, text = _text(row, "title", where, required=False), _text(row, "text", where)
        _add(documents, _id(row, where), f"{title or ''} {text}".strip(), where)
    queries: dict[str, str] = {}
    instructions: dict[str, str | None] = {}
    excluded: dict[str, frozenset[str]] = {}
    for where, row in _rows(_find(folder, "queries")):
        query_id = _id(row, where)
        _add(queries, query_id, str(_text(row, "text", where)), where)
        instructions[query_id] = _text(row, "instruction", where, required=False) or None
        if exclusions := _exclusions(row, where):
            excluded[query_id] = exclusions
    if not documents:
        raise DataError(f"{folder}: the corpus is empty", hint="a task needs at least one document")
    qrels = _read_qrels(folder / "qrels" / f"{split}.tsv")
    judged = [query_id for query_id in queries if query_id in qrels]
    if not judged:
        raise DataError(f"{folder}: no query has a judgement in qrels/{split}.tsv", hint="the ids must be the same")
    return Task(
        name=folder.resolve().name,
        document_ids=tuple(documents),
        documents=tuple(documents.values()),
        query_ids=tuple(judged),
        queries=tuple(queries[query_id] for query_id in judged),
        instructions=tuple(instructions[query_id] for query_id in judged),
        excluded={query_id: excluded[query_id] for query_id in judged if query_id in excluded},
        qrels={query_id: qrels[query_id] for query_id in judged},
        unjudged_queries=len(queries) - len(judged),
        unknown_queries=sum(query_id not in queries for query_id in qrels),
        unknown_documents=sum(document not in documents for query_id in judged for document in qrels[query_id]),
    )


def read_tasks(folders: Sequence[str | Path]) -> list[Task]:
    """Read several folders with different names, since results are named after them.

    Raises:
        ConfigError: Two folders have one name; nothing was read then.
        DataError: As for `read_task`.
    """
    seen: dict[str, Path] = {}
    for folder in map(Path, folders):
        name = folder.resolve().name
        if name in seen:
            raise ConfigError(f"two task folders are named {name}: {seen[name]} and {folder}", hint="rename one")
        seen[name] = folder
    return [read_task(folder) for folder in folders]


def _find(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder} has no {stem}.jsonl and no {stem}.jsonl.gz", hint="a task folder is in BEIR's form")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((row.place, row.values) for row in read_rows(path))


def _id(row: dict[str, Any], where: str) -> str:
    value = row.get("_id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{where}: `_id` must be a string or a whole number, got {value!r}", hint="give every row an id"
        )
    return str(value)


def _text(row: dict[str, Any], key: str, where: str, *, required: bool = True) -> str | None:
    value = row.get(key)
    if isinstance(value, str) or (value is None and not required):
        return value
    raise DataError(f"{where}: `{key}` must be a string, got {value!r}", hint="an empty string is allowed")


def _exclusions(row: dict[str, Any], where: str) -> frozenset[str]:
    value = row.get("excluded_ids") or []
    if not isinstance(value, list) or any(isinstance(each, bool) or not isinstance(each, str | int) for each in value):
        raise DataError(f"{where}: `excluded_ids` must be a list of ids, got {value!r}", hint="write [] for none")
    return frozenset(str(each) for each in value) - {NO_EXCLUSION}


def _add(texts: dict[str, str], key: str, text: str, where: str) -> None:
    if key in texts:
        raise DataError(f"{where}: the id {key!r} occurs twice", hint="keep one row per id")
    texts[key] = text


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, (where, line) in enumerate(read_lines(path)):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(
                f"{where}: want 3 fields with tabs between them, got {len(fields)}",
                hint="query id, document id, relevance",
            )
        query_id, document_id, relevance = fields
        if number == 0 and not _is_number(relevance):  # BEIR's header: query-id, corpus-id, score
            continue
        try:
            value = int(relevance)
        except ValueError:
            value = None
        if value is None or abs(value) > LARGEST_RELEVANCE:
            raise DataError(f"{where}: relevance must be a whole number, got {relevance[:20]!r}", hint="0, 1, 2, ...")
        if qrels.setdefault(query_id, {}).setdefault(document_id, value) != value:
            raise DataError(
                f"{where}: {query_id} and {document_id} are judged twice, differently", hint="keep one line"
            )
    return qrels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
