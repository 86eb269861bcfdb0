"""Backbones small enough for tests, with weights large enough that every part shows in the result."""

import torch

from diffembed.backbone import Backbone, BackboneConfig

VOCAB = 50


def tiny(direction="both", **changes) -> BackboneConfig:
    shape = dict(
        vocab_size=VOCAB,
        width=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_width=8,
        mlp_width=48,
        max_positions=40,
    )
    return BackboneConfig(**(shape | changes), direction=direction)


def random_backbone(direction="both", **changes) -> Backbone:
    backbone = Backbone(tiny(direction, **changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(0.3, 0.5, generator=generator)
    return backbone.eval()
