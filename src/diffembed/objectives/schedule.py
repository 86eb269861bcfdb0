"""Noise schedules: how likely a token is still clean at noise level t. 0 is clean, 1 is all masked."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Lowest noise level drawn: below it 1/t only adds variance (LLaDA, arXiv:2502.09992; MDLM, arXiv:2406.07524).
MIN_NOISE = 1e-3


class Schedule(Protocol):
    """A noise schedule: the chance that a token is kept, and the weight that makes the loss a likelihood bound."""

    def keep_probability(self, t: Tensor) -> Tensor:
        """alpha(t) in [0, 1], falling from 1 at t = 0 to 0 at t = 1."""
        ...

    def loss_weight(self, t: Tensor) -> Tensor:
        """w(t) = -alpha'(t) / (1 - alpha(t)) for t in (0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class LinearSchedule:
    """alpha(t) = 1 - t, hence w(t) = 1/t (LLaDA eq. 3)."""

    def keep_probability(self, t: Tensor) -> Tensor:
        return 1 - t

    def loss_weight(self, t: Tensor) -> Tensor:
        return 1 / t


def draw_noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """One noise level per sequence, stratified: each of `count` equal parts of [MIN_NOISE, 1] is hit once.

    Source: the low-discrepancy sampler of Variational Diffusion Models (arXiv:2107.00630, appendix I.1).
    Deviates: each stratum has its own draw, and the order is shuffled: noise does not go with a sequence's place.

    Args:
        count: Number of sequences.
        generator: Source of randomness, on the CPU.

    Returns:
        (count,) fp32 in [MIN_NOISE, 1].
    """
    strata = torch.randperm(count, generator=generator)
    u = (strata + torch.rand(count, generator=generator)) / count
    return MIN_NOISE + (1 - MIN_NOISE) * u
