"""Transformers that turn token ids into hidden states, looking both ways, forward or backward."""

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
