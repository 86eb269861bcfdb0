"""Contrastive loss: a query must be nearer to its own passage than to every other passage of the batch.

Shape letters: B queries, P passages, E embedding features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# How far a row's norm may be off 1. Rows are normalised in fp32, so this only catches a forgotten normalisation.
NORM_TOLERANCE = 1e-3


def info_nce(
    query_BE: Tensor,
    passage_PE: Tensor,
    positive_B: Tensor,
    *,
    temperature: float,
    false_negative_margin: float | None = None,
    symmetric: bool = False,
) -> Tensor:
    """Cross-entropy of picking each query's own passage among all P by cosine.

    Source: InfoNCE with in-batch negatives (van den Oord et al. 2018, arXiv:1807.03748; Karpukhin et al. 2020,
    arXiv:2004.04906). Dropping likely false negatives by a margin: the pair stage of pplx-embed. The symmetric term:
    CLIP (arXiv:2103.00020).

    Args:
        query_BE: fp32 unit rows.
        passage_PE: fp32 unit rows; those that are nobody's positive are negatives for all.
        positive_B: int64; the row of `passage_PE` that answers each query.
        temperature: Divides the cosine; positive.
        false_negative_margin: A candidate whose cosine exceeds the positive's by more than this is left out of the sum:
            it probably answers the query too. None keeps all.
        symmetric: Also pick each positive's query among all queries, and average the two losses.

    Returns:
        Scalar, mean over the queries, in nats.

    Raises:
        ValueError: Shapes, dtypes, norms or indices do not fit, or queries of a symmetric loss share a positive.
    """
    _check(query_BE, passage_PE, positive_B)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if false_negative_margin is not None and not false_negative_margin >= 0:
        raise ValueError(f"false_negative_margin must not be negative, got {false_negative_margin}")
    cosine_BP = query_BE @ passage_PE.T
    loss = _pick_loss(cosine_BP, positive_B, temperature, false_negative_margin)
    if not symmetric:
        return loss
    if positive_B.unique().numel() != positive_B.numel():
        raise ValueError("a symmetric loss needs a passage of its own for each query")
    own_B = torch.arange(len(query_BE), device=query_BE.device)
    return (loss + _pick_loss(cosine_BP[:, positive_B].T, own_B, temperature, false_negative_margin)) / 2


@torch.no_grad()
def in_batch_accuracy(query_BE: Tensor, passage_PE: Tensor, positive_B: Tensor) -> float:
    """Share of the queries whose own passage has the highest cosine of all P; a passage that ties counts against it."""
    cosine_BP = query_BE @ passage_PE.T
    own_B1 = cosine_BP.gather(1, positive_B[:, None])
    return float(((cosine_BP >= own_B1).sum(dim=1) == 1).float().mean())


def _pick_loss(cosine_BP: Tensor, positive_B: Tensor, temperature: float, margin: float | None) -> Tensor:
    logits_BP = cosine_BP / temperature
    if margin is not None:
        own_B1 = cosine_BP.gather(1, positive_B[:, None])
        # The choice has no gradient; the positive itself never exceeds its own cosine.
        logits_BP = logits_BP.masked_fill((cosine_BP > own_B1 + margin).detach(), -torch.inf)
    return F.cross_entropy(logits_BP, positive_B)


def _check(query_BE: Tensor, passage_PE: Tensor, positive_B: Tensor) -> None:
    for name, rows in (("query_BE", query_BE), ("passage_PE", passage_PE)):
        if rows.dim() != 2 or not len(rows):
            raise ValueError(f"{name} must be a matrix with at least one row, got shape {tuple(rows.shape)}")
        if rows.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} must be float32, got {rows.dtype}")
        norms = rows.detach().norm(dim=1)
        if not bool(((norms - 1).abs() <= NORM_TOLERANCE).all()):
            raise ValueError(f"{name} must have rows of unit length, got {norms.min():.3g} to {norms.max():.3g}")
    if query_BE.shape[1] != passage_PE.shape[1]:
        raise ValueError(f"queries have {query_BE.shape[1]} features, passages {passage_PE.shape[1]}")
    if positive_B.shape != (len(query_BE),) or positive_B.dtype != torch.int64:
        raise ValueError(
            f"positive_B must be int64 of shape ({len(query_BE)},), got {positive_B.dtype} {positive_B.shape}"
        )
    if not bool(((positive_B >= 0) & (positive_B < len(passage_PE))).all()):
        raise ValueError(f"positive_B must be in [0, {len(passage_PE)})")
