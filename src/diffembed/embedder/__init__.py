"""Strings -> vectors, with an account of what was done."""

from typing import TYPE_CHECKING

from diffembed.lazy import lazily

if TYPE_CHECKING:
    from diffembed.embedder.chunks import Chunk, Chunks
    from diffembed.embedder.core import Embedder
    from diffembed.embedder.explain import Explanation, TokenShare
    from diffembed.embedder.forecast import Forecast
    from diffembed.embedder.layout import Overflow
    from diffembed.embedder.report import Encoded, Report
    from diffembed.readout.numbers import maxsim
    from diffembed.readout.spec import Readout, masks

__all__ = [
    "Chunk",
    "Chunks",
    "Embedder",
    "Encoded",
    "Explanation",
    "Forecast",
    "Overflow",
    "Readout",
    "Report",
    "TokenShare",
    "masks",
    "maxsim",
]

# Looked up on first use (PEP 562): finding a model, and the numpy engine, must not cost the import of torch.
_HOMES = {
    "Chunk": "diffembed.embedder.chunks",
    "Chunks": "diffembed.embedder.chunks",
    "Embedder": "diffembed.embedder.core",
    "Encoded": "diffembed.embedder.report",
    "Explanation": "diffembed.embedder.explain",
    "Forecast": "diffembed.embedder.forecast",
    "Overflow": "diffembed.embedder.layout",
    "Readout": "diffembed.readout.spec",
    "Report": "diffembed.embedder.report",
    "TokenShare": "diffembed.embedder.explain",
    "masks": "diffembed.readout.spec",
    "maxsim": "diffembed.readout.numbers",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
