"""Contrastive losses: a query must be nearer to its own passage than to every other candidate.

Shape letters: B queries, P candidates, N negatives of a query or chunks of a batch, K vectors of a text, D width of a
state, E embedding features.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# How far a row's norm may be off 1. Rows are normalised in fp32, so this only catches a forgotten normalisation.
NORM_TOLERANCE = 1e-3
# pplx-embed's contextual stage (arXiv:2602.11151): part of the loss that is about the chunks of one document.
OWN_DOCUMENT_SHARE = 0.2


def info_nce(
    query_BE: Tensor,
    passage_PE: Tensor,
    positive_B: Tensor,
    *,
    temperature: float,
    is_ignored_BP: Tensor | None = None,
    false_negative_margin: float | None = None,
    symmetric: bool = False,
    include_queries: bool = False,
) -> Tensor:
    """Cross-entropy of picking each query's own passage among all P by cosine.

    Source: InfoNCE with in-batch negatives (van den Oord et al. 2018, arXiv:1807.03748; Karpukhin et al. 2020,
    arXiv:2004.04906). With hard negatives among the passages it is DiffEmbed's HardNegativeNLLLoss, whose scale of 50
    is the temperature 0.02. Dropping likely false negatives by a margin, and the other queries as candidates: the pair
    stage of pplx-embed (arXiv:2602.11151). The symmetric term: CLIP (arXiv:2103.00020).

    Args:
        query_BE: fp32 unit rows.
        passage_PE: fp32 unit rows; those that are nobody's positive are negatives for all.
        positive_B: int64; the row of `passage_PE` that answers each query.
        temperature: Divides the cosine; positive.
        is_ignored_BP: bool; candidates that are left out of a query's sum because they are known to answer it too.
        false_negative_margin: A candidate whose cosine exceeds the positive's by more than this is left out of the sum:
            it probably answers the query too. None keeps all.
        symmetric: Also pick each positive's query among all queries, and average the two losses.
        include_queries: The other queries are candidates too, under the same margin.

    Returns:
        Scalar, mean over the queries, in nats.

    Raises:
        ValueError: Shapes, dtypes, norms or indices do not fit, queries of a symmetric loss share a positive, or a
            query's own passage is to be ignored.
    """
    _check(query_BE, passage_PE, positive_B)
    cosine_BP = query_BE @ passage_PE.T
    scores_BC, is_ignored_BC = cosine_BP, is_ignored_BP
    if include_queries:
        count = len(query_BE)
        scores_BC = torch.cat([cosine_BP, query_BE @ query_BE.T], dim=1)
        is_itself_BB = torch.eye(count, dtype=torch.bool, device=query_BE.device)
        known_BP = torch.zeros_like(cosine_BP, dtype=torch.bool) if is_ignored_BP is None else is_ignored_BP
        is_ignored_BC = torch.cat([known_BP, is_itself_BB], dim=1)
    loss = pick_own(
        scores_BC,
        positive_B,
        temperature=temperature,
        is_ignored_BP=is_ignored_BC,
        false_negative_margin=false_negative_margin,
    )
    if not symmetric:
        return loss
    if positive_B.unique().numel() != positive_B.numel():
        raise ValueError("a symmetric loss needs a passage of its own for each query")
    own_B = torch.arange(len(query_BE), device=query_BE.device)
    back = pick_own(
        cosine_BP[:, positive_B].T,
        own_B,
        temperature=temperature,
        is_ignored_BP=None if is_ignored_BP is None else is_ignored_BP[:, positive_B].T,
        false_negative_margin=false_negative_margin,
    )
    return (loss + back) / 2


def pick_own(
    scores_BP: Tensor,
    positive_B: Tensor,
    *,
    temperature: float,
    is_ignored_BP: Tensor | None = None,
    false_negative_margin: float | None = None,
) -> Tensor:
    """`info_nce` where the scores are there already: cosines, or those of `max_sim`.

    Args:
        scores_BP: Of each query with each candidate.
        positive_B: int64, the candidate that answers.
        temperature: Divides the scores; positive.
        is_ignored_BP: bool; see `info_nce`.
        false_negative_margin: See `info_nce`.

    Raises:
        ValueError: An argument does not fit.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if false_negative_margin is not None and not false_negative_margin >= 0:
        raise ValueError(f"false_negative_margin must not be negative, got {false_negative_margin}")
    logits_BP = scores_BP / temperature
    if false_negative_margin is not None:
        own_B1 = scores_BP.gather(1, positive_B[:, None])
        # The choice has no gradient; the positive itself never exceeds its own score.
        logits_BP = logits_BP.masked_fill((scores_BP > own_B1 + false_negative_margin).detach(), -torch.inf)
    if is_ignored_BP is not None:
        _check_ignored(is_ignored_BP, scores_BP, positive_B)
        logits_BP = logits_BP.masked_fill(is_ignored_BP, -torch.inf)
    return F.cross_entropy(logits_BP, positive_B)


