"""Recipes of `diffembed pretrain`."""

from dataclasses import replace

from diffembed.backbone.config import BackboneConfig
from diffembed.training.loop import LoopConfig
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.pretrain import PretrainConfig

TOY_SHAPE = BackboneConfig(
    vocab_size=1024,
    width=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_width=32,
    mlp_width=128,
    max_positions=128,
)
BUILTIN_SHAPE = BackboneConfig(
    vocab_size=16_384,
    width=384,
    num_layers=4,
    num_heads=6,
    num_kv_heads=2,
    head_width=64,
    mlp_width=1024,
    max_positions=512,
)


def smoke() -> PretrainConfig:
    """`diffembed pretrain smoke --out DIR`: every stage at toy size, on the docstrings of the running Python; 20 s."""
    return PretrainConfig(
        backbone=TOY_SHAPE,
        objective="masked_diffusion",
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=5),
        loop=LoopConfig(num_steps=40),
        tokens_per_step=1024,
        tokens_per_micro_batch=512,
        segment_lengths=(32, 128),
        segment_shares=(0.5, 0.5),
        tokenizer_chars=300_000,
        docstrings=True,
    )


def builtin() -> PretrainConfig:
    """The model that ships in the wheel: 12.6M parameters, context 512, 52M tokens of masked diffusion.

    `diffembed pretrain builtin --data DIR --out DIR`; about 2.4 hours on 2 quiet CPU cores with AVX512-BF16.
    """
    return PretrainConfig(
        backbone=BUILTIN_SHAPE,
        objective="masked_diffusion",
        optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=100, muon=True),
        loop=LoopConfig(num_steps=3_200, log_every=5),
        tokens_per_step=16_384,
        tokens_per_micro_batch=4_096,
        segment_lengths=(128, 512),
        segment_shares=(0.75, 0.25),
        tokenizer_chars=40_000_000,
    )


def builtin_gpu() -> PretrainConfig:
    """`builtin` where a GPU is at hand: twice the layers (18.9M parameters, still 20 MB in int8), 1.05B tokens."""
    small = builtin()
    return replace(
        small,
        backbone=replace(BUILTIN_SHAPE, num_layers=8),
        loop=replace(small.loop, num_steps=8_000, log_every=20),
        tokens_per_step=131_072,
        tokens_per_micro_batch=65_536,
    )


def builtin_ar() -> PretrainConfig:
    """The autoregressive twin of `builtin`: same data, order, size and steps; next token, looking only back."""
    diffusion = builtin()
    return replace(diffusion, objective="next_token", backbone=replace(BUILTIN_SHAPE, direction="forward"))
