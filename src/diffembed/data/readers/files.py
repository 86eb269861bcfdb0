"""Rows of a file, whatever it is written as: JSON lines, comma- or tab-separated values, Parquet, plain lines."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffembed.data.sources import MOST_LINE_BYTES, Row, read_lines, read_rows
from diffembed.errors import DataError, MissingExtraError

PACKED = (".gz", ".xz")
TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
"""Suffixes of files that are read from a folder; all but the last may be packed."""
KINDS = (*TABLES, ".json", ".txt")
"""Suffixes of files that are read when named. A folder's .json files describe it, and its .txt files explain it."""
PARQUET_ROWS = 256
"""Held at a time."""
EXTRA_CELLS = "\0cells"
"""Key of what a line of a table has beyond its header."""
_NUMBERS = ("score", "scores", "label")


def kind_of(path: Path) -> str:
    """Suffix of a file, without that of its packing; empty for a packed Parquet file, which nobody writes."""
    suffix = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    return "" if suffix == ".parquet" and path.suffix in PACKED else suffix.lower()


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, of which only what is being read is in memory.

    In tables an empty cell is an absent one, and the columns `score`, `scores` and `label` are read as JSON. Values
    that tabs separate are taken literally: a quote in them is a quote.

    Raises:
        DataError: The file cannot be read, is damaged or of no known kind; names it, and the line.
        MissingExtraError: A Parquet file, and pyarrow is not installed.
    """
    kind = kind_of(path)
    if kind in (".jsonl", ".json"):
        return read_rows(path)
    if kind == ".csv":
        return _read_table(path, delimiter=",")
    if kind == ".tsv":
        return _read_table(path, delimiter="\t", quoting=csv.QUOTE_NONE)
    if kind == ".txt":
        return (Row({"text": line}, place) for place, line in read_lines(path))
    if kind == ".parquet":
        return _read_parquet(path)
    raise DataError(f"{path} is of no kind that is read", hint=f"name a file that ends in {', '.join(KINDS)}")


def _read_table(path: Path, **dialect: Any) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), MOST_LINE_BYTES))
    reader = csv.reader((line for _, line in read_lines(path, as_they_are=True)), strict=True, **dialect)
    header: list[str] | None = None
    while True:
        place = f"{path}:{reader.line_num + 1}"  # where the row begins: a quoted cell may go over several lines
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{place} is no row of a table: {error}", hint="see to its quotes") from None
        if cells is None:
            return
        if header is None:
            header = _header(cells, place)
        elif cells:
            values: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
            values |= {name: _number(values[name]) for name in _NUMBERS if name in values}
            if len(cells) > len(header):
                values[EXTRA_CELLS] = cells[len(header) :]
            yield Row(values, place)


def _header(cells: list[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names or len(set(names)) < len(names):
        raise DataError(
            f"{place}: a column has no name, or two have the same: {names}", hint="begin with a line of column names"
        )
    return names


def _number(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(
            f"{path} is a Parquet file, which needs pyarrow", hint="pip install 'diffembed[parquet]'"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{path}:{number}")
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is damaged after row {number}: {reason}", hint="fetch the file again") from None
