"""What an index is made of, and how far it has come: what its table `settings` says."""

import re
import secrets
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffembed.errors import IndexFormatError
from diffembed.index.failures import damaged
from diffembed.index.folder import VECTORS
from diffembed.index.shards import PRECISIONS, TOKEN, Precision, Shards

FORMAT = 3
MOST_DIMS = 65_536
"""Of a vector; more stand in a damaged index alone."""

SCHEMA = "CREATE TABLE settings (key TEXT PRIMARY KEY, value) WITHOUT ROWID"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an index is made of; fixed when it is created."""

    model: str
    """Name or absolute path of the model."""
    fingerprint: str
    """Of the model; vectors of another one are refused."""
    dtype: str
    """In which the model made the vectors: `float32` or `bfloat16`."""
    dims: int
    precision: Precision
    chunk_tokens: int
    contextual: bool
    """Whether the chunks of a document saw all of it."""


@dataclass(frozen=True, slots=True)
class State:
    """What one commit says of the vectors."""

    num_rows: int
    commits: int
    """How many changed the index so far: at the same number it says the same."""
    shards: Shards


def write_settings(db: sqlite3.Connection, settings: Settings) -> None:
    """Fill the table of a new index."""
    # The token sets the vector files of this index apart from those of one that was in the folder before.
    own = {"format": FORMAT, "token": secrets.token_hex(4), "rows": 0, "generation": 1, "commits": 0}
    db.executemany("INSERT INTO settings VALUES (?, ?)", list({**asdict(settings), **own}.items()))


def expect_format(db: sqlite3.Connection, folder: Path) -> None:
    """See that the index in a folder has the format of this version; `IndexFormatError` if not."""
    (found,) = db.execute("SELECT value FROM settings WHERE key = 'format'").fetchone() or (None,)
    if found != FORMAT:
        raise IndexFormatError(
            f"the index in {folder} has format {found}, this version reads {FORMAT}",
            hint="index again with this version, into a new folder",
        )


def read_settings(db: sqlite3.Connection, folder: Path) -> Settings:
    """What the index in a folder is made of.

    Raises:
        IndexFormatError: It is of another format, or says what can't be.
    """
    expect_format(db, folder)
    values: dict[str, Any] = dict(db.execute("SELECT key, value FROM settings"))
    kinds = {name: str for name in ("model", "fingerprint", "dtype", "precision")}
    kinds |= {name: int for name in ("dims", "chunk_tokens", "contextual")}
    for name, kind in kinds.items():
        if not isinstance(values.get(name), kind):
            raise damaged(folder, f"its setting {name!r} is {values.get(name)!r}")
    if not 1 <= values["dims"] <= MOST_DIMS or values["precision"] not in PRECISIONS:
        raise damaged(folder, f"its vectors are {values['dims']} numbers of {values['precision']!r}")
    chosen: dict[str, Any] = {name: values[name] for name in kinds}
    return Settings(**{**chosen, "contextual": bool(values["contextual"])})


def read_state(db: sqlite3.Connection, folder: Path, settings: Settings) -> State:
    """Which vectors the current commit knows, and the files that they are in.

    Raises:
        IndexFormatError: It doesn't say.
    """
    names = ("rows", "generation", "commits", "token")
    values = dict(db.execute(f"SELECT key, value FROM settings WHERE key IN {names}"))
    numbers = [values.get(name) for name in names[:3]]
    token = values.get("token")
    if (
        not all(isinstance(number, int) and number >= 0 for number in numbers)
        or not isinstance(token, str)
        or not re.fullmatch(TOKEN, token)
    ):
        raise damaged(folder, "it does not say which vectors are its own")
    shards = Shards(folder / VECTORS, token, values["generation"], settings.dims, settings.precision)
    return State(values["rows"], values["commits"], shards)
