"""Absolute paths, and which of them lie below which."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def absolute(path: "str | os.PathLike[str]") -> str:
    """The path from the root on, without `..`, to where the system goes.

    Above a linked folder is the one that its target lies in. Links after the last `..` are kept as they are written.
    """
    parts = Path(path).parts
    if os.pardir not in parts:
        return os.path.abspath(path)
    rest = parts[::-1].index(os.pardir)
    above = os.path.realpath(os.path.join(*parts[: len(parts) - rest]))
    return os.path.join(above, *parts[len(parts) - rest :])


def ancestors(path: str) -> Iterator[str]:
    """A path, then the folders that it lies in, up to the root of the file system."""
    yield path
    while (parent := os.path.dirname(path)) != path:
        path = parent
        yield path


class Roots:
    """Files and folders; what is asked costs a look at a path's own folders, however many roots there are."""

    def __init__(self, roots: Iterable[str]) -> None:
        self._roots = frozenset(roots)

    def over(self, path: str) -> Iterator[str]:
        """The roots that a path is or lies in, the nearest first."""
        return (each for each in ancestors(path) if each in self._roots)

    def hold(self, path: str) -> bool:
        """Whether a path is one of the roots or lies in one."""
        return next(self.over(path), None) is not None
