"""Rows of text on disk: JSON lines, plain or compressed (.gz, .xz), in folders of sources.

A data folder holds one sub-folder per source, or is one itself. A source has one or more of

- `docs.jsonl`: rows `{id, title, text}` or `{id, title, sections: [{h, sub, text}]}`
- `pairs.jsonl`: rows `{q, p, kind}`
- `problems.jsonl` and `definitions.jsonl`: rows `{concept, problem, solution}` and `{concept, definition}`
"""

import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from diffembed.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz")
STEMS = ("docs", "pairs", "problems", "definitions")
"""Of the files of a source."""
MOST_LINE_BYTES = 16_000_000
"""Of a line, unpacked: a small archive can hold one of any length, and once parsed it takes up to thirty times as much.
A long novel has room, also where each of its letters is spelled \\uXXXX."""


@dataclass(frozen=True, slots=True)
class Source:
    """A named folder; None stands for a file that it does not have."""

    name: str
    docs: Path | None
    pairs: Path | None
    problems: Path | None
    definitions: Path | None


@dataclass(frozen=True, slots=True)
class Row:
    """A JSON object of a file, and the place that messages name."""

    values: dict[str, Any]
    place: str

    def text(self, key: str) -> str:
        """A text field.

        Raises:
            DataError: The field is missing or not a string.
        """
        value = self.values.get(key)
        if not isinstance(value, str):
            raise DataError(f"{self.place} has no text `{key}`", hint=f"every row needs a string `{key}`")
        return value

    def filled(self, key: str) -> str:
        """A text field that is not blank.

        Raises:
            DataError: The field is missing, not a string, or blank.
        """
        value = self.text(key)
        if not value.strip():
            raise DataError(f"{self.place}: `{key}` is blank: {value[:60]!r}", hint="mend or remove the row")
        return value


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document; any field may be empty."""

    heading: str
    sub_heading: str
    text: str

    @property
    def name(self) -> str:
        return ": ".join(part for part in (self.heading, self.sub_heading) if part)


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its headings; one without sections has a single one that has no name.

    Attributes:
        title: May be empty.
        sections: In order.
    """

    title: str
    sections: tuple[Section, ...]

    @classmethod
    def from_row(cls, row: Row) -> "Document":
        """Read title and text or sections.

        Raises:
            DataError: A field is of the wrong kind.
        """
        title = row.text("title") if row.values.get("title") is not None else ""
        if "sections" not in row.values:
            return cls(title, (Section("", "", row.text("text")),))
        sections = row.values["sections"]
        if not isinstance(sections, list) or not all(isinstance(section, dict) for section in sections):
            raise DataError(f"{row.place}: `sections` is no list of objects", hint="sections are [{h, sub, text}]")
        return cls(title, tuple(_section(section, row.place) for section in sections))

    @property
    def text(self) -> str:
        """Title, headings and text as one text, a line each."""
        parts = [self.title]
        for section in self.sections:
            parts += [f"{section.heading} {section.sub_heading}".strip(), section.text]
        return "\n".join(part for part in parts if part)


