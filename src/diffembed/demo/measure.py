"""How good the searches are on questions that were labelled by hand."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from diffembed.demo.answers import WORDS, Demo
from diffembed.evaluation.measures import measure
from diffembed.evaluation.statistics import Comparison, paired_bootstrap
from diffembed.library.index import Mode

MEASURES = ("nDCG@10", "Recall@10")
DEPTH = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question and the docstrings that answer it."""

    id: str
    question: str
    kind: str
    """`words`: shares words with an answer; `meaning`: hardly any; `long`: describes a situation."""
    answers: Mapping[str, int]
    """Dotted name -> 2 for an answer, 1 for what helps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One measure of one search on questions of one kind."""

    kind: str
    """`all` for the questions of every kind."""
    mode: Mode
    measure: str
    value: float
    low: float
    high: float
    """Ends of the 95% interval over questions (bootstrap)."""
    questions: int


def read_questions() -> list[Question]:
    """The questions that come with the package."""
    lines = (files("diffembed") / "demo" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(**json.loads(line)) for line in lines]


def measure_demo(
    demo: Demo, questions: list[Question] | None = None, *, on_progress: Callable[[float], None] = lambda share: None
) -> tuple[list[Measured], list[tuple[str, str, Comparison]]]:
    """Ask every question that the library has an answer to.

    Answers that this Python's library does not have are left out, and with them the questions that have no other.

    Returns:
        The measures by kind, search and measure; and how far `hybrid` stands above each of its parts: mode, measure,
        difference.
    """
    known = demo.names()
    asked = []
    for each in read_questions() if questions is None else questions:
        judged = {name: grade for name, grade in each.answers.items() if name in known}
        if max(judged.values(), default=0) == 2:
            asked.append((each, judged))
    values: dict[tuple[Mode, str], list[float]] = {(mode, name): [] for mode in WORDS for name in MEASURES}
    for number, (each, judged) in enumerate(asked, start=1):
        for mode in WORDS:
            ranking = [hit.id for hit in demo.search(each.question, DEPTH, mode)]
            for name in MEASURES:
                values[mode, name].append(measure(name)(ranking, judged))
        on_progress(number / len(asked))
    kinds = sorted({each.kind for each, _ in asked})
    rows = []
    for kind in [*kinds, "all"]:
        for (mode, name), all_values in values.items():
            some = [value for value, (each, _) in zip(all_values, asked, strict=True) if kind in (each.kind, "all")]
            spread = paired_bootstrap([0.0] * len(some), some)
            rows.append(
                Measured(
                    kind=kind,
                    mode=mode,
                    measure=name,
                    value=spread.difference,
                    low=spread.low,
                    high=spread.high,
                    questions=len(some),
                )
            )
    gains = [
        (mode, name, paired_bootstrap(values[mode, name], values["hybrid", name]))
        for name in MEASURES
        for mode in WORDS
        if mode != "hybrid"
    ]
    return rows, gains


def lines(rows: list[Measured], gains: list[tuple[str, str, Comparison]]) -> list[str]:
    """A table for a person, values x100 with their intervals."""
    found: dict[tuple[str, int], dict[tuple[str, str], Measured]] = {}
    for row in rows:
        found.setdefault((row.kind, row.questions), {})[row.mode, row.measure] = row
    heads = [(mode, name) for name in MEASURES for mode in WORDS]
    shown = [f"{'questions':<16}" + "".join(f"{mode + ' ' + name:>22}" for mode, name in heads)]
    for (kind, count), cells in found.items():
        values = [cells[head] for head in heads]
        text = [f"{100 * each.value:.1f} ({100 * each.low:.1f}-{100 * each.high:.1f})" for each in values]
        shown.append(f"{f'{kind} ({count})':<16}" + "".join(f"{each:>22}" for each in text))
    for mode, name, gain in gains:
        span = f"{100 * gain.difference:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        shown.append(f"hybrid - {mode}, {name}: {span}, p = {gain.p:.4f}")
    return shown


def as_rows(rows: list[Measured], gains: list[tuple[str, str, Comparison]]) -> list[dict[str, Any]]:
    """JSON objects, one a measure and one a difference."""
    objects: list[dict[str, Any]] = [
        {
            "questions": row.kind,
            "mode": row.mode,
            "measure": row.measure,
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "n": row.questions,
        }
        for row in rows
    ]
    objects += [
        {
            "difference": f"hybrid - {mode}",
            "measure": name,
            "value": gain.difference,
            "low": gain.low,
            "high": gain.high,
            "p": gain.p,
        }
        for mode, name, gain in gains
    ]
    return objects
