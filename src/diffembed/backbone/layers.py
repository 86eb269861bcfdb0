"""The bricks of a transformer layer. Modules are named as in Hugging Face's Qwen and Llama, so that adapters fit.

Shape letters: T packed tokens, D width, H query heads, G key/value heads, K head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffembed.backbone.attention import attend
from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.packed import LengthGroup
from diffembed.backbone.rotary import rotary_frequencies


class RMSNorm(nn.Module):
    """Scale a state to unit root mean square, then by a learned weight (arXiv:1910.07467); computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(x.dtype)


def rotary_tables(config: BackboneConfig, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosine and sine for positions 0 to length - 1, each (length, head_width / 2), fp32."""
    frequencies, factor = rotary_frequencies(config.head_width, config.rope_theta, config.rope_scaling)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, torch.from_numpy(frequencies).to(device))
    return angles.cos() * factor, angles.sin() * factor


def rotate(x_THK: Tensor, cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
    """Turn the feature pairs (i, i + K/2) of each head by its position's angle."""
    first, second = x_THK.chunk(2, dim=-1)
    return torch.cat((first * cos_T1K - second * sin_T1K, second * cos_T1K + first * sin_T1K), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention; with RMSNorm on queries and keys (Qwen3) or biases (Qwen2) where asked for."""

    dropout: float = 0.0
    """Of the attention weights, while it is in training mode."""
    future_share: float = 1.0
    """Part of what lies ahead that is seen in training mode."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.direction: Direction = config.direction
        self.q_proj = nn.Linear(config.width, config.num_heads * config.head_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.width, config.num_kv_heads * config.head_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.num_heads * config.head_width, config.width, bias=False)
        self.q_norm = RMSNorm(config.head_width, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_width, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_TD: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, groups: tuple[LengthGroup, ...]) -> Tensor:
        q_THK = self.q_norm(self.q_proj(x_TD).unflatten(-1, (-1, self.head_width)))
        k_TGK = self.k_norm(self.k_proj(x_TD).unflatten(-1, (-1, self.head_width)))
        v_TGK = self.v_proj(x_TD).unflatten(-1, (-1, self.head_width))
        q_THK, k_TGK = rotate(q_THK, cos_T1K, sin_T1K), rotate(k_TGK, cos_T1K, sin_T1K)
        dropout, future_share = (self.dropout, self.future_share) if self.training else (0.0, 1.0)
        return self.o_proj(attend(q_THK, k_TGK, v_TGK, groups, self.direction, dropout, future_share))


class GatedMLP(nn.Module):
    """SwiGLU feed-forward (arXiv:2002.05202)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


class Layer(nn.Module):
    """Pre-norm transformer layer: attention, then MLP, each added to the residual stream."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x_TD: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, groups: tuple[LengthGroup, ...]) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos_T1K, sin_T1K, groups)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))
