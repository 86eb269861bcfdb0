"""Transformers that turn token ids into hidden states, looking both ways, forward or backward."""

from typing import TYPE_CHECKING

from diffembed.lazy import lazily

if TYPE_CHECKING:
    from diffembed.backbone.checkpoint import load_backbone, save_backbone
    from diffembed.backbone.config import DIRECTIONS, BackboneConfig, Direction
    from diffembed.backbone.packed import PackedBatch, pack
    from diffembed.backbone.transformer import Backbone

__all__ = [
    "DIRECTIONS",
    "Backbone",
    "BackboneConfig",
    "Direction",
    "PackedBatch",
    "load_backbone",
    "pack",
    "save_backbone",
]

# Looked up on first use (PEP 562): a backbone's shape, and the numpy engine, must not cost the import of torch.
_HOMES = {
    "DIRECTIONS": "diffembed.backbone.config",
    "Backbone": "diffembed.backbone.transformer",
    "BackboneConfig": "diffembed.backbone.config",
    "Direction": "diffembed.backbone.config",
    "PackedBatch": "diffembed.backbone.packed",
    "load_backbone": "diffembed.backbone.checkpoint",
    "pack": "diffembed.backbone.packed",
    "save_backbone": "diffembed.backbone.checkpoint",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
