"""Folders of our own sources, and of any files with rows."""

import re
from collections.abc import Iterator
from pathlib import Path

from diffembed.data import pairs
from diffembed.data.examples import Example
from diffembed.data.readers.files import PACKED, TABLES, kind_of, read_file
from diffembed.data.readers.layouts import ROW_LAYOUTS, RowLayout, layout_of
from diffembed.data.readers.parts import Part, Reading
from diffembed.data.sources import Document, Source, find_sources, read_rows
from diffembed.errors import DataError

SPLITS = ("train", "dev", "validation", "valid", "val", "test", "eval")
_SHARD = re.compile(r"[-_]\d+[-_]of[-_]\d+$")


def source_parts(folder: Path, name: str) -> list[Part]:
    """Our own folders of sources (see `diffembed.data.pairs`).

    Raises:
        DataError: There is no source.
    """
    return [
        Part(
            source.name,
            tuple(path for path in (source.pairs or source.docs, source.problems, source.definitions) if path),
            lambda reading, source=source: _of_source(source, reading),
        )
        for source in find_sources(folder, name)
    ]


def file_parts(root: Path, name: str, layout: RowLayout | None, split: str) -> list[Part]:
    """Every file below a folder that holds rows, or a single one; each file may be of another layout.

    A file is named after its split (`train.jsonl`, `data/train-00000-of-00004.parquet`, `train/0000.parquet`), and then
    its source is the folder; or it is a source of that name itself. Shards of one name are one source.

    Args:
        root: A folder, or a file.
        name: Of the folder, or of that which the file lies in.
        layout: None: the one that fits.
        split: Files of others are left out, unless the file is named by itself.

    Raises:
        DataError: There is no file, or none of this split; or a file is empty or of no known layout.
    """
    if root.is_file():
        return [_file_part(_source_of(Path(root.name), name), [root], layout)]
    kinds = (*TABLES, ".txt") if layout is not None and layout.name == "sentences" else TABLES
    found = {path.relative_to(root): path for path in sorted(root.rglob("*")) if kind_of(path) in kinds}
    found = {below: path for below, path in found.items() if not _is_hidden(below) and path.is_file()}
    if not found:
        raise DataError(f"no file in {root} holds rows", hint=f"files that are read end in {', '.join(kinds)}")
    splits = {below: _split_of(below) for below in found}
    groups: dict[str, list[Path]] = {}
    for below, path in found.items():
        if splits[below] in (None, split):
            groups.setdefault(_source_of(below, name), []).append(path)
    if split not in splits.values() and any(splits.values()):
        there = ", ".join(sorted({each for each in splits.values() if each}))
        raise DataError(f"{root} has no split {split}", hint=f"it has {there}: name one of these")
    return [_file_part(source, paths, layout) for source, paths in groups.items()]


def _file_part(source: str, paths: list[Path], layout: RowLayout | None) -> Part:
    layouts = [layout or layout_of(path) for path in paths]

    def read(reading: Reading) -> Iterator[Example]:
        for path, its_layout in zip(paths, layouts, strict=True):
            yield from reading.each(read_file(path), lambda row, its=its_layout: [its.example(row, source)])

    return Part(source, tuple(paths), read)


def _of_source(source: Source, reading: Reading) -> Iterator[Example]:
    if source.pairs:
        ready = ROW_LAYOUTS["pairs"]
        yield from reading.each(read_rows(source.pairs), lambda row: [ready.example(row, source.name)])
    elif source.docs:
        rows = read_rows(source.docs)
        yield from reading.each(
            rows, lambda row: [pair.example() for pair in pairs.document_pairs(Document.from_row(row), source.name)]
        )
    if source.problems and source.definitions:
        problems = reading.each(read_rows(source.problems), lambda row: [pairs.Problem.from_row(row)])
        definitions = reading.each(read_rows(source.definitions), lambda row: [pairs.definition_of(row)])
        yield from (pair.example() for pair in pairs.concept_pairs(problems, definitions, source.name))


def _stem(path: Path) -> str:
    """Name of a file without what says how it is written, and without the number of a shard."""
    name = path.stem if path.suffix in PACKED else path.name
    return _SHARD.sub("", Path(name).stem)


def _split_of(below: Path) -> str | None:
    """The split that a file's name, or else that of the folder it lies in, says it is of; None: of none."""
    return next((name for name in (_stem(below), below.parent.name) if name in SPLITS), None)


def _source_of(below: Path, name: str) -> str:
    folders = [part for part in below.parent.parts if part not in (*SPLITS, "data")]
    stem = _stem(below)
    if _split_of(below) is None:
        folders.append(stem)
    return "/".join(folders) or name


def _is_hidden(below: Path) -> bool:
    return any(part.startswith(".") for part in below.parts)
