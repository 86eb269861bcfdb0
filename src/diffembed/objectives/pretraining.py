"""The two pre-training objectives: masked diffusion, and next token for the autoregressive twin.

Both give a plan: which ids the model reads, at which positions it is scored, against which tokens, with which weights.
The loss is then one weighted cross-entropy, so that the training loop is the same for both.

Shape letters: T packed tokens, N scored positions, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffembed.objectives.corruption import corrupt
from diffembed.objectives.cross_entropy import weighted_cross_entropy
from diffembed.objectives.schedule import Schedule


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """What to read and what to predict.

    Attributes:
        input_ids_T: int64; what the model reads.
        positions_N: int64 rows of T whose state predicts.
        targets_N: int64; the right token for each.
        weights_N: fp32; they carry 1/t and the normaliser, so that the loss is in nats per maskable token.
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
) -> ScoringPlan:
    """Mask each sequence by its noise level, and score the masked positions with weight w(t).

    Source: the negative bound of masked diffusion (LLaDA, arXiv:2502.09992, eq. 3; MDLM, arXiv:2406.07524, eq. 10).
    Deviates: averages over the maskable tokens of the whole batch, where the papers average sequences of one length.

    Args:
        ids_T: int64 clean tokens.
        t_T: fp32 in (0, 1]; noise level of each token's sequence.
        is_maskable_T: bool; False for special tokens.
        num_maskable: Maskable tokens of the whole step, of which this batch may be a part.
        mask_token_id: The absorbing token.
        schedule: Gives alpha(t) and w(t).
        generator: Source of randomness, on the CPU.
    """
    corrupted = corrupt(ids_T, t_T, is_maskable_T, mask_token_id=mask_token_id, schedule=schedule, generator=generator)
    positions_N = corrupted.is_masked_T.nonzero().squeeze(1)
    return ScoringPlan(
        input_ids_T=corrupted.ids_T,
        positions_N=positions_N,
        targets_N=ids_T[positions_N],
        weights_N=schedule.loss_weight(t_T[positions_N]) / max(1, num_maskable),
    )


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
