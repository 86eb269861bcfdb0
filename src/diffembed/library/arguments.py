"""Arguments that are easily mistaken for others."""

import os
from collections.abc import Iterable
from typing import TypeVar

from diffembed.errors import ConfigError

Name = str | os.PathLike[str]
"""A path, or whatever else names a file, a folder or a model."""

T = TypeVar("T")


def several(what: str, values: Iterable[T]) -> list[T]:
    """The values of an argument that takes several: a string would be taken letter by letter.

    Args:
        what: Name of the argument.
        values: As they were given.

    Raises:
        ConfigError: It is a single string or path, or nothing that has values.
    """
    if isinstance(values, str | bytes | os.PathLike) or not isinstance(values, Iterable):
        raise ConfigError(f"{what} takes a list, got {values!r}", hint=f"for a single one: {what}=[{values!r}]")
    return list(values)


def several_paths(values: Iterable[Name]) -> list[str]:
    """The paths of an argument that takes several.

    Raises:
        ConfigError: It is a single path, or one of them is empty: an unset variable of a script, not the folder that
            one is in.
    """
    paths = [os.fspath(value) for value in several("paths", values)]
    for path in paths:
        if not isinstance(path, str) or not path or "\0" in path:
            raise ConfigError(f"{path!r} is no path", hint="name a file or a folder; . is the one you are in")
    return paths
