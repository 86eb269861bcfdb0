"""An answer on a terminal, or as plain text where there is none."""

import os
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from diffembed.demo.answers import WORDS, Answer, Hit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NARROW = 72
"""Terminals with fewer columns show the searches one below the other."""
LEAST_WIDTH = 20
"""Columns that are taken for granted, whatever COLUMNS says: a score, and a few letters of a name."""
GAP = 2
"""Columns between two searches."""


def render(answer: Answer, console: "Console | None" = None) -> None:
    """Show an answer: the searches side by side, or one below the other where the terminal is narrow.

    Args:
        answer: What was found.
        console: Where to; stdout when absent, 100 columns wide where that is no terminal and COLUMNS isn't set.
    """
    from rich.console import Console
    from rich.text import Text

    if console is None:
        is_sized = sys.stdout.isatty() or "COLUMNS" in os.environ
        console = Console(width=None if is_sized else 100)
    if console.width < LEAST_WIDTH:
        console.width = LEAST_WIDTH
    is_narrow = console.width < NARROW
    width = console.width if is_narrow else (console.width - GAP * (len(WORDS) - 1)) // len(WORDS)
    columns = [
        [[Text(f"{mode}: {words}", style="bold cyan")], *_cells(answer.hits[mode], width)]
        for mode, words in WORDS.items()
    ]
    rows = [[cell] for column in columns for cell in column] if is_narrow else zip_longest(*columns, fillvalue=[])
    console.print()
    console.print(Text.assemble((f"? {answer.question}", "bold"), (f"  {1000 * answer.seconds:.0f} ms", "dim")))
    for row in rows:
        console.print()
        for *left, last in zip_longest(*row, fillvalue=Text()):
            # No table of rich's: it would fill up the last column with spaces.
            cells = [Text.assemble(line, " " * (width + GAP - line.cell_len)) for line in left]
            console.print(Text.assemble(*cells, last), no_wrap=True, overflow="ignore", crop=False)


def _cells(hits: Sequence[Hit], width: int) -> "list[list[Text]]":
    """The lines of each hit: score and name, place, the beginning of the text in two lines."""
    from rich.text import Text

    if not hits:
        return [[Text("nothing found", style="dim")]]
    cells = []
    for hit in hits:
        score = f"{hit.score:.2f} "
        head = Text.assemble((score, "green"), (_crop_left(hit.id, width - len(score)), "bold"))
        place = Text("  " + _crop_left(hit.where, width - 2), style="dim")
        text = textwrap.wrap(hit.snippet, width - 2, max_lines=2, placeholder="…")
        cells.append([head, place, *(Text("  " + line) for line in text)])
    return cells


def _crop_left(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
