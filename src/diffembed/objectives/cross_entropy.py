"""Cross-entropy through a vocabulary head without ever holding all the logits.

Shape letters: N positions that are scored, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

# Logits held at once. On a CPU 2**23 fp32 numbers, 32 MB, about fit its last-level cache; a GPU wants larger products.
CPU_CHUNK_LOGITS, GPU_CHUNK_LOGITS = 2**23, 2**28


class _WeightedCrossEntropy(torch.autograd.Function):
    """Sum of w_n * -log softmax(h_n W^T)[target_n]; gradients are made in the forward pass, a chunk at a time."""

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, table_VD: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
        states_grad_ND = torch.empty_like(states_ND)
        table_grad_VD = torch.zeros_like(table_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        total = states_ND.new_zeros((), dtype=torch.float32)
        chunk_logits = CPU_CHUNK_LOGITS if table_VD.device.type == "cpu" else GPU_CHUNK_LOGITS
        rows = max(1, chunk_logits // table_VD.shape[0])
        for start in range(0, states_ND.shape[0], rows):
            cut = slice(start, start + rows)
            log_probs_NV = (states_ND[cut] @ table_VD.T).float().log_softmax(-1)
            targets_N1 = targets_N[cut, None]
            total -= log_probs_NV.gather(1, targets_N1).squeeze(1) @ weights_N[cut]
            # d/dlogits of -log softmax is softmax - one_hot, times the position's weight.
            grad_NV = log_probs_NV.exp_().mul_(weights_N[cut, None])
            grad_NV.scatter_add_(1, targets_N1, -weights_N[cut, None])
            grad_NV = grad_NV.to(states_ND.dtype)
            torch.mm(grad_NV, table_VD, out=states_grad_ND[cut])
            if table_grad_VD is not None:
                table_grad_VD += grad_NV.T @ states_ND[cut]
        ctx.save_for_backward(states_grad_ND, None if table_grad_VD is None else table_grad_VD.to(table_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        states_grad_ND, table_grad_VD = ctx.saved_tensors
        (scale,) = grad_outputs
        return (
            states_grad_ND * scale.to(states_grad_ND.dtype),
            None if table_grad_VD is None else table_grad_VD * scale.to(table_grad_VD.dtype),
            None,
            None,
        )


def weighted_cross_entropy(states_ND: Tensor, table_VD: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Weighted sum of token cross-entropies under logits `states @ table.T`.

    Args:
        states_ND: (N, D), float; hidden states of the scored positions.
        table_VD: (V, D), same dtype; the vocabulary head.
        targets_N: (N,), int64 in [0, V); the right tokens.
        weights_N: (N,), float32; factor of each position, for example 1/t over a normaliser.

    Returns:
        Scalar, fp32, nats.
    """
    return _WeightedCrossEntropy.apply(states_ND, table_VD, targets_N, weights_N)
