"""The embedded library between two starts: kept in the user's cache, believed only when it fits."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffembed.data.docstrings import Passage, library_digest, read_docstrings
from diffembed.demo.answers import Demo, OnProgress, assemble, build_demo, document
from diffembed.embedder.locate import fingerprint
from diffembed.files import cache_folder, write_whole

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

model_digest = fingerprint

SAME_VECTOR = 0.999
"""Cosine above which a cached vector counts as this model's: between bf16 in another batch and another model."""

Say = Callable[[str], None]
"""Is told one line for the person."""


def open_demo(
    embedder: "Embedder",
    *,
    model: str,
    cache: Path | None = None,
    on_progress: OnProgress = lambda share: None,
    say: Say = lambda line: None,
) -> Demo:
    """Take the demo from the cache, or build it and put it there.

    A cached vector is believed only after a few passages, embedded anew, came out the same: a damaged file, another
    direction or an embedder whose code has changed lead to a fresh start.

    Args:
        embedder: The model.
        model: Its digest (see `model_digest`); with the library's it names the cache file.
        cache: Folder of the cache; the user's cache folder when absent.
        on_progress: As for `build_demo`.
        say: Told what is done and how long it took.
    """
    key = hashlib.sha256(f"{model}\0{sys.version}\0{library_digest()}".encode()).hexdigest()[:16]
    path = (cache or cache_folder()) / f"demo-{key}.safetensors"
    if path.is_file():
        demo = _read_cache(path, embedder)
        if demo is not None:
            say(f"{_size(demo)}, embedded earlier in {demo.seconds:.1f} s and kept in {path}")
            return demo
        say(f"{path} is damaged or from another model: embedding the library again")
    passages = read_docstrings()
    say(f"embedding {len(passages):,} docstrings of Python {sys.version.split()[0]}'s standard library")
    demo = build_demo(embedder, passages, on_progress=on_progress)
    say(f"{_size(demo)}, embedded in {demo.seconds:.1f} s ({demo.tokens / demo.seconds:,.0f} tokens/s)")
    try:
        _write_cache(path, demo)
    except OSError as error:
        say(f"can't keep the vectors in {path.parent} ({error.strerror or error}): they will be made again next time")
    return demo


def _size(demo: Demo) -> str:
    return f"{len(demo.passages):,} passages, {demo.tokens:,} tokens"


def _write_cache(path: Path, demo: Demo) -> None:
    from safetensors.numpy import save

    facts = {"passages": [asdict(each) for each in demo.passages], "tokens": demo.tokens, "seconds": demo.seconds}
    write_whole(path, save({"vectors": demo.vectors}, metadata={"demo": json.dumps(facts)}))


def _read_cache(path: Path, embedder: "Embedder") -> Demo | None:
    """What the file holds, or None when it can't be believed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            vectors = file.get_tensor("vectors")
            facts = json.loads(file.metadata()["demo"])
        passages = [Passage(**each) for each in facts["passages"]]
        tokens, seconds = int(facts["tokens"]), float(facts["seconds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(passages) or not len(passages):
        return None
    probes = [0, len(passages) // 2, len(passages) - 1]
    fresh = embedder.embed([document(passages[row]) for row in probes], "document").vectors
    if fresh.shape != vectors[probes].shape or not (np.sum(fresh * vectors[probes], axis=1) >= SAME_VECTOR).all():
        return None
    return assemble(embedder, passages, vectors, tokens=tokens, seconds=seconds)
