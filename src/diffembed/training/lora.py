"""Training with low-rank adapters (LoRA, arXiv:2106.09685) through `peft`: put on, and taken off again.

Shape letters: R rank.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from diffembed.backbone.adapter import Adapter
from diffembed.backbone.families import Family
from diffembed.backbone.names import to_theirs
from diffembed.backbone.transformer import Backbone
from diffembed.errors import ConfigError, MissingExtraError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = (*ATTENTION, *MLP)

# What peft calls the halves beside a matrix.
A_NAME, B_NAME = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """An adapter: B x A is added to each chosen matrix, which itself stays as it is."""

    rank: int = 16
    """Rows of A; 16, alpha 32 and dropout 0.05 on all seven matrices are DiffEmbed's."""
    alpha: float = 32.0
    """What is added is scaled by alpha / rank."""
    dropout: float = 0.05
    """Part of A's inputs that is set to zero in training."""
    targets: tuple[str, ...] = TARGETS
    """Matrices of every layer, by Hugging Face's names for Qwen and Llama whatever the family."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv:2312.03732)."""
    merge: bool = True
    """Write the model with the adapter in it to OUT/model too, beside OUT/adapter."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ConfigError(
                f"an adapter's rank and alpha must be positive, got {self.rank} and {self.alpha}",
                hint="16 and 32 are usual",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}", hint="0.05 is usual")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigError(
                f"targets are {', '.join(self.targets) or 'none'}", hint=f"some of {', '.join(TARGETS)}, each once"
            )

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def require_peft() -> Any:
    """The package that makes the layers.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return import_module("peft")
    except ImportError:
        raise MissingExtraError("training an adapter needs peft", hint="pip install 'diffembed[train]'") from None


def attach(backbone: Backbone, config: LoraConfig, *, seed: int) -> None:
    """Freeze a backbone and put a fresh adapter on it, in the dtype and on the device of its weights.

    A fresh adapter adds nothing, since B is zero.

    Args:
        backbone: Changed in place.
        config: The adapter.
        seed: Of A.

    Raises:
        MissingExtraError: `peft` is not installed.
    """
    peft = require_peft()
    theirs = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        use_rslora=config.use_rslora,
    )
    backbone.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws A on the CPU from torch's own generator
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(theirs, backbone)


def detach(weights: Mapping[str, Tensor], config: LoraConfig, *, base: str, family: Family) -> Adapter:
    """The adapter that is among the weights of a backbone.

    Args:
        weights: Of a backbone that `attach` has changed, by name; others are passed over.
        config: As for `attach`.
        base: What the backbone was, for `adapter_config.json`.
        family: Of the base; `peft` finds modules by its names.
    """
    pairs = {}
    for name, a in weights.items():
        if name.endswith(A_NAME):
            b = weights[name.removesuffix(A_NAME) + B_NAME]
            pairs[name.removesuffix(A_NAME) + ".weight"] = (a.float(), b.float())
    modules = {name: to_theirs(name, family, family.class_prefix).removesuffix(".weight") for name in pairs}
    return Adapter(
        rank=config.rank, alpha=config.alpha, uses_sqrt=config.use_rslora, pairs=pairs, modules=modules, base=base
    )


def is_of_adapter(name: str) -> bool:
    """Whether a weight of a backbone is one that `attach` has added."""
    return name.endswith((A_NAME, B_NAME))


def joined(first: Adapter, second: Adapter) -> Adapter:
    """One adapter that adds what two add together: their As below, their scaled Bs beside each other.

    So an adapter that was trained upon another stands on the other's base too.
    """
    pairs = {}
    for name in sorted({*first.pairs, *second.pairs}):
        halves = [(*each.pairs[name], each.scale) for each in (first, second) if name in each.pairs]
        a = torch.cat([a.float() for a, _, _ in halves])
        b = torch.cat([b.float() * scale for _, b, scale in halves], dim=1)
        spare = first.rank + second.rank - len(a)  # only one of them has this matrix
        pairs[name] = (nn.functional.pad(a, (0, 0, 0, spare)), nn.functional.pad(b, (0, spare)))
    rank = first.rank + second.rank
    modules = {**first.modules, **second.modules}
    return Adapter(rank=rank, alpha=float(rank), pairs=pairs, modules=modules, base=first.base)
