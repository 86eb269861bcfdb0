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
