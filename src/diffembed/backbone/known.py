"""Checkpoints on the hub that the families read: a row for each, with what is known of it for certain. Free of torch.

A cell is empty where nothing is known: the conversions by dllm, for one, changed the number of rows of their tables.

Sources: config.json and the cards of the checkpoints; parameters follow from the shapes.
"""

from dataclasses import dataclass, replace
from typing import Any

from diffembed.backbone import families
from diffembed.backbone.config import BackboneConfig
from diffembed.backbone.families import Family


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A checkpoint on the hub."""

    id: str
    family: Family
    shape: BackboneConfig | None = None
    trained_tokens: int | None = None
    """Longest sequence of its training, where that is known of it rather than of its family."""
    licence: str | None = None
    note: str | None = None
    """What to know before loading it."""

    @property
    def parameters(self) -> int | None:
        return count_parameters(self.shape) if self.shape else None

    @property
    def context(self) -> int | None:
        """Tokens that are read at a time: those of the training where config.json promises more."""
        positions = self.shape.max_positions if self.shape else None
        return self.trained_tokens or self.family.trained_tokens or positions

    @property
    def bf16_bytes(self) -> int | None:
        """Size of the weights in bf16 as they are loaded for vectors: without a vocabulary head of their own."""
        if self.shape is None:
            return None
        return 2 * count_parameters(self.shape if self.shape.head == "tied" else replace(self.shape, head="none"))


def count_parameters(config: BackboneConfig) -> int:
    """Weights of a backbone of that shape, a vocabulary head of its own included."""
    width, heads, kv_heads = config.width, config.num_heads, config.num_kv_heads
    attention = 2 * width * config.head_width * (heads + kv_heads)
    if config.qkv_bias:
        attention += config.head_width * (heads + 2 * kv_heads)
    if config.qk_norm:
        attention += 2 * config.head_width
    layer = attention + 3 * width * config.mlp_width + 2 * width
    tables = 2 if config.head == "own" else 1
    return config.num_layers * layer + width + tables * config.vocab_size * width


def _shape(family: Family, **values: Any) -> BackboneConfig:
    own = {"qk_norm": family.qk_norm, "qkv_bias": family.qkv_bias, "logit_shift": family.logit_shift}
    return BackboneConfig(**own, direction=family.direction, **values)


QWEN2_7B: dict[str, Any] = {
    "vocab_size": 152_064,
    "width": 3_584,
    "num_layers": 28,
    "num_heads": 28,
    "num_kv_heads": 4,
    "head_width": 128,
    "mlp_width": 18_944,
    "rope_theta": 1e6,
    "head": "own",
}
QWEN3_06B: dict[str, Any] = {
    "vocab_size": 151_936,
    "width": 1_024,
    "num_layers": 28,
    "num_heads": 16,
    "num_kv_heads": 8,
    "head_width": 128,
    "mlp_width": 3_072,
    "rope_theta": 1e6,
}
QWEN3_4B: dict[str, Any] = {
    **QWEN3_06B,
    "width": 2_560,
    "num_layers": 36,
    "num_heads": 32,
    "mlp_width": 9_728,
}
# 32 layers of 32 heads: Llama 2 7B, and by their changes Llama 3 8B, Mistral 7B and LLaDA 8B.
LLAMA_7B: dict[str, Any] = {
    "vocab_size": 32_000,
    "width": 4_096,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 32,
    "head_width": 128,
    "mlp_width": 11_008,
    "max_positions": 4_096,
    "norm_eps": 1e-5,
    "head": "own",
}
LLAMA3_8B: dict[str, Any] = {
    **LLAMA_7B,
    "vocab_size": 128_256,
    "num_kv_heads": 8,
    "mlp_width": 14_336,
    "max_positions": 8_192,
    "rope_theta": 5e5,
}
MISTRAL_7B: dict[str, Any] = {**LLAMA3_8B, "vocab_size": 32_768, "max_positions": 32_768, "rope_theta": 1e6}
LLADA_8B: dict[str, Any] = {**LLAMA_7B, "vocab_size": 126_464, "mlp_width": 12_288, "rope_theta": 5e5}

_DREAM = _shape(families.DREAM, **QWEN2_7B, max_positions=131_072)
_DREAM_CODER = _shape(families.DREAM, **QWEN2_7B, max_positions=32_768)
_LLADA = _shape(families.LLADA, **LLADA_8B)
_PPLX_06B = _shape(families.PPLX, **QWEN3_06B, max_positions=32_768)
_PPLX_4B = _shape(families.PPLX, **QWEN3_4B, max_positions=32_768)
_LLAMA3 = _shape(families.LLAMA, **LLAMA3_8B)

_BOTH_WAYS = 'trained to look both ways, which llama does not do by itself: load it with direction="both"'

KNOWN: tuple[Known, ...] = (
    Known(id="Dream-org/Dream-v0-Base-7B", family=families.DREAM, shape=_DREAM, licence="Apache-2.0"),
    Known(id="Dream-org/Dream-v0-Instruct-7B", family=families.DREAM, shape=_DREAM, licence="Apache-2.0"),
    Known(id="Dream-org/Dream-Coder-v0-Base-7B", family=families.DREAM, shape=_DREAM_CODER),
    Known(id="Dream-org/Dream-Coder-v0-Instruct-7B", family=families.DREAM, shape=_DREAM_CODER),
    Known(id="apple/DiffuCoder-7B-Base", family=families.DREAM, shape=_DREAM),
    Known(id="apple/DiffuCoder-7B-Instruct", family=families.DREAM, shape=_DREAM),
    Known(id="GSAI-ML/LLaDA-8B-Base", family=families.LLADA, shape=_LLADA),
    Known(id="GSAI-ML/LLaDA-8B-Instruct", family=families.LLADA, shape=_LLADA),
    Known(id="GSAI-ML/LLaDA-1.5", family=families.LLADA, shape=_LLADA),
    Known(id="perplexity-ai/pplx-embed-v1-0.6b", family=families.PPLX, shape=_PPLX_06B, licence="MIT"),
    Known(id="perplexity-ai/pplx-embed-v1-4b", family=families.PPLX, shape=_PPLX_4B, licence="MIT"),
    Known(id="perplexity-ai/pplx-embed-context-v1-0.6b", family=families.PPLX, shape=_PPLX_06B, licence="MIT"),
    Known(id="perplexity-ai/pplx-embed-context-v1-4b", family=families.PPLX, shape=_PPLX_4B, licence="MIT"),
    Known(id="dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", family=families.A2D_QWEN3),
    Known(id="dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1", family=families.A2D_QWEN2),
    Known(
        id="diffusionfamily/diffullama",
        family=families.LLAMA,
        shape=_shape(families.LLAMA, **LLAMA_7B),
        trained_tokens=2_048,
        note=_BOTH_WAYS,
    ),
    Known(id="Qwen/Qwen2.5-7B", family=families.QWEN2, shape=_shape(families.QWEN2, **QWEN2_7B, max_positions=131_072)),
    Known(
        id="Qwen/Qwen2.5-7B-Instruct",
        family=families.QWEN2,
        shape=_shape(families.QWEN2, **QWEN2_7B, max_positions=32_768),
    ),
    Known(id="Qwen/Qwen3-0.6B", family=families.QWEN3, shape=_shape(families.QWEN3, **QWEN3_06B, max_positions=40_960)),
    Known(id="meta-llama/Meta-Llama-3-8B", family=families.LLAMA, shape=_LLAMA3),
    Known(id="meta-llama/Meta-Llama-3-8B-Instruct", family=families.LLAMA, shape=_LLAMA3),
    Known(
        id="mistralai/Mistral-7B-Instruct-v0.2",
        family=families.MISTRAL,
        shape=_shape(families.MISTRAL, **{**MISTRAL_7B, "vocab_size": 32_000}),
    ),
    Known(id="mistralai/Mistral-7B-v0.3", family=families.MISTRAL, shape=_shape(families.MISTRAL, **MISTRAL_7B)),
)
