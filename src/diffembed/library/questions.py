"""What an index can be asked: questions, and which files they are about."""

import os
from collections.abc import Iterable

from diffembed.errors import ConfigError, DataError
from diffembed.library.arguments import Name
from diffembed.library.paths import absolute
from diffembed.library.reading.document import whole_characters

LONGEST_QUERY = 100_000
"""Characters: a long article. A question goes through model and words as a whole."""


def check_query(query: str) -> None:
    """Refuse a question that is none.

    Raises:
        DataError: It is blank, too long, no string, or no Unicode text.
    """
    if not isinstance(query, str) or not query.strip():
        raise DataError(f"the query {query!r} is empty", hint='ask something, for example "read a csv file"')
    if len(query) > LONGEST_QUERY:
        raise DataError(
            f"the query has {len(query):,} characters, and may have {LONGEST_QUERY:,}", hint="ask with a part of it"
        )
    if whole_characters(query) != query:
        raise DataError(
            f"the query {query!r} holds half a surrogate pair, which is no Unicode text",
            hint="decode its source with errors='replace'",
        )


def path_pattern(where: Name) -> str:
    """A pattern as a person writes it, as it is compared with the ends of paths: `./notes/` is `notes`.

    Args:
        where: The end of a path or a folder, in which `*`, `?` and `[a-z]` may stand for others. `.` and what begins
            with `..` are seen from the current folder.

    Raises:
        ConfigError: It is no path, or no Unicode text.
    """
    if not isinstance(where, str | os.PathLike) or not isinstance(os.fspath(where), str):
        raise ConfigError(f"where is {where!r}, which is no path", hint="for example where='notes/*.md'")
    where = os.fspath(where)
    if whole_characters(where) != where:
        raise ConfigError(f"where is {where!r}, which is no Unicode text", hint="no such path is in any index")
    if not where.strip("/"):
        return ""  # everything lies there
    where = os.path.normpath(where)
    return absolute(where) if where in (".", "..") or where.startswith("../") else where


def with_own_brackets(pattern: str, paths: Iterable[str]) -> str:
    """The pattern, whose brackets stand for themselves if one of the paths is called so or lies in such a folder."""
    if "[" in pattern and any(f"/{pattern}/" in f"/{path}/" for path in paths):
        return pattern.replace("[", "[[]")
    return pattern
