"""Attention inside each sequence of a packed batch: one call for each group of equal lengths, and no mask tensor.

Shape letters: T packed tokens, H query heads, G key/value heads, R = H / G, K head width, B sequences, L length.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffembed.backbone.config import Direction
from diffembed.backbone.packed import LengthGroup

# Longest sequence for which training on a CPU keeps its attention weights. torch 2.13's fused kernel takes about twice
# as long for forward and backward at 512 tokens (LOG.md); beyond this the kept weights, 2 bytes x H x L per token, cost
# more.
KEPT_WEIGHTS_MAX_LENGTH = 1024


def attend(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    groups: tuple[LengthGroup, ...],
    direction: Direction,
    dropout: float = 0.0,
    future_share: float = 1.0,
) -> Tensor:
    """Attention in which no sequence sees another one.

    Args:
        q_THK: Queries, rotated.
        k_TGK: Keys, rotated; G divides H.
        v_TGK: Values.
        groups: Runs of equal lengths that cover all T tokens in order.
        direction: `backward` is causal attention over the reversed sequence, which is the same sum.
        dropout: Part of the attention weights that is set to zero, the others scaled up for it.
        future_share: With `both`, the part of what lies ahead that a token sees, drawn for each pair of places.

    Returns:
        (T, H * K) states in the dtype of the queries.
    """
    sizes = [group.num_tokens for group in groups]
    parts = zip(groups, q_THK.split(sizes), k_TGK.split(sizes), v_TGK.split(sizes), strict=True)
    outputs = [_attend_group(q, k, v, group, direction, dropout, future_share) for group, q, k, v in parts]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_group(
    q: Tensor, k: Tensor, v: Tensor, group: LengthGroup, direction: Direction, dropout: float, future_share: float
) -> Tensor:
    shape = (group.count, group.length)
    gains = None if group.key_gains is None else group.key_gains[:, None, None]
    if future_share < 1:
        places = torch.ones(group.length, group.length, dtype=torch.bool, device=q.device)
        gains = places.tril() | (torch.rand(places.shape, device=q.device) < future_share)
    keep_weights = (
        q.requires_grad
        and q.device.type == "cpu"
        and direction == "both"
        and group.length <= KEPT_WEIGHTS_MAX_LENGTH
        and gains is None
        and not dropout
    )
    if keep_weights:
        return _KeptWeightsAttention.apply(q, k, v, shape)
    q_BHLK, k_BGLK, v_BGLK = (x.unflatten(0, shape).transpose(1, 2) for x in (q, k, v))
    if direction == "backward":
        q_BHLK, k_BGLK, v_BGLK = (x.flip(2) for x in (q_BHLK, k_BGLK, v_BGLK))
    out_BHLK = F.scaled_dot_product_attention(
        q_BHLK,
        k_BGLK,
        v_BGLK,
        attn_mask=gains,
        dropout_p=dropout,
        is_causal=direction != "both",
        enable_gqa=q_BHLK.shape[1] != k_BGLK.shape[1],
    )
    if direction == "backward":
        out_BHLK = out_BHLK.flip(2)
    return out_BHLK.transpose(1, 2).reshape(group.num_tokens, -1)


class _KeptWeightsAttention(torch.autograd.Function):
    """Full attention as plain batched products; the weights P are kept for the backward pass.

    The heads that share a key head are stacked, so each product is one (R * L) x L matrix per key head.
    """

    @staticmethod
    def forward(ctx: Any, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, shape: tuple[int, int]) -> Tensor:
        num_kv_heads = k_TGK.shape[1]
        scale = q_THK.shape[-1] ** -0.5
        queries = _stack_heads(q_THK * scale, shape, num_kv_heads)
        keys, values = (_stack_heads(x, shape, num_kv_heads) for x in (k_TGK, v_TGK))
        weights = torch.softmax(queries @ keys.transpose(1, 2), dim=-1)
        out = weights @ values
        ctx.save_for_backward(queries, keys, values, weights, out)
        ctx.shape, ctx.num_kv_heads, ctx.scale = shape, num_kv_heads, scale
        return _unstack_heads(out, shape, num_kv_heads).flatten(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, weights, out = ctx.saved_tensors
        out_grad = _stack_heads(grad_outputs[0].unflatten(-1, (-1, values.shape[-1])), ctx.shape, ctx.num_kv_heads)
        values_grad = weights.transpose(1, 2) @ out_grad
        # dS = P * (dP - rowsum(dP * P)), and rowsum(dP * P) = rowsum(dO * O) (FlashAttention, arXiv:2205.14135).
        wide = torch.promote_types(out.dtype, torch.float32)
        row_sum = (out_grad.to(wide) * out.to(wide)).sum(-1, keepdim=True).to(out.dtype)
        scores_grad = (out_grad @ values.transpose(1, 2)).sub_(row_sum).mul_(weights)
        queries_grad = (scores_grad @ keys).mul_(ctx.scale)
        keys_grad = scores_grad.transpose(1, 2) @ queries
        grads = (_unstack_heads(x, ctx.shape, ctx.num_kv_heads) for x in (queries_grad, keys_grad, values_grad))
        return (*grads, None)  # type: ignore[return-value]


def _stack_heads(x_THK: Tensor, shape: tuple[int, int], num_kv_heads: int) -> Tensor:
    """(T, H, K) -> (B * G, R * L, K): the R heads of a key head one after another."""
    count, length = shape
    x = x_THK.view(count, length, num_kv_heads, -1, x_THK.shape[-1]).permute(0, 2, 3, 1, 4)
    return x.reshape(count * num_kv_heads, -1, x_THK.shape[-1])


def _unstack_heads(x: Tensor, shape: tuple[int, int], num_kv_heads: int) -> Tensor:
    """Inverse of `_stack_heads`."""
    count, length = shape
    heads = x.view(count, num_kv_heads, -1, length, x.shape[-1]).permute(0, 3, 1, 2, 4)
    return heads.reshape(count * length, -1, x.shape[-1])
