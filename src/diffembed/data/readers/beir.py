"""A retrieval task in BEIR's form as training data: each judged query with the documents that were judged for it.

Neither corpus nor queries are held in memory. The judgements, and the texts of the documents that they name, lie in a
private database on disk, which SQLite removes when it is closed; it grows with the split's judgements, not the corpus.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from diffembed.data.examples import Example
from diffembed.data.readers import fields
from diffembed.data.readers.parts import Part, Reading
from diffembed.data.sources import Row, read_lines, read_rows, rows_file
from diffembed.errors import DataError

_TABLES = """
    PRAGMA journal_mode = OFF;
    CREATE TABLE judgements (query TEXT, document TEXT, relevance INTEGER, line INTEGER, PRIMARY KEY (query, document))
        WITHOUT ROWID;
    CREATE TABLE documents (id TEXT PRIMARY KEY, text TEXT);
    CREATE TABLE queries (id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE INDEX documents_judged ON judgements (document);
"""


def is_beir(folder: Path) -> bool:
    """Whether a folder has a corpus, queries and judgements."""
    return bool(rows_file(folder, "corpus") and rows_file(folder, "queries")) and (folder / "qrels").is_dir()


def beir_parts(folder: Path, name: str, split: str) -> list[Part]:
    """The task of a folder.

    Raises:
        DataError: A file is missing, or the split.
    """
    corpus, queries, qrels = (
        rows_file(folder, "corpus"),
        rows_file(folder, "queries"),
        folder / "qrels" / f"{split}.tsv",
    )
    if not corpus or not queries:
        raise DataError(f"{folder} has no {'queries' if corpus else 'corpus'}.jsonl", hint="see docs/data.md on BEIR")
    if not qrels.is_file():
        there = ", ".join(path.stem for path in sorted(qrels.parent.glob("*.tsv"))) or "none"
        raise DataError(f"{folder} has no judgements for the split {split}", hint=f"it has {there}: name one of these")
    return [Part(name, (corpus, queries, qrels), lambda reading: _guarded(corpus, queries, qrels, name, reading))]


def _guarded(corpus: Path, queries: Path, qrels: Path, name: str, reading: Reading) -> Iterator[Example]:
    try:
        yield from _read(corpus, queries, qrels, name, reading)
    except sqlite3.OperationalError as error:
        raise DataError(
            f"the temporary folder cannot hold what {qrels} judges: {error}", hint="set TMPDIR to one with more room"
        ) from None


def _read(corpus: Path, queries: Path, qrels: Path, name: str, reading: Reading) -> Iterator[Example]:
    num_examples = 0
    with closing(sqlite3.connect("")) as database:  # in a file of its own that goes with it
        database.executescript(_TABLES)
        _keep_judgements(database, qrels, reading)
        for _ in reading.each(read_rows(corpus), lambda row: _keep_document(database, row)):
            pass
        for example in reading.each(read_rows(queries), lambda row: _examples(database, row, name, qrels)):
            num_examples += 1
            yield example
        lost = database.execute(
            "SELECT query, min(line) FROM judgements WHERE query NOT IN (SELECT id FROM queries) GROUP BY query"
        )
        for query, line in lost:
            place = f"{qrels}:{line}"
            error = DataError(f"{place}: no query has the id {query[:60]!r}", hint="mend queries.jsonl or the qrels")
            reading.refuse(place, error)
    if not num_examples:
        raise DataError(f"{qrels} has no judgement that makes an example", hint="query id, document id, score a line")


def _keep_judgements(database: sqlite3.Connection, qrels: Path, reading: Reading) -> None:
    rows = (Row({"line": line, "number": _number(place)}, place) for place, line in read_lines(qrels))

    def keep(row: Row) -> list[Row]:
        judgement = _judgement(row)
        if judgement is not None:
            _insert(database, "judgements", (*judgement, row.values["number"]), row.place, judgement[:2])
        return []

    for _ in reading.each(rows, keep):
        pass


def _number(place: str) -> int:
    return int(place.rpartition(":")[2])


def _judgement(row: Row) -> tuple[str, str, int] | None:
    """Query id, document id and relevance; None: the line is BEIR's header."""
    cells = row.values["line"].split("\t")
    if len(cells) != 3:
        raise DataError(
            f"{row.place}: want 3 fields with tabs between them, got {len(cells)}", hint="query id, document id, score"
        )
    try:
        relevance = int(cells[2])
        if abs(relevance) < 2**31:
            return cells[0], cells[1], relevance
    except ValueError:
        if row.values["number"] == 1:
            return None
    raise DataError(f"{row.place}: the score must be a whole number, got {cells[2][:20]!r}", hint="0, 1, 2, ...")


def _keep_document(database: sqlite3.Connection, row: Row) -> list[Row]:
    document = fields.record_id(row, "_id")
    if database.execute("SELECT 1 FROM judgements WHERE document = ? LIMIT 1", [document]).fetchone():
        _insert(database, "documents", (document, fields.document_text(row)), row.place, (document,))
    return []


def _examples(database: sqlite3.Connection, row: Row, name: str, qrels: Path) -> list[Example]:
    """The example of a query; none where the split has no judgement of it."""
    query = fields.record_id(row, "_id")
    _insert(database, "queries", (query,), row.place, (query,))
    judged = database.execute(
        "SELECT document, relevance, line, text FROM judgements LEFT JOIN documents ON document = id WHERE query = ? "
        "ORDER BY relevance DESC, document",
        [query],
    ).fetchall()
    if not judged:
        return []
    for document, _, line, text in judged:
        if text is None:
            raise DataError(
                f"{row.place}: its document {document[:60]!r} ({qrels}:{line}) is not in the corpus",
                hint="mend corpus.jsonl or qrels",
            )
    return [
        fields.example(
            row,
            query=fields.text(row, "text"),
            positives=tuple(text for _, relevance, _, text in judged if relevance > 0),
            negatives=tuple(text for _, relevance, _, text in judged if relevance <= 0),
            source=name,
            kind=fields.KIND,
            instruction=fields.maybe_text(row, "instruction"),
        )
    ]


def _insert(database: sqlite3.Connection, table: str, values: tuple, place: str, key: tuple[str, ...]) -> None:
    try:
        database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    except sqlite3.IntegrityError:
        raise DataError(f"{place}: {' '.join(map(repr, key))[:120]} occurs twice", hint="keep one of the two") from None
