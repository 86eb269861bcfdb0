"""One model of two that were trained from the same one, by interpolating their weights."""

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from diffembed.backbone import Backbone
from diffembed.embedder.core import Embedder
from diffembed.embedder.model import Model
from diffembed.errors import ConfigError

Way = Literal["slerp", "linear"]
WAYS: tuple[Way, ...] = get_args(Way)

# Below this angle the sines of `slerp` lose more digits than the arc differs from its chord.
LEAST_ANGLE = 1e-4
# What both must agree on for weights between theirs to mean anything.
SHARED = ("prompts", "max_tokens", "readout", "template")


def merge(first: Embedder, second: Embedder, share: float = 0.5, way: Way = "slerp") -> Embedder:
    """Make the model between two, as pplx-embed does of its contextual and its triplet checkpoint.

    Both must come from one model: weights of models that were trained apart have nothing in common to go between.

    Args:
        first: Gives 1 - `share` of the weights; loaded in any dtype, its stored weights count.
        second: Gives `share` of them.
        share: In [0, 1].
        way: `slerp`, along the arc between two tensors, each seen as one vector (Shoemake 1985, "Animating rotation
            with quaternion curves"; by tensor as in mergekit), or `linear`, along the chord, which averages weights
            (arXiv:2203.05482).

    Returns:
        An embedder like `first`, whose facts on the training name both; `save` writes it.

    Raises:
        ConfigError: An argument cannot be used, or the two differ in more than weights.
    """
    if way not in WAYS:
        raise ConfigError(f"way is {way!r}", hint=f"allowed: {', '.join(WAYS)}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ConfigError(f"share is {share!r}", hint="give a number from 0 (all first) to 1 (all second)")
    one, other = first._model, second._model
    _check_alike(one, other)
    between = slerp if way == "slerp" else torch.lerp
    theirs = dict(other.backbone.named_parameters())
    weights = {
        name: between(weight.detach().float(), theirs[name].detach().float(), share)
        for name, weight in one.backbone.named_parameters()
    }
    model = replace(
        one,
        backbone=Backbone.from_weights(one.backbone.config, weights).requires_grad_(False).eval(),
        trained={"merged": {"way": way, "share": share, "first": dict(one.trained), "second": dict(other.trained)}},
        golden=(),
    )
    return Embedder(model, dtype=first.dtype, device=first.device)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The tensor at a share of the arc between two, both fp32 of one shape; on the chord where they are parallel."""
    one, other = first.flatten().double(), second.flatten().double()
    scale = one.norm() * other.norm()
    if not scale > 0:
        return torch.lerp(first, second, share)
    angle = math.acos(max(-1.0, min(1.0, float(one @ other / scale))))
    if not LEAST_ANGLE < angle < math.pi - LEAST_ANGLE:
        return torch.lerp(first, second, share)
    kept, taken = math.sin((1 - share) * angle), math.sin(share * angle)
    return ((kept * one + taken * other) / math.sin(angle)).to(first.dtype).view_as(first)


def _check_alike(one: Model, other: Model) -> None:
    differing = [name for name in SHARED if getattr(one, name) != getattr(other, name)]
    if one.backbone.config != other.backbone.config:
        differing.insert(0, "config")
    if one.tokenizer.raw.to_str() != other.tokenizer.raw.to_str():
        differing.insert(0, "tokenizer")
    if differing:
        raise ConfigError(
            f"the two models differ in {', '.join(differing)}", hint="merge two that were trained from one model"
        )