def explicit_negatives(
    query_BD: Tensor,
    passage_BD: Tensor,
    negatives_BND: Tensor,
    *,
    temperature: float = 1.0,
    is_ignored_BN: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of picking the own passage among it and the query's own negatives, by the scaled product of states.

    Source: RepLLaMA's loss as DiffEmbed's code has it for MS MARCO: both states are multiplied by 1 / sqrt(D), so a
    score is their product divided by D. The states are not of unit length here, and are compared by cosine later.

    Args:
        query_BD: fp32 mean states.
        passage_BD: fp32 mean states, each query's own.
        negatives_BND: fp32 mean states of each query's negatives, N >= 1.
        temperature: Divides the scores; the source has none, 1.
        is_ignored_BN: bool; negatives that are left out, where a query has fewer than N.

    Raises:
        ValueError: Shapes do not fit.
    """
    count, width = query_BD.shape
    if passage_BD.shape != query_BD.shape or negatives_BND.dim() != 3 or not negatives_BND.shape[1]:
        raise ValueError(f"got {tuple(query_BD.shape)}, {tuple(passage_BD.shape)} and {tuple(negatives_BND.shape)}")
    candidates_BCD = torch.cat([passage_BD[:, None], negatives_BND], dim=1)
    scores_BC = torch.einsum("bd,bcd->bc", query_BD, candidates_BCD) / width
    first_B = torch.zeros(count, dtype=torch.int64, device=query_BD.device)
    is_ignored_BC = None
    if is_ignored_BN is not None:
        is_ignored_BC = F.pad(is_ignored_BN, (1, 0), value=False)
    return pick_own(scores_BC, first_B, temperature=temperature, is_ignored_BP=is_ignored_BC)


def max_sim(query_BKE: Tensor, passage_PKE: Tensor) -> Tensor:
    """(B, P) scores of texts with several unit vectors: for each of a query's the largest cosine with one of the
    passage's, and the mean of those, as `diffembed.readout.numbers.maxsim` compares them (ColBERT, arXiv:2004.12832;
    DiffRetriever, arXiv:2605.07210). The numbers of vectors of a query and of a passage may differ.
    """
    products_BKPK = torch.einsum("bke,ple->bkpl", query_BKE, passage_PKE)
    return products_BKPK.amax(dim=3).mean(dim=1)


def matryoshka(
    loss_of: Callable[..., Tensor],
    rows: Sequence[Tensor],
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
) -> Tensor:
    """The sum of a loss over prefixes of the vectors, each cut and then scaled to unit length.

    Source: Matryoshka Representation Learning (arXiv:2205.13147, equation 1).

    Args:
        loss_of: Called with as many unit tensors as there are in `rows`.
        rows: Mean states whose last dimension is the width.
        dims: Lengths of the prefixes.
        weights: Of each of them; 1 when absent.

    Raises:
        ValueError: There is no prefix, one is longer than a state, or the weights are of another number.
    """
    weights = [1.0] * len(dims) if weights is None else weights
    shortest = min(each.shape[-1] for each in rows)
    if not dims or len(weights) != len(dims) or not all(0 < each <= shortest for each in dims):
        raise ValueError(f"dims {list(dims)} and weights {list(weights)} do not fit states of {shortest}")
    losses = [
        weight * loss_of(*(F.normalize(each[..., :length], dim=-1) for each in rows))
        for length, weight in zip(dims, weights, strict=True)
    ]
    return torch.stack(losses).sum()


def document_weight(share_done: float, first: float = 0.2, last: float = 0.5) -> float:
    """Weight of the loss between whole documents beside `contextual`: it rises from first to last along half a cosine.

    Source: the contextual stage of pplx-embed (arXiv:2602.11151).

    Args:
        share_done: Part of the steps that are done, in [0, 1].
        first: Weight at the beginning.
        last: Weight at the end.
    """
    return first + (last - first) * (1 - math.cos(math.pi * share_done)) / 2


def contextual(
    query_BE: Tensor,
    chunk_NE: Tensor,
    positive_B: Tensor,
    document_N: Tensor,
    *,
    temperature: float,
    own_share: float = OWN_DOCUMENT_SHARE,
) -> Tensor:
    """Pick the chunk that answers among those of its document, and among those of all documents of the batch.

    Source: the contextual stage of pplx-embed (arXiv:2602.11151): 0.2 of the loss is within the document, 0.8 over the
    batch. A document with one chunk has nothing to choose from, and gives 0 for the first.

    Args:
        query_BE: fp32 unit rows.
        chunk_NE: fp32 unit rows, the chunks of all documents.
        positive_B: int64; the chunk that answers each query.
        document_N: int64; the document of each chunk. Documents of the same text have the same number.
        temperature: Divides the cosine.
        own_share: Part of the loss that is within the document, in [0, 1].

    Raises:
        ValueError: An argument does not fit.
    """
    _check(query_BE, chunk_NE, positive_B)
    if document_N.shape != (len(chunk_NE),) or not 0 <= own_share <= 1:
        raise ValueError(
            f"got {tuple(document_N.shape)} documents of {len(chunk_NE)} chunks, and own_share {own_share}"
        )
    cosine_BN = query_BE @ chunk_NE.T
    is_foreign_BN = document_N[None] != document_N[positive_B][:, None]
    within = pick_own(cosine_BN, positive_B, temperature=temperature, is_ignored_BP=is_foreign_BN)
    return own_share * within + (1 - own_share) * pick_own(cosine_BN, positive_B, temperature=temperature)


@torch.no_grad()
def accuracy(scores_BP: Tensor, positive_B: Tensor, is_ignored_BP: Tensor | None = None) -> float:
    """Share of the queries whose own passage has the highest score of all P; a passage that ties counts against it."""
    is_as_near_BP = scores_BP >= scores_BP.gather(1, positive_B[:, None])
    if is_ignored_BP is not None:
        is_as_near_BP = is_as_near_BP & ~is_ignored_BP
    return float((is_as_near_BP.sum(dim=1) == 1).float().mean())


@torch.no_grad()
def similarities(scores_BP: Tensor, positive_B: Tensor, is_ignored_BP: Tensor | None = None) -> tuple[float, float]:
    """Mean score of the own passages, and of all others that are not ignored; NaN where there are none."""
    is_other_BP = torch.ones_like(scores_BP, dtype=torch.bool).scatter_(1, positive_B[:, None], False)
    if is_ignored_BP is not None:
        is_other_BP &= ~is_ignored_BP
    return float(scores_BP.gather(1, positive_B[:, None]).mean()), float(scores_BP[is_other_BP].mean())


def _check_ignored(is_ignored_BP: Tensor, scores_BP: Tensor, positive_B: Tensor) -> None:
    if is_ignored_BP.shape != scores_BP.shape or is_ignored_BP.dtype != torch.bool:
        raise ValueError(
            f"is_ignored must be bool of shape {tuple(scores_BP.shape)}, got {is_ignored_BP.dtype} "
            f"{tuple(is_ignored_BP.shape)}"
        )
    if bool(is_ignored_BP.gather(1, positive_B[:, None]).any()):
        raise ValueError("a query's own passage cannot be ignored")


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
