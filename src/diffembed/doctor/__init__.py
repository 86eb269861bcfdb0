"""Is a model folder all right? A list of checks, each with what it saw, and what to do about it."""

import os
from collections.abc import Callable
from pathlib import Path

from diffembed.backbone.adapter import is_adapter, read_adapter
from diffembed.backbone.checkpoint import CONFIG_FILE
from diffembed.doctor import folder, loaders, running
from diffembed.doctor.facts import Doubt, Facts, Finding, Status, Verdict
from diffembed.embedder.locate import find
from diffembed.errors import CheckpointError, DiffembedError

__all__ = ["Finding", "Status", "examine"]

# In this order: each fills in facts that those behind it need.
CHECKS: tuple[tuple[str, Callable[[Facts], Verdict]], ...] = (
    ("files", folder.files),
    ("family", folder.family),
    ("weights", folder.weights),
    ("sidecar", folder.sidecar),
    ("adapter", folder.adapter),
    ("direction", folder.direction),
    ("readout", folder.readout),
    ("tokenizer", folder.tokenizer),
    ("prompts", folder.prompts),
    ("limit", folder.limit),
    ("vectors", running.vectors),
    ("dtype", running.dtype),
    ("versions", running.versions),
    ("fingerprint", running.fingerprint),
    *loaders.LOADERS,
)
UNFORESEEN = "copy the file again; if it is as its makers published it, report this, since diffembed should know it"


def examine(
    name: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None, *, replay: bool = True
) -> list[Finding]:
    """Look at a model folder: ours, one of sentence-transformers, a raw one of a known family, or an adapter.

    Args:
        name: `builtin`, a folder or a hub id. The folder of an adapter stands for its base with the adapter in it.
        adapter: Folder or hub id of an adapter for that model.
        replay: Load the model and compute the vectors that were saved with it. Without, no weights are read.

    Returns:
        What the checks found, in their order. A check is left out where there is nothing to look at (no adapter), where
        another's failure makes it impossible, and those of vectors and other libraries wherever something failed.

    Raises:
        DiffembedError: There is no such folder.
    """
    place, patch = find(name), None if adapter is None else find(adapter)
    if patch is None and is_adapter(place) and not (place / CONFIG_FILE).is_file():
        patch = place
        try:
            place = _base(patch)
        except DiffembedError as error:
            return [Finding("adapter", "fail", error.message, error.hint)]
    facts = Facts(folder=place, adapter_folder=patch, replays=replay)
    findings = []
    for check, look in CHECKS:
        finding = _finding(check, look, facts)
        if finding is not None:
            findings.append(finding)
            facts.has_failed |= finding.status == "fail"
    return findings


def _base(adapter: Path) -> Path:
    base = read_adapter(adapter).base
    if base is None:
        raise CheckpointError(
            f"the adapter in {adapter} names no base model", hint="name the model, and --adapter with this folder"
        )
    return find(base)


def _finding(check: str, look: Callable[[Facts], Verdict], facts: Facts) -> Finding | None:
    """What a check says; a damaged folder gives a finding, whatever it makes others raise."""
    try:
        verdict = look(facts)
    except DiffembedError as error:
        return Finding(check, "fail", error.message, error.hint)
    except OSError as error:
        return Finding(
            check,
            "fail",
            f"{error.filename or facts.folder}: {error.strerror or error}",
            "check the file, and its rights",
        )
    except BaseException as error:
        if isinstance(error, MemoryError) or "not enough memory" in str(error):  # torch raises RuntimeError for it
            return Finding(check, "fail", "there is not enough memory for this", "--no-replay reads no weights")
        # The tokenizer's Rust panics at some damaged files, and that is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return Finding(check, "fail", f"it can't be read: {type(error).__name__}: {error}", UNFORESEEN)
    if isinstance(verdict, Doubt):
        return Finding(check, "warn", verdict.message, verdict.hint)
    return None if verdict is None else Finding(check, "ok", verdict)
