"""The settings of a pre-training, and what of them cannot go together."""

from dataclasses import dataclass
from typing import Literal

from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.errors import ConfigError
from diffembed.training.loop_config import LoopConfig, check_sharding
from diffembed.training.lora import LoraConfig
from diffembed.training.optimizer import OptimizerConfig

Objective = Literal["masked_diffusion", "masked_next_token", "next_token"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """One pre-training run."""

    backbone: BackboneConfig | None
    """Shape of random weights; None with `init`, whose folder says it."""
    objective: Objective
    """`masked_diffusion`; `masked_next_token`, LLM2Vec's way to open a model that looked back; `next_token`, which
    needs direction forward where the others need both. A model given by `init` gets it."""
    optimizer: OptimizerConfig
    loop: LoopConfig
    tokens_per_step: int
    """Tokens of a batch, EOS included."""
    tokens_per_micro_batch: int
    """Tokens of one forward and backward pass; 4,096 stay in a CPU's cache (a third faster than 16,384)."""
    segment_lengths: tuple[int, ...]
    """Lengths in tokens that documents are cut to; the longest is the trained context."""
    segment_shares: tuple[float, ...]
    """How often each length comes; short ones are cheap, long ones teach context."""
    tokenizer_chars: int
    """Characters of text that the tokenizer is trained on: whole texts, drawn evenly from all of them."""
    init: str | None = None
    """Folder or hub id of a model to go on from, tokenizer included. One that looked only back keeps predicting each
    token from the state before it, and sees what follows from the first step on (DiffuLLaMA's 7B, pplx-embed) unless
    `anneal_steps` says otherwise."""
    mask_token: str | None = None
    """With `init`: the token that hides others, of those that its tokenizer has; a rare one where none was made for it.
    None: the tokenizer's own mask token."""
    weighting: Literal["bound", "cart"] = "bound"
    """`masked_diffusion`: 1/t, which makes the loss a bound; or Dream's weights, larger where clean tokens are near."""
    normalizer: Literal["maskable", "masked"] = "maskable"
    """`masked_diffusion`: the loss is divided by all tokens that could be masked, or by those that are."""
    mask_share: float = 0.2
    """`masked_next_token`: part of the tokens that is hidden."""
    only_masks: bool = False
    """`masked_next_token`: hide by masks alone; otherwise a tenth are random tokens and a tenth stay as they are."""
    anneal_steps: int = 0
    """Steps over which what lies ahead is opened, from a model that looked back; 0: all at once."""
    lora: LoraConfig | None = None
    """Train an adapter beside the frozen weights of `init`; None: all weights."""
    checkpoint_layers: bool = False
    """Keep only what enters each layer of a micro-batch, and run the layer again on the way back."""
    docstrings: bool = False
    """Where no data is given, train on the docstrings of the running Python's standard library."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and states; None: what this machine multiplies fast. Master weights are fp32 always."""

    def __post_init__(self) -> None:
        check_sharding(self.loop, self.optimizer)
        if (self.init is None) == (self.backbone is None):
            raise ConfigError(
                "a run begins from init or from random weights like backbone: one of them must be set, the other null",
                hint="init brings shape and tokenizer",
            )
        self._check_objective()
        if self.mask_token is not None and self.init is None:
            raise ConfigError("mask_token is for init: a new tokenizer has its own", hint="set mask_token=null")
        if self.backbone is not None and self.backbone.direction != self.direction:
            raise ConfigError(
                f"objective {self.objective} needs backbone.direction {self.direction}, got {self.backbone.direction}",
                hint=f"set backbone.direction={self.direction}",
            )
        if len(self.segment_lengths) != len(self.segment_shares) or not self.segment_lengths:
            raise ConfigError(
                f"segment_lengths and segment_shares must be equally long and not empty, got {self.segment_lengths} "
                f"and {self.segment_shares}",
                hint="give each length its share",
            )
        if min(self.segment_lengths) < 2 or not min(self.segment_shares) > 0:
            raise ConfigError(
                f"segments need at least 2 tokens and a share above 0, got {self.segment_lengths} and "
                f"{self.segment_shares}",
                hint="leave out the lengths that are not wanted",
            )
        for name, limit in (
            *([("backbone.max_positions", self.backbone.max_positions)] if self.backbone else []),
            ("tokens_per_micro_batch", self.tokens_per_micro_batch),
            ("tokens_per_step", self.tokens_per_step),
        ):
            if max(self.segment_lengths) > limit:
                raise ConfigError(
                    f"the longest segment has {max(self.segment_lengths)} tokens, {name} is {limit}",
                    hint=f"raise {name} or shorten the segments",
                )

    def _check_objective(self) -> None:
        if self.objective != "masked_diffusion" and (self.weighting, self.normalizer) != ("bound", "maskable"):
            raise ConfigError(
                f"weighting and normalizer are for masked_diffusion, and the objective is {self.objective}",
                hint="leave them out",
            )
        if self.objective == "masked_next_token" and self.init is None:
            raise ConfigError(
                "masked_next_token opens a model that is there already", hint="name it by init, or use masked_diffusion"
            )
        if not 0 < self.mask_share <= 1:
            raise ConfigError(f"mask_share must be in (0, 1], got {self.mask_share}", hint="LLM2Vec takes 0.2 or 0.8")
        if self.anneal_steps < 0 or (self.anneal_steps and (self.init is None or self.objective == "next_token")):
            raise ConfigError(
                f"anneal_steps is {self.anneal_steps}: it opens what lies ahead to a model that looked back",
                hint="0, or set init and another objective than next_token",
            )
        if self.lora and (self.init is None or self.optimizer.muon):
            raise ConfigError(
                "an adapter stands on a model that is there, and has no whole matrices for muon",
                hint="set init, and optimizer.muon=false; or lora=null",
            )

    @property
    def direction(self) -> Direction:
        """Where the objective lets a token look."""
        return "forward" if self.objective == "next_token" else "both"
