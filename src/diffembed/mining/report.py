"""What mining leaves behind: rows for a training, a page for a person to read, and an account."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffembed.data.examples import Example
from diffembed.errors import ConfigError, DataError
from diffembed.files import replacing, write_whole
from diffembed.mining.mine import Account, Audited, Mined
from diffembed.mining.rules import CHOSEN, SPARE, Seen

SHOWN_CHARACTERS = 320
"""Of a text on the audit page."""
SHOWN_PASSED = 5
"""Texts of a query on the audit page that were looked at and did not become negatives: the best ranked."""
WIDTH = 118
INDENT = 29


def audit_path(out: Path) -> Path:
    """Where the audit page of an output lies."""
    return out.with_name(out.name + ".audit.md")


def check_out(out: Path, *, inputs: Sequence[Path], force: bool) -> None:
    """Refuse an output that can't be written, or would be written over something, before the work begins.

    Raises:
        ConfigError: It is there already and `force` is not set, or it is one of the inputs.
        DataError: It has no folder to lie in.
    """
    if not out.parent.is_dir():
        raise DataError(f"there is no folder {out.parent} for --out", hint="make it first")
    for path in (out, audit_path(out)):
        if any(each.exists() and path.exists() and each.samefile(path) for each in inputs):
            raise ConfigError(f"{path} is read by this very run", hint="choose another --out")
        if path.is_dir() or (path.exists() and not force):
            hint = "choose another --out" + ("" if path.is_dir() else ", or --force to write it anew")
            raise ConfigError(f"{path} is there already", hint=hint)


def write(out: Path, mined: Mined, settings: Mapping[str, Any]) -> None:
    """Write the examples as JSON lines and the audit page beside them; each whole or not at all, the examples last.

    Args:
        out: The JSON lines.
        mined: What was found.
        settings: How it was found, for the head of the page.
    """
    write_whole(audit_path(out), "".join(f"{line}\n" for line in audit(out.name, mined, settings)))
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for example in mined.examples:
            file.write(json.dumps(as_row(example), ensure_ascii=False) + "\n")


def as_row(example: Example) -> dict[str, Any]:
    """An example as a JSON object, without what it doesn't have; a blank instruction says that there is to be none."""
    names = ("query", "positives", "negatives", "scores", "source", "kind", "instruction", "topic", "chunks")
    row = {name: getattr(example, name) for name in names}
    return {name: value for name, value in row.items() if value is not None and value != ()}


def summary(account: Account, wanted: int) -> Iterator[str]:
    """Lines that say what was done."""
    left_out = [
        f"{count:,} {what} left out"
        for count, what in ((account.duplicates, "duplicates"), (account.blank, "blank ones"))
        if count
    ]
    yield ", ".join([f"{account.examples:,} queries, {account.candidates:,} candidates", *left_out])
    verdicts = account.verdicts
    passed = [f"{verdicts[why]:,} {why}" for why in sorted(verdicts) if why not in (CHOSEN, SPARE)]
    rest = ", ".join([f"{account.known:,} known answers passed over", *passed, f"{verdicts.get(SPARE, 0):,} {SPARE}"])
    yield f"{verdicts.get(CHOSEN, 0):,} negatives; {rest}"
    if account.outscored:
        yield f"for {account.outscored:,} queries a text scores above a positive: an unmarked answer, or a weak model"
    short = sum(account.short.values())
    if short:
        reasons = ", ".join(
            f"{count:,} {why}" for why, count in sorted(account.short.items(), key=lambda each: (-each[1], each[0]))
        )
        yield (
            f"{short:,} queries got fewer than {wanted} negatives, {account.without:,} of them none; "
            f"what took most of their candidates: {reasons}"
        )
    else:
        yield f"every query got {wanted} negatives"


def audit(name: str, mined: Mined, settings: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a Markdown page: the sample with positives, negatives, scores and ranks."""
    yield f"# Audit of {name}"
    yield ""
    yield (
        f"{len(mined.audit)} of {len(mined.examples)} examples, evenly drawn. Ask of each negative: does it answer the "
        "query? If some do, widen the margins, skip ranks or add a veto. And of what was passed over: is it an answer? "
        "If it is not, the rules may be too strict. In brackets: how many of those looked at score above a positive."
    )
    yield ""
    yield from (f"- {line}" for line in summary(mined.account, settings["negatives"]))
    yield "- " + ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    for each in mined.audit:
        yield ""
        yield f"## Example {each.number + 1}"
        yield ""
        yield from _block(each)


def _block(audited: Audited) -> list[str]:
    example = audited.example
    lines = _entry("query", "", "", example.query)
    for name, text in (("instruction", example.instruction), ("topic", example.topic)):
        if text:
            lines += _entry(name, "", "", text)
    for text, score in zip(example.positives, audited.positives, strict=True):
        above = sum(seen.score > score for seen, _ in audited.seen)
        lines += _entry("positive", f"({above})", f"{score:.4f}", text)
    shown = _shown(audited.seen)
    lines += [line for seen, text in shown for line in _entry(seen.verdict, f"{seen.rank}.", f"{seen.score:.4f}", text)]
    if not any(seen.verdict == CHOSEN for seen, _ in shown):
        lines.append("(no negative)")
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return [f"{fence}text", *lines, fence]


def _shown(seen: Sequence[tuple[Seen, str]]) -> list[tuple[Seen, str]]:
    chosen = [each for each in seen if each[0].verdict == CHOSEN]
    passed = [each for each in seen if each[0].verdict not in (CHOSEN, SPARE)][:SHOWN_PASSED]
    return sorted([*chosen, *passed], key=lambda each: each[0].rank)


def _entry(kind: str, rank: str, score: str, text: str) -> list[str]:
    plain = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    if len(plain) > SHOWN_CHARACTERS:
        plain = plain[: SHOWN_CHARACTERS - 1] + "…"
    lines = textwrap.wrap(plain, WIDTH - INDENT, break_on_hyphens=False)
    return [f"{kind:<14} {rank:>4} {score:>7}  {lines[0]}", *(" " * INDENT + line for line in lines[1:])]
