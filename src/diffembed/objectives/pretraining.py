"""The pre-training objectives: masked diffusion, masked next-token prediction, and plain next token.

Each gives a plan: which ids the model reads, at which positions it is scored, against which tokens, with which weights.
The loss is then one weighted cross-entropy, so that the training loop is the same for all.

Shape letters: T packed tokens, N scored positions, D width, V vocabulary.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffembed.objectives.corruption import corrupt
from diffembed.objectives.cross_entropy import weighted_cross_entropy
from diffembed.objectives.schedule import Schedule

# p of the geometric distribution in Dream's weights (dllm's `pipelines/dream`), and how far its terms are above 1e-7.
CART_SHARE = 0.3
CART_REACH = math.floor(math.log(1e-7 / CART_SHARE) / math.log(1 - CART_SHARE)) + 1


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """What to read and what to predict.

    Attributes:
        input_ids_T: int64; what the model reads.
        positions_N: int64 rows of T whose state predicts.
        targets_N: int64; the right token for each.
        weights_N: fp32; they carry 1/t and, once `normalized`, the normaliser, so that the loss is in nats per token.
    """

    input_ids_T: Tensor
    positions_N: Tensor
    targets_N: Tensor
    weights_N: Tensor


def plan_masked_diffusion(
    ids_T: Tensor,
    t_T: Tensor,
    is_maskable_T: Tensor,
    *,
    num_maskable: int,
    mask_token_id: int,
    schedule: Schedule,
    generator: torch.Generator,
    cart_T: Tensor | None = None,
) -> ScoringPlan:
    """Mask each sequence by its noise level, and score the masked positions with weight w(t).

    Source: the negative bound of masked diffusion (LLaDA, arXiv:2502.09992, eq. 3; MDLM, arXiv:2406.07524, eq. 10).
    Deviates: averages over the maskable tokens of the whole batch, where the papers average sequences of one length.

    Args:
        ids_T: int64 clean tokens.
        t_T: fp32 in (0, 1]; noise level of each token's sequence.
        is_maskable_T: bool; False for special tokens.
        num_maskable: Maskable tokens of the whole step, of which this batch may be a part; what else weights are to be
            divided by, `normalized` does.
        mask_token_id: The absorbing token.
        schedule: Gives alpha(t) and w(t).
        generator: Source of randomness, on the CPU.
        cart_T: int64 number of each token's sequence, to weigh by `cart_weights` in place of w(t).
    """
    corrupted = corrupt(ids_T, t_T, is_maskable_T, mask_token_id=mask_token_id, schedule=schedule, generator=generator)
    positions_N = corrupted.is_masked_T.nonzero().squeeze(1)
    if cart_T is None:
        weights_N = schedule.loss_weight(t_T[positions_N])
    else:
        weights_N = cart_weights(corrupted.is_masked_T, cart_T)[positions_N]
    return ScoringPlan(
        input_ids_T=corrupted.ids_T,
        positions_N=positions_N,
        targets_N=ids_T[positions_N],
        weights_N=weights_N / max(1, num_maskable),
    )


def cart_weights(is_masked_T: Tensor, sequence_T: Tensor) -> Tensor:
    """fp32 weights that grow with clean tokens nearby: 1/2 sum over clean i of p (1 - p)^(|n - i| - 1), p = 0.3.

    Source: Dream's context-adaptive token-level noise rescheduling (arXiv:2508.15487); p as in dllm. They take the
    place of 1/t altogether. Deviates: neighbours whose term is below 1e-7 are left out, some 40 tokens away.

    Args:
        is_masked_T: bool.
        sequence_T: int64 number of each token's sequence; others' tokens are no neighbours.
    """
    clean_T = (~is_masked_T).float()
    weights_T = torch.zeros_like(clean_T)
    for distance in range(1, min(CART_REACH, len(clean_T) - 1) + 1):
        is_same_T = (sequence_T[distance:] == sequence_T[:-distance]).float()
        term = 0.5 * CART_SHARE * (1 - CART_SHARE) ** (distance - 1)
        weights_T[distance:] += term * clean_T[:-distance] * is_same_T
        weights_T[:-distance] += term * clean_T[distance:] * is_same_T
    return weights_T


def plan_masked_next_token(
    ids_T: Tensor,
    is_maskable_T: Tensor,
    *,
    share: float,
    only_masks: bool,
    mask_token_id: int,
    vocab_size: int,
    generator: torch.Generator,
) -> ScoringPlan:
    """Hide a share of the tokens, and score them all alike; the state *before* a token predicts it.

    Source: masked next-token prediction of LLM2Vec (arXiv:2404.05961, section 2.2). Hidden is BERT's way
    (arXiv:1810.04805): 80% a mask, 10% a random token, 10% the token itself; or always a mask, as LLM2Vec does for
    Mistral. Weights are 1: `normalized` makes them a mean.

    Args:
        ids_T: int64 clean tokens.
        is_maskable_T: bool; False for special tokens and for each sequence's first.
        share: Of the maskable tokens, in (0, 1].
        only_masks: Whether each hidden token is a mask.
        mask_token_id: Of the mask.
        vocab_size: Random tokens are below it.
        generator: Source of randomness, on the CPU.

    Returns:
        A plan whose positions are those of the hidden tokens, for `Backbone.predicting_states` of a model that shifts.
    """
    draws = [torch.rand(ids_T.shape, generator=generator) for _ in range(2)]
    random_T = torch.randint(vocab_size, ids_T.shape, generator=generator).to(ids_T.device)
    hidden_T, kind_T = (draw.to(ids_T.device) for draw in draws)
    is_hidden_T = (hidden_T < share) & is_maskable_T
    shown_T = torch.full_like(ids_T, mask_token_id)
    if not only_masks:
        shown_T = torch.where(kind_T < 0.8, shown_T, torch.where(kind_T < 0.9, random_T, ids_T))
    positions_N = is_hidden_T.nonzero().squeeze(1)
    return ScoringPlan(
        input_ids_T=torch.where(is_hidden_T, shown_T, ids_T),
        positions_N=positions_N,
        targets_N=ids_T[positions_N],
        weights_N=torch.ones(len(positions_N), device=ids_T.device),
    )


def normalized(plan: ScoringPlan, count: int) -> ScoringPlan:
    """The plan with its weights divided by a number of tokens: all maskable ones for the bound per token, or all masked
    ones (DiffuLLaMA, arXiv:2410.17891: about twice as large, and no bound).
    """
    return replace(plan, weights_N=plan.weights_N / max(1, count))


def plan_next_token(ids_T: Tensor, sequence_T: Tensor, *, num_predicted: int) -> ScoringPlan:
    """Score every position against the token that follows it in its sequence, all alike.

    Args:
        ids_T: int64 tokens.
        sequence_T: int64 number of each token's sequence.
        num_predicted: Predicted tokens of the whole step (all but each sequence's first).
    """
    positions_N = (sequence_T[1:] == sequence_T[:-1]).nonzero().squeeze(1)
    weights_N = torch.full(positions_N.shape, 1 / max(1, num_predicted), device=ids_T.device)
    return ScoringPlan(
        input_ids_T=ids_T, positions_N=positions_N, targets_N=ids_T[positions_N + 1], weights_N=weights_N
    )


def planned_loss(plan: ScoringPlan, states_TD: Tensor, table_VD: Tensor) -> Tensor:
    """Loss of a plan: scalar fp32, nats per token; 0 (with zero gradients) when nothing is scored."""
    return weighted_cross_entropy(states_TD[plan.positions_N], table_VD, plan.targets_N, plan.weights_N)
