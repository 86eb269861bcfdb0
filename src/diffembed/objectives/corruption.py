"""Clean tokens + noise level -> tokens in which some are [MASK].

Shape letters: T packed tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffembed.objectives.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Corrupted:
    """What the model sees, and which positions it must restore.

    Attributes:
        ids_T: int64, with mask_token_id at the masked positions.
        is_masked_T: bool.
    """

    ids_T: Tensor
    is_masked_T: Tensor


def corrupt(
    ids_T: Tensor,
    t_T: Tensor,
    is_maskable_T: Tensor,
    *,
    mask_token_id: int,
    schedule: Schedule,
    generator: torch.Generator,
) -> Corrupted:
    """Replace each maskable token by [MASK] with probability 1 - alpha(t), independently.

    Args:
        ids_T: int64 clean tokens; not changed.
        t_T: fp32 in [0, 1]; the noise level of each token's sequence.
        is_maskable_T: bool; False where a token must stay (special tokens).
        mask_token_id: The absorbing token.
        schedule: Gives alpha(t).
        generator: Source of randomness, on the CPU, so that every device sees the same corruption.

    Raises:
        ValueError: t is outside [0, 1].
    """
    if not bool(((t_T >= 0) & (t_T <= 1)).all()):
        raise ValueError(f"noise level t must be in [0, 1], got {t_T.min():.3g} to {t_T.max():.3g}")
    u_T = torch.rand(ids_T.shape, generator=generator).to(ids_T.device)
    is_masked_T = (u_T >= schedule.keep_probability(t_T)) & is_maskable_T
    return Corrupted(ids_T=ids_T.masked_fill(is_masked_T, mask_token_id), is_masked_T=is_masked_T)
