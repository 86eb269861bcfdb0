"""What every reader gives, and how it says that a file can't be read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from diffembed.errors import DataError

LONGEST_COMPLAINT = 100
"""Characters of a foreign message, or of data, that are worth a line in the user's list."""
LONGEST_TEXT = 16_000_000
"""Characters of a document: some ten long novels. It bounds the memory that reading, embedding and storing take."""
NO_TEXT = "no text in it"
"""The reason of a file that is sound and says nothing, such as an empty `__init__.py`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text to be indexed, and where it comes from."""

    id: str
    """The `_id` of a JSON row; the path for a file that is one document."""
    title: str = ""
    """May be empty."""
    text: str
    """What is embedded and searched; chunk offsets count its characters."""
    headings: tuple[int, ...] = ()
    """Character offsets in `text` where a section (heading, page, definition) begins, ascending."""


class Unreadable(DataError):
    """A file that gives no document.

    Args:
        reason: In a few words, for a list of files that were left out.
        hint: What to do about it.
    """

    is_for_now: bool = False
    """Whether the file may be as sound as before: an index keeps what it has of it."""
    digest: str | None = None
    """SHA-256 of the content that gives no document; None where none was read: another time there may be some."""

    def __init__(self, reason: str, *, hint: str = "leave the file out, or save it as UTF-8 text") -> None:
        super().__init__(reason, hint=hint)

    @property
    def reason(self) -> str:
        return self.message


class OutOfReach(Unreadable):
    """A file that can't be looked at for the moment: no permission, no memory, a failing disk, a lost network."""

    is_for_now = True


class MissingParser(Unreadable):
    """A file of a kind that needs the optional packages of the extra `docs`."""

    is_for_now = True

    def __init__(self) -> None:
        super().__init__("needs the extra `docs` (pip install 'diffembed[docs]')", hint="pip install 'diffembed[docs]'")


@contextmanager
def refusing(kind: str) -> Iterator[None]:
    """Turn whatever a foreign parser raises on a broken file into `Unreadable`, and keep its warnings quiet.

    Args:
        kind: What the file should have been, for example PDF.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Unreadable:
        raise
    except MemoryError:
        raise _no_memory() from None
    except Exception as error:  # parsers raise what they like: KeyError, RecursionError
        reason = f"broken {kind}: {shortened(str(error)) or type(error).__name__}"
        raise Unreadable(reason, hint="save it anew with the program that made it") from error


@contextmanager
def surviving() -> Iterator[None]:
    """Turn what nobody expects while a file is read into `OutOfReach`: it shall not end a run over all the others."""
    try:
        yield
    except Unreadable:
        raise
    except MemoryError:
        raise _no_memory() from None
    except Exception as error:
        reason = f"internal error: {type(error).__name__}: {shortened(str(error))}"
        raise OutOfReach(reason, hint="report it: this is a bug in diffembed") from error


def shortened(words: str) -> str:
    """As much of a message, or of somebody's data, as is worth a line: printable, and not too long."""
    printable = "".join(c if c.isprintable() else " " for c in words[: 4 * LONGEST_COMPLAINT])
    return " ".join(printable.split())[:LONGEST_COMPLAINT]


def check_length(num_characters: int) -> None:
    """Refuse a text of so many characters if that is over `LONGEST_TEXT`.

    Raises:
        Unreadable: It is.
    """
    if num_characters > LONGEST_TEXT:
        raise Unreadable(
            f"over {LONGEST_TEXT / 1_000_000:g} million characters", hint="cut it into several files or documents"
        )


def whole_characters(text: str) -> str:
    """Join the halves of surrogate pairs, and put U+FFFD for a half that stands alone: no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _no_memory() -> OutOfReach:
    return OutOfReach("not enough memory to read it", hint="close other programs, or leave the file out")
