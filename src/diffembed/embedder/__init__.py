"""Strings -> vectors, with an account of what was done."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffembed.embedder.chunks import Chunk, Chunks
    from diffembed.embedder.core import Embedder
    from diffembed.embedder.layout import Overflow
    from diffembed.embedder.report import Encoded, Report

__all__ = ["Chunk", "Chunks", "Embedder", "Encoded", "Overflow", "Report"]

# Looked up on first use (PEP 562): finding a model, and the numpy engine, must not cost the import of torch.
_HOMES = {
    "Chunk": "diffembed.embedder.chunks",
    "Chunks": "diffembed.embedder.chunks",
    "Embedder": "diffembed.embedder.core",
    "Encoded": "diffembed.embedder.report",
    "Overflow": "diffembed.embedder.layout",
    "Report": "diffembed.embedder.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
