"""Read training data of any layout as examples, and say which files they come from."""

import difflib
import os
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from diffembed.data.examples import Example
from diffembed.data.readers.beir import beir_parts, is_beir
from diffembed.data.readers.e5 import e5_parts, is_e5
from diffembed.data.readers.folders import file_parts, source_parts
from diffembed.data.readers.layouts import ROW_LAYOUTS
from diffembed.data.readers.parts import Part, Reading, read_parts
from diffembed.data.readers.places import Place, locate
from diffembed.data.sources import has_sources
from diffembed.errors import ConfigError, DataError
from diffembed.files import file_digest

FOLDER_LAYOUTS = ("beir", "e5", "e5-all", "sources")
LAYOUTS = (*FOLDER_LAYOUTS, *ROW_LAYOUTS)
"""What `layout` may be."""
HUB_KEY = "hub"
"""Of `describe_data`: what the data is called on the hub, with its commit."""


def read_examples(
    data: str | os.PathLike[str],
    *,
    layout: str | None = None,
    split: str = "train",
    on_bad_row: Literal["error", "skip"] = "error",
    skipped: Counter[str] | None = None,
) -> Iterator[Example]:
    """Read training data in any of the layouts of docs/data.md.

    Files are read as the examples are taken, and never held: a hundred million rows need no more memory than ten
    thousand. (`problems.jsonl` of our own sources is held, as it is answered from itself.)

    Args:
        data: A file, a folder, or a data set of the hub, `owner/name@COMMIT`, which is fetched.
        layout: One of `LAYOUTS`; None: found by which files there are and which keys their first rows have.
        split: Of a BEIR folder, or of files that are named after their split.
        on_bad_row: `error`, or `skip` to pass over rows that make no example. A damaged file, a line that is no JSON
            and a source of which no row can be used are errors all the same.
        skipped: Gets the number of rows that were passed over for each reason, once they have been.

    Raises:
        ConfigError: An argument is none of what it may be.
        DataError: At once: there is no data, or it is of no known layout. While reading: a row is bad or a file is
            damaged; names file and line, and the value.
        MissingExtraError: pyarrow or the hub's client is needed and not installed.
    """
    if on_bad_row not in ("error", "skip"):
        raise ConfigError(f"on_bad_row must be error or skip, got {on_bad_row!r}", hint="leave it out for error")
    parts = _parts(locate(data), layout, split)
    counts = Counter() if skipped is None else skipped
    return read_parts(parts, Reading(counts if on_bad_row == "skip" else None))


def describe_data(data: str | os.PathLike[str], *, layout: str | None = None, split: str = "train") -> dict[str, str]:
    """What examples come from, for the record of a run: each file's path below the data and its SHA-256.

    Args:
        data: As for `read_examples`.
        layout: As for `read_examples`.
        split: As for `read_examples`.

    Returns:
        Path -> SHA-256; and `hub` -> id and commit, of data that came from there.

    Raises:
        ConfigError: See `read_examples`.
        DataError: See `read_examples`; or a file cannot be read.
        MissingExtraError: See `read_examples`.
    """
    place = locate(data)
    root = place.path if place.path.is_dir() else place.path.parent
    facts = {HUB_KEY: place.hub} if place.hub else {}
    for path in sorted({path for part in _parts(place, layout, split) for path in part.files}):
        try:
            facts[path.relative_to(root).as_posix()] = file_digest(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error}", hint="check its permissions") from None
    return facts


def _parts(place: Place, layout: str | None, split: str) -> list[Part]:
    if layout is not None and layout not in LAYOUTS:
        close = difflib.get_close_matches(str(layout), LAYOUTS, n=1)
        raise ConfigError(
            f"there is no layout {layout!r}",
            hint=f"did you mean {close[0]}?" if close else f"one of {', '.join(LAYOUTS)}",
        )
    row_layout = ROW_LAYOUTS.get(layout or "")
    try:
        if not place.path.is_dir():
            if layout in FOLDER_LAYOUTS:
                raise DataError(
                    f"{place.path} is a file, and the layout {layout} is one of folders", hint="name the folder"
                )
            return file_parts(place.path, place.name, row_layout, split)
        if row_layout is None:
            if layout == "beir" or (layout is None and is_beir(place.path)):
                return beir_parts(place.path, place.name, split)
            if layout in ("e5", "e5-all") or (layout is None and is_e5(place.path)):
                return e5_parts(place.path, whole=layout == "e5-all")
            if layout == "sources" or has_sources(place.path):
                return source_parts(place.path, place.name)
        return file_parts(place.path, place.name, row_layout, split)
    except OSError as error:
        raise DataError(f"cannot read {place.path}: {error}", hint="check its permissions") from None
