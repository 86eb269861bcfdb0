"""What can be checked of an index, by its digests and by its own rules."""

import sqlite3

from diffembed.errors import IndexFormatError
from diffembed.index.places import content_digest
from diffembed.index.snapshot import Snapshot

MOST_NAMED = 10
"""Documents that are named one by one."""
_ROWS = "(SELECT value FROM settings WHERE key = 'rows')"
QUESTIONS = {
    "rows that no append accounts for": f"SELECT {_ROWS} - (SELECT coalesce(sum(count), 0) FROM appends)",
    "rows that are neither dead nor a chunk's": f"SELECT {_ROWS} - (SELECT count(*) FROM chunks) "
    "- (SELECT count(*) FROM dead)",
    "rows both dead and a chunk's": "SELECT count(*) FROM chunks WHERE row IN (SELECT row FROM dead)",
    "dead rows that were never there": f"SELECT count(*) FROM dead WHERE row < 0 OR row >= {_ROWS}",
    "chunks without a vector": f"SELECT count(*) FROM chunks WHERE row < 0 OR row >= {_ROWS}",
    "chunks without a document": "SELECT count(*) FROM chunks WHERE document NOT IN (SELECT id FROM documents)",
    "documents without a file": "SELECT count(*) FROM documents WHERE file NOT IN (SELECT id FROM files)",
    "documents of files that could not be read": "SELECT count(*) FROM documents WHERE file IN "
    "(SELECT id FROM files WHERE unreadable NOTNULL)",
    "chunks that end outside their document": "SELECT count(*) FROM chunks c JOIN documents d "
    "ON d.id = c.document WHERE c.start < 0 OR c.start >= c.stop OR c.stop > length(d.text)",
    "chunks whose words are not indexed": "SELECT count(*) FROM chunks WHERE id NOT IN (SELECT id FROM words_docsize)",
    "chunks that are gone and whose words are not": "SELECT count(*) FROM words_docsize "
    "WHERE id NOT IN (SELECT id FROM chunks)",
}
"""What must not be -> how often it is (what is below 0 is as wrong)."""


def check(db: sqlite3.Connection, snapshot: Snapshot) -> list[str]:
    """Look at every byte of vectors, texts and places; what is wrong, a line each.

    What FTS5 keeps of the words is looked at only as far as SQLite does it by itself: whether each chunk has words, not
    whether they are its own.

    Args:
        db: The database, in the transaction of the snapshot.
        snapshot: What is checked.

    Raises:
        IndexFormatError: It is so damaged that nobody can look further.
        FileNotFoundError: A vector file is not there.
    """
    problems = [line for (line,) in db.execute("PRAGMA integrity_check(10)") if line != "ok"]
    for first, count, digest in db.execute("SELECT first, count, digest FROM appends ORDER BY first"):
        try:
            are_numbers = isinstance(first, int) and isinstance(count, int)
            if not are_numbers or snapshot.shards.digest(first, count) != digest:
                problems.append(f"{count} vectors from {first} on are not as they were written")
        except IndexFormatError as error:
            problems.append(error.message)
    for what, question in QUESTIONS.items():
        (number,) = db.execute(question).fetchone()
        if number:
            problems.append(f"{abs(number)} {what}")
    return problems + _altered(db, snapshot)


def _altered(db: sqlite3.Connection, snapshot: Snapshot) -> list[str]:
    problems, others = [], 0
    documents = db.execute(
        "SELECT d.id, d.content, f.path, d.key, d.digest, d.title, d.text "
        "FROM documents d JOIN files f ON f.id = d.file ORDER BY d.id"
    )
    for document, content, *texts in documents:
        chunks = "SELECT row, start, stop, line, byte FROM chunks WHERE document = ? ORDER BY id"
        if not _is_as_written(snapshot, content, texts, db.execute(chunks, (document,)).fetchall()):
            path, key = texts[:2]
            if len(problems) < MOST_NAMED:
                problems.append(f"document {key!r} of {path!r} is not as it was written")
            else:
                others += 1
    return problems + ([f"{others} more documents are not as they were written"] if others else [])


def _is_as_written(snapshot: Snapshot, content: str, texts: list, chunks: list[tuple]) -> bool:
    if not all(isinstance(text, str) for text in texts):
        return False
    try:
        vectors_NE = snapshot.vectors(row for row, *_ in chunks)
    except IndexFormatError:  # there are no such vectors
        return False
    return content_digest(texts, (chunk[1:] for chunk in chunks), vectors_NE) == content
