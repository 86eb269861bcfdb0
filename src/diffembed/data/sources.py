"""Rows of text on disk: JSON lines, plain or compressed (.gz, .xz), in folders of sources.

A data folder holds one sub-folder per source, or is one itself. A source has `docs.jsonl[.gz|.xz]` with rows
`{id, title, text}` or `{id, title, sections: [{h, sub, text}]}`, or `pairs.jsonl[.gz|.xz]` with rows `{q, p, kind}`,
or both.
"""

import gzip
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from diffembed.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz")


@dataclass(frozen=True, slots=True)
class Source:
    """A named folder with documents, pairs or both."""

    name: str
    docs: Path | None
    pairs: Path | None


def find_sources(folder: Path | str) -> list[Source]:
    """List the sources below a data folder, by name.

    Raises:
        DataError: The folder is missing or holds no source.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", hint="give --data a folder of sources (docs.jsonl, pairs.jsonl)")
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    sources = [Source(path.name, _pick(path, "docs"), _pick(path, "pairs")) for path in candidates]
    sources = [source for source in sources if source.docs or source.pairs]
    if not sources:
        raise DataError(
            f"no docs.jsonl or pairs.jsonl in {folder} or its sub-folders", hint="see the data page in docs/"
        )
    return sources


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a JSON-lines file; blank lines are skipped.

    Raises:
        DataError: The file cannot be read or decompressed, or a line is not a JSON object; names file and line.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number} is not a JSON object", hint="one JSON object a line")
                yield row
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}", hint="check the path and that the file is whole") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}:{number or 1} is not JSON: {error}", hint="one JSON object a line, in UTF-8") from None
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged after line {number}: {error}", hint="fetch the file again") from None


def text_of(row: dict[str, Any], key: str, path: Path) -> str:
    """A text field of a row.

    Raises:
        DataError: The field is missing or not a string.
    """
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"a row of {path} has no text `{key}`", hint=f"every row needs a string `{key}`")
    return value


def document_text(row: dict[str, Any], path: Path) -> str:
    """Title, headings and text of a document row as one text."""
    parts = [row.get("title") or ""]
    if "sections" in row:
        for section in row["sections"]:
            heading = " ".join(x for x in (section.get("h"), section.get("sub")) if x)
            parts += [heading, text_of(section, "text", path)]
    else:
        parts.append(text_of(row, "text", path))
    return "\n".join(part for part in parts if part)


def iter_texts(source: Source) -> Iterator[str]:
    """Every text of a source, for pre-training: its documents, or its pairs where it has no documents."""
    if source.docs:
        for row in read_rows(source.docs):
            yield document_text(row, source.docs)
    elif source.pairs:
        for row in read_rows(source.pairs):
            yield f"{text_of(row, 'q', source.pairs)}\n{text_of(row, 'p', source.pairs)}"


def _pick(folder: Path, stem: str) -> Path | None:
    return next((folder / (stem + suffix) for suffix in SUFFIXES if (folder / (stem + suffix)).is_file()), None)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