def find_sources(folder: Path | str, name: str | None = None) -> list[Source]:
    """List the sources below a data folder, by name.

    Args:
        folder: Of sources, or one itself.
        name: Of the source that the folder is itself; None: the folder's.

    Raises:
        DataError: The folder is missing or holds no source.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", hint="give --data a folder of sources (docs.jsonl, pairs.jsonl)")
    candidates = _candidates(folder)
    names = [name or folder.resolve().name, *(path.name for path in candidates[1:])]
    sources = [
        Source(name, *(rows_file(path, stem) for stem in STEMS)) for name, path in zip(names, candidates, strict=True)
    ]
    for source in sources:
        if bool(source.problems) != bool(source.definitions):
            raise DataError(
                f"the source {source.name} has only one of problems.jsonl and definitions.jsonl",
                hint="add the other, or remove it",
            )
    sources = [source for source in sources if source.docs or source.pairs or source.problems]
    if not sources:
        raise DataError(
            f"no docs.jsonl or pairs.jsonl in {folder} or its sub-folders", hint="see the data page in docs/"
        )
    return sources


def rows_file(folder: Path, stem: str) -> Path | None:
    """The JSON-lines file of that name in a folder, plain or packed; None: there is none."""
    return next((folder / (stem + suffix) for suffix in SUFFIXES if (folder / (stem + suffix)).is_file()), None)


def has_sources(folder: Path) -> bool:
    """Whether a folder or one of its sub-folders has a file that makes it a source."""
    return any(rows_file(path, stem) for path in _candidates(folder) for stem in STEMS)


def describe_files(folder: Path | str) -> dict[str, str]:
    """SHA-256 of each file that the sources of a data folder are read from, by its path below the folder."""
    digests = {}
    for source in find_sources(folder):
        for path in (source.docs, source.pairs, source.problems, source.definitions):
            if path:
                with path.open("rb") as file:
                    digests[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def read_lines(path: Path, opened: BinaryIO | None = None, *, as_they_are: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (place, line) for each line that is not blank; the place is `file:line`, for messages.

    Args:
        path: The suffix says how it is packed.
        opened: The file, where it is open already; is left open.
        as_they_are: Yield blank lines too, and each line with its end.

    Raises:
        DataError: The file cannot be read or decompressed, is not UTF-8, or has a line over 16 MB; names file and line.
            Caused by an OSError where the system doesn't give the file.
    """
    number = 0
    try:
        with _open(path, opened) as file:
            while line := file.readline(MOST_LINE_BYTES + 1):
                number += 1
                if len(line) > MOST_LINE_BYTES:
                    raise DataError(
                        f"{path}:{number} is longer than {MOST_LINE_BYTES / 1e6:g} MB", hint="write one row a line"
                    )
                if as_they_are or line.strip():
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    yield f"{path}:{number}", text if as_they_are else text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number} is not UTF-8: {error.reason}", hint="save the file as UTF-8") from None
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged after line {number}: {error}", hint="fetch the file again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}", hint="check the path and that the file is whole") from error


def read_rows(path: Path, opened: BinaryIO | None = None) -> Iterator[Row]:
    """Yield the JSON objects of a JSON-lines file; blank lines are skipped.

    Half a surrogate pair, which JSON can spell and no tokenizer takes, becomes a question mark.

    Args:
        path: See `read_lines`.
        opened: See `read_lines`.

    Raises:
        DataError: The file cannot be read, or a line is not a JSON object; names file and line.
    """
    for place, line in read_lines(path, opened):
        yield _parse(line, place)  # held by nobody here: a row can take a lot of memory


def iter_texts(source: Source) -> Iterator[str]:
    """Every text of a source, for pre-training: its documents, or its pairs where it has no documents."""
    if source.docs:
        yield from (Document.from_row(row).text for row in read_rows(source.docs))
        return
    if source.pairs:
        yield from (f"{row.text('q')}\n{row.text('p')}" for row in read_rows(source.pairs))


def _parse(line: str, place: str) -> Row:
    try:
        values = json.loads(line)
        if "\\ud" in line.lower():
            whole = json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")
            del values  # not twice at a time
            values = json.loads(whole)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}", hint="one JSON object a line") from None
    if not isinstance(values, dict):
        raise DataError(f"{place} is not a JSON object but {type(values).__name__}", hint="one JSON object a line")
    return Row(values, place)


def _section(values: dict[str, Any], place: str) -> Section:
    parts = [values.get(key) or "" for key in ("h", "sub")]
    parts.append(values.get("text"))
    for key, part in zip(("h", "sub", "text"), parts, strict=True):
        if not isinstance(part, str):
            raise DataError(f"{place} has a section whose `{key}` is no text", hint="sections are [{h, sub, text}]")
    return Section(*parts)


def _candidates(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]


def _open(path: Path, opened: BinaryIO | None) -> AbstractContextManager[BinaryIO | gzip.GzipFile | lzma.LZMAFile]:
    if path.suffix == ".gz":
        return gzip.open(opened or path)
    if path.suffix == ".xz":
        return lzma.open(opened or path)
    return nullcontext(opened) if opened else path.open("rb")
