"""A tiny model in a folder, and trees of files to be indexed."""

import gzip
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed import Embedder
from diffembed.library.account import Account
from diffembed.library.index import Index
from diffembed.library.reading.read import is_rows, read_document
from diffembed.library.reading.rows import Rows
from diffembed.library.update import index_files
from tests.tiny_embedders import SENTENCE, TOKENIZER, make_backbone

LIMIT = 300
CHUNK = 24
"""Tokens: the texts here have a few chunks each."""

Bring = Callable[..., Account]
Contents = list[tuple[str, str, int, int, bytes]]


def save_model(folder: Path, max_tokens: int = LIMIT) -> Path:
    """A model that takes the usual chunk size, in a folder."""
    backbone = make_backbone(max_positions=LIMIT)
    Embedder.from_backbone(backbone, TOKENIZER, max_tokens=max_tokens, dtype="float32", device="cpu").save(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def embedder(model: Path) -> Embedder:
    return Embedder.load(model, "cpu", "float32")


def rows(*values: Mapping[str, object]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


TREE: dict[str, bytes] = {
    "notes.txt": f"Feed the cat at noon.\n\n{SENTENCE}.\n\nThe plumber comes on Friday, and the cat hides.\n".encode(),
    "guide.md": f"# Guide\n\nHow to begin.\n\n## Setup\n\n{SENTENCE}.\n\n## Copies\n\nIt copies a folder.\n".encode(),
    "paper.rst": b"Paper\n=====\n\nAbout zebras and why they are striped.\n\nMethods\n-------\n\nWe watched zebras.\n",
    "code.py": b'"""Sum."""\n\n\ndef add(a, b):\n    """Add numbers."""\n    return a + b\n\n\nclass A:\n    pass\n',
    "rows.jsonl": rows(
        {"_id": "one", "title": "First", "text": "a row about wizards and their boxes"},
        {"_id": 2, "text": SENTENCE},
        {"_id": "blank", "text": ""},
    ),
    "deep/er/more.jsonl.gz": gzip.compress(rows({"_id": "one", "text": "a packed row"}), mtime=0),
    "deep/odd [old] name.txt": "e\u0301 \u65e5\u672c\u8a9e \U0001f642 odd things, and a cat".encode(),
    "deep/long.txt": " ".join(f"number {n}, {SENTENCE}." for n in range(12)).encode(),
}
"""Of each kind that is read; `long.txt` is over the model's limit."""


ROWS = [{"_id": f"row {n}", "title": f"T{n}", "text": f"the text of row {n}, {SENTENCE}"} for n in range(6)]
"""Of a file that holds rows."""


def write(root: Path, files: Mapping[str, bytes | None]) -> Path:
    """Write files below a folder; None takes one away."""
    for name, data in files.items():
        path = root / name
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def contents(index: Index) -> Contents:
    """All that is searched, in a fixed order."""
    return index.read(lambda snapshot: snapshot.contents())


def contents_of(folder: Path) -> Contents:
    with closing(Index.open(folder)) as index:
        assert index.check() == []
        return contents(index)


def expected(root: Path, embedder: Embedder, *, chunk_tokens: int = CHUNK, contextual: bool = True) -> Contents:
    """What an index of a tree in float16 must hold, straight from the readers and the embedder."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        documents = list(Rows(path)) if is_rows(path) else [read_document(path, path.read_bytes())]
        for document in documents:
            chunks = embedder.embed_chunks(
                document.text, chunk_tokens, headings=document.headings, contextual=contextual
            )
            for (start, stop), vector in zip(chunks.spans, chunks.vectors, strict=True):
                if document.text[start:stop].strip():
                    stored = vector.astype(np.float16).astype(np.float32).tobytes()
                    found.append((str(path), document.id, start, stop, stored))
    return sorted(found)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(tmp_path / "tree", TREE)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def bring(to: Path, tree: Path, embedder: Embedder) -> Bring:
    """Index the tree, or other paths."""

    def run(*paths: Path, **options: Any) -> Account:
        settings = {} if to.exists() else {"chunk_tokens": CHUNK}
        return index_files(paths or [tree], to, model=embedder, **(settings | options))

    return run


def names(to: Path) -> set[str]:
    return {Path(row[0]).name for row in contents_of(to)}
