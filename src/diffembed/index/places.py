"""Where chunks stand in a document's text, and a digest by which a document that was changed on disk is known."""

import codecs
import hashlib
import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]
Place = tuple[int, int, int, int]
"""First character and the one behind the last, line (from 1) and byte (in UTF-8) where the first stands."""


def places(text: str, spans: Sequence[Span]) -> list[Place]:
    """Find line and byte of each span; in one go through the text where the spans ascend."""
    found: list[Place] = []
    position, line, byte = 0, 1, 0
    for start, stop in spans:
        if start < position:
            position, line, byte = 0, 1, 0
        line += text.count("\n", position, start)
        byte += len(text[position:start].encode())
        position = start
        found.append((start, stop, line, byte))
    return found


def cut(blob: sqlite3.Blob, place: Place) -> str | None:
    """Read a chunk out of a text in the database; None if it isn't there.

    Raises:
        UnicodeDecodeError: The text is none.
    """
    start, stop, _, byte = place
    if not (0 <= start < stop and 0 <= byte <= len(blob)):
        return None
    blob.seek(byte)
    # Of UTF-8, a character has four bytes at most; what is cut through at the end lies behind the chunk.
    data = blob.read(min(4 * (stop - start), len(blob) - byte))
    text = codecs.getincrementaldecoder("utf-8")().decode(data)[: stop - start]
    return text if len(text) == stop - start else None


def content_digest(texts: Iterable[str], found: Iterable[Place], vectors_NE: NDArray[np.float32]) -> str:
    """A digest of all that an index keeps of a document, as written: its texts, its chunks' places and vectors."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))  # so that no letter moves from one to the next unseen
        digest.update(data)
    for place in found:
        digest.update(f"{place}".encode())
    digest.update(vectors_NE.tobytes())
    return digest.hexdigest()
