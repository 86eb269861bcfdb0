"""The demo: ask Python's standard library, by meaning, by words, and by both.

`run` is the whole of it; `open_demo`, `Demo.ask` and `render` are its parts.
"""

import hashlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffembed.data.docstrings import Passage, fingerprint, read_docstrings
from diffembed.errors import DataError
from diffembed.index import exact, fusion
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.lexical import Lexical

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from diffembed.evaluation.evaluate import TextEmbedder

SAMPLE_QUESTIONS = (
    "how do I find out which lines differ between two texts?",
    "keep only the largest few items of a long list",
    "wait until all threads have reached the same point",
    "run another program and get back what it printed",
)
MODES = {"dense": "by meaning", "lexical": "by words", "fused": "both"}
"""Searches in the order in which they are shown, with what a person reads above them."""
SLICE_TEXTS = 256
"""Texts embedded between two signs of progress."""
NARROW = 72
"""Terminals with fewer columns show the searches one below the other."""
GAP = 2
"""Columns between two searches."""
SAME_VECTOR = 0.999
"""Cosine above which a cached vector counts as this model's: between bf16 in another batch and another model."""

Progress = Callable[[float], None]
"""Is told which share of the work is done."""
Say = Callable[[str], None]
"""Is told one line for the person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One passage found by one search."""

    rank: int
    score: float
    passage: Passage

    @property
    def where(self) -> str:
        return f"{self.passage.path}:{self.passage.line}"

    @property
    def snippet(self) -> str:
        return " ".join(self.passage.text.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What each search found for a question."""

    question: str
    hits: Mapping[str, Sequence[Hit]]
    """Search -> hits, best first."""
    seconds: float

    def rows(self) -> Iterator[dict[str, Any]]:
        """One JSON object a hit."""
        for mode, hits in self.hits.items():
            for hit in hits:
                place = {"id": hit.passage.id, "path": hit.passage.path, "line": hit.passage.line}
                score = {"rank": hit.rank, "score": hit.score}
                yield {"question": self.question, "mode": mode, **score, **place, "text": hit.passage.text}


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """Passages with their vectors and their BM25 index, all in memory."""

    embedder: "TextEmbedder"
    passages: Sequence[Passage]
    vectors: NDArray[np.float32]
    lexical: Lexical
    tokens: int | None
    """Tokens embedded; None when the embedder doesn't count them."""
    seconds: float
    """Time that embedding took, also when that was on an earlier day."""

    def ask(self, question: str, k: int = 3, *, instruction: str | None = None) -> Answer:
        """Search for a question in every mode.

        Args:
            question: In plain words.
            k: Hits per search.
            instruction: What is asked for, in place of the model's own instruction.

        Raises:
            DataError: The question is blank.
        """
        if not question.strip():
            raise DataError("the question is empty", hint='ask something, for example "read a csv file"')
        start = time.perf_counter()
        keywords = {} if instruction is None else {"instruction": instruction}
        depth = max(k, fusion.CANDIDATES)
        dense = exact.search(self.embedder.encode_query([question], **keywords), self.vectors, depth)
        lexical = self.lexical.search([question], depth)
        found = {"dense": dense, "lexical": lexical, "fused": fusion.hybrid(dense, lexical, k)}
        hits = {mode: self._hits(found[mode], k) for mode in MODES}
        return Answer(question=question, hits=hits, seconds=time.perf_counter() - start)

    def _hits(self, found: Hits, k: int) -> tuple[Hit, ...]:
        return tuple(
            Hit(rank=rank, score=float(score), passage=self.passages[row])
            for rank, (score, row) in enumerate(zip(found.scores[0, :k], found.rows[0, :k], strict=True), start=1)
            if row != NO_ROW
        )


def build_demo(
    embedder: "TextEmbedder", passages: Sequence[Passage] | None = None, *, progress: Progress | None = None
) -> Demo:
    """Embed the passages and index their words.

    Args:
        embedder: Anything that encodes queries and documents.
        passages: Those of the standard library when absent.
        progress: Told the share of the characters that is embedded.

    Raises:
        DataError: There are no passages.
    """
    passages = read_docstrings() if passages is None else passages
    if not passages:
        raise DataError(
            "there is no passage to search", hint="this Python's library has no source: use a usual CPython"
        )
    texts = [_document(passage) for passage in passages]
    start = time.perf_counter()
    # Neighbours of like length make full batches, and a vector doesn't depend on its neighbours.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    total, done, tokens = sum(map(len, texts)), 0, 0
    slices: list[NDArray[np.float32]] = []
    for first in range(0, len(order), SLICE_TEXTS):
        batch = [texts[row] for row in order[first : first + SLICE_TEXTS]]
        slices.append(embedder.encode_document(batch))
        tokens += getattr(getattr(embedder, "last_report", None), "tokens", 0)
        done += sum(map(len, batch))
        if progress:
            progress(done / total)
    vectors = np.empty((len(texts), slices[0].shape[1]), np.float32)
    vectors[order] = np.concatenate(slices)
    seconds = time.perf_counter() - start
    return _demo(embedder, passages, vectors, tokens=tokens or None, seconds=seconds)


def open_demo(
    embedder: "TextEmbedder",
    *,
    model: str,
    cache: Path | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> Demo:
    """Take the demo from the cache, or build it and put it there.

    A cached vector is believed only after a few passages, embedded anew, came out the same: a retrained model under an
    old name, another direction or a damaged file all lead to a fresh start.

    Args:
        embedder: The model.
        model: Its name; with the library's fingerprint it names the cache file.
        cache: Folder of the cache; the user's cache folder when absent.
        progress: As for `build_demo`.
        say: Told what is done and how long it took.
    """
    key = hashlib.sha256(f"{model}\0{sys.version}\0{fingerprint()}".encode()).hexdigest()[:16]
    path = (cache or cache_folder()) / f"demo-{key}.safetensors"
    if path.is_file():
        demo = _read_cache(path, embedder)
        if demo is not None:
            say(f"{_size(demo)}, embedded earlier in {demo.seconds:.1f} s and kept in {path}")
            return demo
        say(f"{path} is damaged or from another model: embedding the library again")
    passages = read_docstrings()
    say(f"embedding {len(passages):,} docstrings of Python {sys.version.split()[0]}'s standard library")
    demo = build_demo(embedder, passages, progress=progress)
    speed = f" ({demo.tokens / demo.seconds:,.0f} tokens/s)" if demo.tokens else ""
    say(f"{_size(demo)}, embedded in {demo.seconds:.1f} s{speed}")
    try:
        _write_cache(path, demo)
    except OSError as error:
        say(f"can't keep the vectors in {path.parent} ({error.strerror or error}): they will be made again next time")
    return demo


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

    embedder = Embedder.load(model)
    stderr = Console(stderr=True)
    columns = (TextColumn("embedding"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("embedding", total=1.0, visible=False)
        demo = open_demo(
            embedder,
            model=model,
            progress=lambda share: bar.update(task, completed=share, visible=True),
            say=say,
        )
    for each in SAMPLE_QUESTIONS if question is None else (question,):
        yield demo.ask(each, k, instruction=instruction)


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
    is_narrow = console.width < NARROW
    width = console.width if is_narrow else (console.width - GAP * (len(MODES) - 1)) // len(MODES)
    columns = [
        [[Text(f"{mode}: {words}", style="bold cyan")], *_cells(answer.hits[mode], width)]
        for mode, words in MODES.items()
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


def cache_folder() -> Path:
    """Where this user's rebuildable files go (XDG_CACHE_HOME, or what the platform uses instead)."""
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "diffembed"
    if sys.platform == "win32" and (root := os.environ.get("LOCALAPPDATA")):
        return Path(root) / "diffembed" / "cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "diffembed"


def _document(passage: Passage) -> str:
    """What is embedded and indexed: the name says as much as the text."""
    return f"{passage.id}\n{passage.text}"


def _demo(
    embedder: "TextEmbedder",
    passages: Sequence[Passage],
    vectors: NDArray[np.float32],
    *,
    tokens: int | None,
    seconds: float,
) -> Demo:
    lexical = Lexical([_document(passage) for passage in passages])
    return Demo(embedder=embedder, passages=passages, vectors=vectors, lexical=lexical, tokens=tokens, seconds=seconds)


def _size(demo: Demo) -> str:
    return f"{len(demo.passages):,} passages" + (f", {demo.tokens:,} tokens" if demo.tokens else "")


def _write_cache(path: Path, demo: Demo) -> None:
    from safetensors.numpy import save

    facts = {"passages": [asdict(each) for each in demo.passages], "tokens": demo.tokens, "seconds": demo.seconds}
    data = save({"vectors": demo.vectors}, metadata={"demo": json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_cache(path: Path, embedder: "TextEmbedder") -> Demo | None:
    """What the file holds, or None when it can't be believed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            vectors = file.get_tensor("vectors")
            facts = json.loads(file.metadata()["demo"])
        passages = [Passage(**each) for each in facts["passages"]]
        tokens, seconds = facts["tokens"], float(facts["seconds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(passages) or not len(passages):
        return None
    probes = [0, len(passages) // 2, len(passages) - 1]
    fresh = embedder.encode_document([_document(passages[row]) for row in probes])
    if fresh.shape != vectors[probes].shape or not (np.sum(fresh * vectors[probes], axis=1) >= SAME_VECTOR).all():
        return None
    return _demo(embedder, passages, vectors, tokens=tokens, seconds=seconds)


def _cells(hits: Sequence[Hit], width: int) -> "list[list[Text]]":
    """The lines of each hit: score and name, place, the beginning of the text in two lines."""
    from rich.text import Text

    if not hits:
        return [[Text("nothing found", style="dim")]]
    cells = []
    for hit in hits:
        score = f"{hit.score:.2f} "
        head = Text.assemble((score, "green"), (_crop_left(hit.passage.id, width - len(score)), "bold"))
        place = Text("  " + _crop_left(hit.where, width - 2), style="dim")
        text = textwrap.wrap(hit.snippet, width - 2, max_lines=2, placeholder="…")
        cells.append([head, place, *(Text("  " + line) for line in text)])
    return cells


def _crop_left(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
