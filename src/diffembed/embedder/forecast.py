"""What embedding will take, before it is done."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffembed.embedder.budget import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, estimate
from diffembed.embedder.report import Report
from diffembed.text.instructions import Role

if TYPE_CHECKING:
    from diffembed.embedder.core import Embedder

# Of the texts so many are embedded, twice: kernels are compiled and memory is taken the first time.
SAMPLE_TEXTS = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Of a call of `embed`."""

    texts: int
    tokens: int
    """Those that the model reads: with prompts, and those of overlapping windows each time."""
    windowed: int
    """Texts over the limit."""
    windows: int
    """Windows that those take."""
    seconds: float
    """At the speed of a sample; good to a third on a quiet machine. Loading is not among it."""
    memory_bytes: int
    """Weights and the largest batch, without Python and torch themselves; good to a factor of two."""


def forecast(
    embedder: "Embedder", texts: Sequence[str], role: Role | None, counts: Report, lengths: Sequence[int]
) -> Forecast:
    """Time a sample of the texts, and predict.

    Args:
        embedder: What embeds.
        texts: All of them.
        role: What they are.
        counts: Of their layout.
        lengths: Tokens of each sequence that the model will read.
    """
    ordered = sorted(texts, key=len)
    sample = [ordered[(2 * i + 1) * len(ordered) // (2 * SAMPLE_TEXTS)] for i in range(min(SAMPLE_TEXTS, len(ordered)))]
    seconds = 0.0
    if sample:
        embedder.embed(sample, role)
        started = time.perf_counter()
        report = embedder.embed(sample, role).report
        seconds = (time.perf_counter() - started) * counts.tokens / report.tokens
    longest = max(lengths, default=1)
    budget = CPU_BATCH_TOKENS if embedder.device.type == "cpu" else GPU_BATCH_TOKENS
    batch = max(longest, min(sum(lengths), budget))
    config = embedder._model.backbone.config
    memory = estimate(config, batch, longest, dtype=embedder.dtype, device=embedder.device)
    return Forecast(
        texts=counts.texts,
        tokens=sum(lengths),
        windowed=counts.windowed,
        windows=counts.windows,
        seconds=seconds,
        memory_bytes=memory.total,
    )
