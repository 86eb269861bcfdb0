"""Rotary positions: how far each pair of features turns from one token to the next. Free of torch.

Source: RoFormer (arXiv:2104.09864); the scalings say theirs.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError

RopeKind = Literal["linear", "ntk", "yarn", "llama3"]
ROPE_KINDS: tuple[RopeKind, ...] = get_args(RopeKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """How positions beyond those of the training are brought back into its range."""

    kind: RopeKind
    """`linear`: all positions are divided (arXiv:2306.15595). `ntk`: the base grows, so that only the slowest pair is
    divided. `yarn`: slow pairs are divided, fast ones not, and scores grow a little (arXiv:2309.00071). `llama3`: slow
    pairs are divided, fast ones not (Llama 3.1's code)."""
    factor: float
    """Times as many positions as were trained."""
    original_positions: int = 8_192
    """Positions of the training; `yarn` and `llama3` tell slow pairs from fast ones by it."""
    attention_factor: float | None = None
    """`yarn`: what cosines and sines are multiplied by; 0.1 ln(factor) + 1 when absent."""
    slow_turns: float = 1.0
    """Pairs that turn less often than this within the original positions are slow: YaRN's beta_slow, Llama's
    low_freq_factor."""
    fast_turns: float = 32.0
    """Pairs that turn more often are fast: YaRN's beta_fast, Llama's high_freq_factor."""
    rounds_bounds: bool = True
    """`yarn`: the first and last pair of the ramp are whole numbers."""

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise ConfigError(f"the rope scaling is {self.kind!r}", hint=f"allowed: {', '.join(ROPE_KINDS)}")
        if not 1 <= self.factor < math.inf or self.original_positions < 1:
            raise ConfigError(
                f"a rope scaling needs a factor and original positions of at least 1, got {self.factor} and "
                f"{self.original_positions}",
                hint="4 and 32,768 are Qwen's",
            )
        if not 0 < self.slow_turns < self.fast_turns < math.inf:
            raise ConfigError(
                f"slow pairs must turn less often than fast ones, got {self.slow_turns} and {self.fast_turns}",
                hint="1 and 32 are YaRN's",
            )
        if self.attention_factor is not None and not 0 < self.attention_factor < math.inf:
            raise ConfigError(
                f"attention_factor must be positive, got {self.attention_factor}", hint="leave it out for YaRN's own"
            )


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
