"""What a row says under its keys; every message names the row's place, the key and what was found there."""

import difflib
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from diffembed.data.examples import Example
from diffembed.data.sources import Row
from diffembed.errors import DataError

KIND = "query->passage"
"""Of examples whose layout says nothing about how the query and its answer are related."""
LOOKS_LIKE = 0.8
"""From this share of equal letters on an unknown key is taken for a misspelt one."""
MOST_SHOWN = 60
"""Letters of a wrong value in a message."""

Keys = tuple[tuple[str, ...], ...]
"""The keys of a layout; those of an inner tuple mean the same."""
NUMBERED = re.compile(r"negative_(\d+)")
"""Keys that sentence-transformers writes for several negatives."""


def text(row: Row, *names: str) -> str:
    """The text under one of several keys that mean the same.

    Raises:
        DataError: None of them is there, or more than one; it is no string, or blank.
    """
    value = maybe_text(row, *names)
    if value is None:
        raise _wrong(row, f"there is no {_or(names)}", hint=f"every row needs {_or(names)}")
    return value


def maybe_text(row: Row, *names: str, may_be_blank: bool = False) -> str | None:
    """As `text`, but None where none of the keys is there."""
    name, value = _pick(row, names)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _wrong(row, f"`{name}` must be a text, got {_shown(value)}", hint="write a string")
    if not value.strip() and not may_be_blank:
        raise _wrong(row, f"`{name}` is blank: {_shown(value)}", hint="leave the row out, or fill it in")
    return value


def texts(row: Row, *names: str) -> tuple[str, ...]:
    """The texts under one of several keys: a list of strings or a single one; empty where none of the keys is there.

    Raises:
        DataError: More than one of the keys is there; it is something else, or a text is blank.
    """
    name, value = _pick(row, names)
    values = [value] if isinstance(value, str) else value
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise _wrong(row, f"`{name}` must be a text or a list of texts, got {_shown(value)}", hint="write strings")
    for each in values:
        if not each.strip():
            raise _wrong(row, f"`{name}` has a blank text: {_shown(each)}", hint="leave it out, or fill it in")
    return tuple(values)


def numbers(row: Row, *names: str) -> tuple[float, ...] | None:
    """The finite numbers under one of several keys: a list or a single one; None where none of the keys is there."""
    name, value = _pick(row, names)
    values = value if isinstance(value, list) else [value]
    if value is None:
        return None
    try:
        found = tuple(float(each) for each in values if isinstance(each, int | float) and not isinstance(each, bool))
    except OverflowError:
        found = ()
    if len(found) != len(values) or not all(map(math.isfinite, found)):
        raise _wrong(row, f"`{name}` must be finite numbers, got {_shown(value)}", hint="write a number or a list")
    return found


def passages(row: Row, name: str) -> tuple[str, ...]:
    """Documents under a key, a list of objects {title, text}: of each its title and text, joined by a space."""
    value = row.values.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise _wrong(row, f"`{name}` must be a list of objects, got {_shown(value)}", hint="they are {title, text}")
    return tuple(document_text(Row(each, f"{row.place}, `{name}` {number}")) for number, each in enumerate(value, 1))


def document_text(row: Row) -> str:
    """Title and text of a document, joined by a space, as BEIR and Tevatron do; at least one of them must be filled.

    Raises:
        DataError: One of them is no text, or both are blank.
    """
    title, body = row.values.get("title"), row.values.get("text")
    for name, value in (("title", title), ("text", body)):
        if value is not None and not isinstance(value, str):
            raise _wrong(row, f"`{name}` must be a text, got {_shown(value)}", hint="write a string")
    joined = f"{title or ''} {body or ''}".strip()
    if not joined:
        raise _wrong(row, "`title` and `text` are blank or missing", hint="leave the document out, or fill it in")
    return joined


def record_id(row: Row, name: str) -> str:
    """What a row is called: a string, or a whole number written as one."""
    value = row.values.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _wrong(row, f"`{name}` must be a string or a whole number, got {_shown(value)}", hint="give it an id")
    return str(value)


def refuse_misspelt(row: Row, known: Keys) -> None:
    """Refuse a row with an unknown key that looks like a known one which the row lacks; others are left alone.

    Raises:
        DataError: There is such a key; the hint names the known one.
    """
    found = misspelt(tuple(row.values), known)
    if found:
        wrong, right = found
        raise _wrong(
            row, f"`{wrong}` is no key, its value {_shown(row.values[wrong])}", hint=f"did you mean `{right}`?"
        )


def example(row: Row, **fields: Any) -> Example:
    """Make the example, and let a complaint name the row.

    Raises:
        DataError: The fields make no example.
    """
    if not fields["positives"]:
        raise _wrong(row, f"there is no positive for {_shown(fields['query'])}", hint="leave the row out, or add one")
    try:
        return Example(**fields)
    except DataError as error:
        raise _wrong(row, error.message, hint=error.hint) from None


@lru_cache(maxsize=256)  # rows of a file mostly have the same keys
def misspelt(given: tuple[str, ...], known: Keys) -> tuple[str, str] | None:
    """The first unknown key that looks like a known one of which no synonym is given, and that one."""
    absent = [name for synonyms in known if not set(synonyms) & set(given) for name in synonyms]
    plain = {_plain(name): name for name in absent}
    all_known = {name for synonyms in known for name in synonyms}
    for name in given:
        if name in all_known or NUMBERED.fullmatch(name) or _plain(name).endswith(("_id", "_ids")):
            continue
        close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=LOOKS_LIKE)
        if close:
            return name, plain[close[0]]
    return None


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _pick(row: Row, names: Sequence[str]) -> tuple[str, Any]:
    """The key that is there, and its value; null counts as absent, as columns of tables have it in every row."""
    given = [name for name in names if row.values.get(name) is not None]
    if len(given) > 1:
        raise _wrong(row, f"`{given[0]}` and `{given[1]}` mean the same", hint="give one of them")
    return (given[0], row.values[given[0]]) if given else (names[0], None)


def _wrong(row: Row, problem: str, *, hint: str) -> DataError:
    return DataError(f"{row.place}: {problem}", hint=hint)


def _or(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:MOST_SHOWN]) + "…" * (len(value) > MOST_SHOWN)
    shown = repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[: MOST_SHOWN - 2]}…{shown[-1]}"
