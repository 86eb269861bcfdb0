"""Where chunks stand, and that a changed letter shows."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.index.places import content_digest, cut, places

TEXTS = st.text(st.sampled_from("ab é日🙂\n\r\u2028"), min_size=1, max_size=40)


@given(text=TEXTS, data=st.data())
def test_places_are_counted_and_read_back(text: str, data: st.DataObject) -> None:
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
    spans = [(start, stop) for start, stop in data.draw(st.lists(ends, max_size=5)) if start < stop]
    found = places(text, spans)
    expected = [(start, stop, text[:start].count("\n") + 1, len(text[:start].encode())) for start, stop in spans]
    assert found == expected
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, text TEXT)")
        db.execute("INSERT INTO documents VALUES (1, ?)", (text,))
        with db.blobopen("documents", "text", 1, readonly=True) as blob:
            assert [cut(blob, place) for place in found] == [text[start:stop] for start, stop in spans]
            for start, stop, line, byte in found:
                beyond = len(text) + 1 + start
                assert cut(blob, (start, beyond, line, byte)) is None
                assert cut(blob, (start, stop, line, len(text.encode()) + 1)) is None
            assert cut(blob, (0, 2**63 - 1, 1, 0)) is None and cut(blob, (2, 2, 1, 0)) is None


VECTORS = np.array([[1, 0], [0, 1]], np.float32)
WRITTEN = (("/a.txt", "key", "title", "text"), ((0, 2, 1, 0), (2, 4, 1, 2)), VECTORS)
OTHERS = [
    (("/a.txt", "key", "titl", "etext"), *WRITTEN[1:]),
    (("/a.txt", "key", "title", "texT"), *WRITTEN[1:]),
    (WRITTEN[0], WRITTEN[1][:1], VECTORS),
    (WRITTEN[0], ((0, 2, 1, 0), (2, 4, 1, 3)), VECTORS),
    (WRITTEN[0], (WRITTEN[1][1], WRITTEN[1][0]), VECTORS),
    ((*WRITTEN[0], ""), *WRITTEN[1:]),
    (*WRITTEN[:2], VECTORS[::-1]),
]


@pytest.mark.parametrize("other", OTHERS)
def test_the_digest_tells_contents_apart(other: tuple) -> None:
    texts, found, vectors = WRITTEN
    assert content_digest(*WRITTEN) == content_digest(iter(texts), iter(found), vectors) != content_digest(*other)
