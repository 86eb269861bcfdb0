"""Diffusion language models as text embedders: train, measure, run fast, search."""

from typing import TYPE_CHECKING

from diffembed.lazy import lazily

if TYPE_CHECKING:
    from diffembed.embedder import Embedder as Embedder
    from diffembed.library.index import Index as Index
    from diffembed.library.reading.document import Document as Document
    from diffembed.library.update import index_files as index_files

__version__ = "0.1.0"
__all__ = ["Document", "Embedder", "Index", "__version__", "index_files"]

# Where each public name lives. Looked up on first use (PEP 562), so that importing the package costs no torch.
_HOMES = {
    "Document": "diffembed.library.reading.document",
    "Embedder": "diffembed.embedder",
    "Index": "diffembed.library.index",
    "index_files": "diffembed.library.update",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
