"""Rotary positions: how far each pair of features turns from one token to the next. Free of torch.

Source: RoFormer (arXiv:2104.09864); the scalings say theirs.
"""

import math

import numpy as np
from numpy.typing import NDArray

from diffembed.backbone.config import RopeScaling


def rotary_frequencies(head_width: int, theta: float, scaling: RopeScaling | None) -> tuple[NDArray[np.float32], float]:
    """Radians per token of each feature pair, (head_width / 2,) fp32, and what cosines and sines are multiplied by.

    A base beyond all reason gives frequencies that are no numbers, and so no vectors; those are refused later.
    """
    with np.errstate(over="ignore"):
        frequencies, factor = _frequencies(head_width, theta, scaling)
        return frequencies.astype(np.float32), factor


def _frequencies(head_width: int, theta: float, scaling: RopeScaling | None) -> tuple[NDArray[np.float64], float]:
    exponents = np.arange(0, head_width, 2) / head_width
    if scaling is None:
        return theta**-exponents, 1.0
    if scaling.kind == "ntk":
        # The slowest pair is divided by the factor, the fastest one not at all.
        theta *= scaling.factor ** (head_width / max(head_width - 2, 1))
    plain = theta**-exponents
    divided = plain / scaling.factor
    if scaling.kind == "ntk":
        return plain, 1.0
    if scaling.kind == "linear":
        return divided, 1.0
    if scaling.kind == "llama3":
        turns = scaling.original_positions * plain / (2 * math.pi)
        ramp = (turns - scaling.slow_turns) / (scaling.fast_turns - scaling.slow_turns)
        factor = 1.0
    else:
        first, last = _yarn_bounds(head_width, theta, scaling)
        ramp = 1 - (np.arange(head_width // 2) - first) / (last - first)
        own = 0.1 * math.log(scaling.factor) + 1
        factor = own if scaling.attention_factor is None else scaling.attention_factor
    share = np.clip(ramp, 0, 1)
    return share * plain + (1 - share) * divided, factor


def _yarn_bounds(head_width: int, theta: float, scaling: RopeScaling) -> tuple[float, float]:
    """The pairs between which YaRN goes over from undivided to divided (section 3.2 there)."""

    def pair(turns: float) -> float:
        return head_width * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.fast_turns), pair(scaling.slow_turns)
    if scaling.rounds_bounds:
        first, last = math.floor(first), math.ceil(last)
    # The upper bound is that of the features, not of the pairs; so is everybody's code.
    first, last = max(first, 0), min(last, head_width - 1)
    return first, last if last != first else first + 0.001
