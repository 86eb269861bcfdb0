"""The demo: ask Python's standard library, by meaning, by words, and by both.

`run` is the whole of it; `open_demo`, `Demo.ask` and `render` are its parts.
"""

from collections.abc import Iterator
from typing import Any

from diffembed.demo.answers import WORDS, Answer, Demo, Hit, documents
from diffembed.demo.cache import Say, open_demo
from diffembed.demo.measure import as_rows, lines, measure_demo
from diffembed.demo.progress import bar
from diffembed.demo.screen import render

__all__ = ["SAMPLE_QUESTIONS", "WORDS", "Answer", "Demo", "Hit", "documents", "measure", "open_demo", "render", "run"]

SAMPLE_QUESTIONS = (
    "how do I find out which lines differ between two texts?",
    "keep only the largest few items of a long list",
    "wait until all threads have reached the same point",
    "run another program and get back what it printed",
)


def run(
    question: str | None = None,
    *,
    model: str = "builtin",
    k: int = 3,
    instruction: str | None = None,
    say: Say = lambda line: None,
) -> Iterator[Answer]:
    """Open the index of the library, or make it, and answer one question or the sample ones.

    Args:
        question: In plain words; the sample questions when absent.
        model: What `Embedder.load` takes.
        k: Hits per search.
        instruction: What is asked for, in place of the model's own instruction.
        say: Told what is done and how long it took.
    """
    with bar("embedding") as on_progress:
        demo = open_demo(model, on_progress=on_progress, say=say)
    for each in SAMPLE_QUESTIONS if question is None else (question,):
        yield demo.ask(each, k, instruction=instruction)


def measure(*, model: str = "builtin", say: Say = lambda line: None) -> tuple[list[str], list[dict[str, Any]]]:
    """Ask the labelled questions and measure every search.

    Returns:
        The lines of a table, and the same as JSON objects.
    """
    with bar("embedding") as on_progress:
        demo = open_demo(model, on_progress=on_progress, say=say)
    with bar("asking") as on_progress:
        rows, gains = measure_demo(demo, on_progress=on_progress)
    return lines(rows, gains), as_rows(rows, gains)
