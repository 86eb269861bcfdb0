"""The shape of a backbone, and which way its attention looks."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from diffembed.errors import ConfigError

Direction = Literal["both", "forward", "backward"]
DIRECTIONS: tuple[Direction, ...] = ("both", "forward", "backward")
Head = Literal["tied", "own", "none"]
HEADS: tuple[Head, ...] = ("tied", "own", "none")

RopeKind = Literal["linear", "ntk", "yarn", "llama3"]
ROPE_KINDS: tuple[RopeKind, ...] = get_args(RopeKind)

_COUNTS = ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_width", "mlp_width", "max_positions")
# Far above any model, and the product of three of them still fits 64 bits; rotary tables of so many rows fit memory.
MAX_COUNT = 2**20
_HINT = "mend the recipe, or the config.json that the shape comes from"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """A transformer with RMSNorm, rotary positions, grouped queries and a gated MLP.

    The defaults make it Qwen3's shape, which is that of our own models. The other fields cover Qwen2 and Dream (biases,
    no qk-norm), Llama, LLaDA and Mistral (neither).
    """

    vocab_size: int
    """Rows of the embedding table, special tokens included."""
    width: int
    """Features of a hidden state (`hidden_size` in Hugging Face terms)."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """Key and value heads; each serves num_heads / num_kv_heads query heads."""
    head_width: int
    """Features per head; even, since rotary positions turn pairs."""
    mlp_width: int
    max_positions: int
    """Longest sequence, in tokens, that the rotary tables are built for."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies (RoFormer, arXiv:2104.09864)."""
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    qk_norm: bool = True
    """RMSNorm on each head's queries and keys."""
    qkv_bias: bool = False
    """Biases in the projections to queries, keys and values."""
    head: Head = "tied"
    """The vocabulary head: the embedding table once more, weights of its own, or none (vectors don't need it)."""
    logit_shift: bool = False
    """Position i is predicted from the state at i - 1, as in the autoregressive model that Dream grew out of."""
    direction: Direction = "both"
    """Where a token may look: both ways, only back in time (forward, causal) or only ahead (backward)."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if not 1 <= getattr(self, name) <= MAX_COUNT:
                raise ConfigError(f"{name} must be 1 to {MAX_COUNT:,}, got {getattr(self, name)}", hint=_HINT)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads must be a multiple of num_kv_heads, got {self.num_heads} and {self.num_kv_heads}",
                hint=_HINT,
            )
        if self.head_width % 2:
            raise ConfigError(f"head_width must be even, got {self.head_width}", hint=_HINT)
        if not (0 < self.norm_eps < math.inf and 0 < self.rope_theta < math.inf):
            raise ConfigError(
                f"norm_eps and rope_theta must be positive, got {self.norm_eps} and {self.rope_theta}", hint=_HINT
            )
        for name, allowed in {"direction": DIRECTIONS, "head": HEADS}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", hint=f"allowed: {', '.join(allowed)}")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn" and self.rope_theta <= 1:
            raise ConfigError(f"YaRN needs a rope_theta over 1, got {self.rope_theta}", hint=_HINT)
