"""The demo: ask Python's standard library, by meaning, by words, and by both.

`run` is the whole of it; `open_demo`, `Demo.ask` and `render` are its parts.
"""

from collections.abc import Iterator

from diffembed.demo.answers import MODES, Answer, Demo, Hit, build_demo
from diffembed.demo.cache import Say, model_digest, open_demo
from diffembed.demo.screen import render

__all__ = ["MODES", "SAMPLE_QUESTIONS", "Answer", "Demo", "Hit", "build_demo", "open_demo", "render", "run"]

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
    """Load a model, embed the library (or take it from the cache) and answer one question, or the sample ones.

    A progress bar is drawn on stderr where that is a terminal.

    Args:
        question: In plain words; the sample questions when absent.
        model: What `Embedder.load` takes.
        k: Hits per search.
        instruction: What is asked for, in place of the model's own instruction.
        say: Told what is done and how long it took.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from diffembed.embedder import Embedder
    from diffembed.embedder.folder import find

    folder = find(model)
    embedder = Embedder.load(folder)
    stderr = Console(stderr=True)
    columns = (TextColumn("embedding"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        row = bar.add_task("embedding", total=1.0, visible=False)
        demo = open_demo(
            embedder,
            model=model_digest(folder),
            on_progress=lambda share: bar.update(row, completed=share, visible=True),
            say=say,
        )
    for each in SAMPLE_QUESTIONS if question is None else (question,):
        yield demo.ask(each, k, instruction=instruction)
