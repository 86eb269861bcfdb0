"""Padding as DiffEmbed's published code has it, for those who want its numbers: batches show in the vectors.

That code casts the tokenizer's 0/1 mask to the dtype of the states and hands it to attention as a mask of floats, which
is added to the scores: real keys gain 1.0, padding gains nothing and is seen like any token (recipe.md 1.12, point 1;
`dream/modeling_dream.py` of siyue-zhang/DiffEmbed). Padding stands on the left. New models should not be trained so.

Shape letters: B sequences, L the longest of them, T packed tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor

from diffembed.backbone.packed import LengthGroup, PackedBatch, pack
from diffembed.backbone.transformer import Backbone
from diffembed.errors import ConfigError

REAL_KEY_GAIN = 1.0


class LegacyBackbone:
    """Stands in for `FusedBackbone`: all sequences of a batch are padded to the longest and see the padding.

    Args:
        backbone: One that looks both ways; it is copied.
        pad_id: What padding is made of; Dream's is its end of text.
        dtype: Of all arithmetic.
        device: Where it computes.

    Raises:
        ConfigError: The backbone looks one way only, which that code doesn't have.
    """

    is_batch_exact = False

    def __init__(self, backbone: Backbone, pad_id: int, *, dtype: torch.dtype, device: torch.device) -> None:
        if backbone.config.direction != "both":
            raise ConfigError(
                f"legacy padding is that of models that look both ways, and this one looks {backbone.config.direction}",
                hint="leave legacy_padding out",
            )
        self.config = backbone.config
        self.dtype, self.device = dtype, device
        weights = {name: weight.detach().to(device, dtype) for name, weight in backbone.named_parameters()}
        self._backbone: Any = Backbone.from_weights(backbone.config, weights).eval()
        self._pad_id = pad_id

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch) -> Tensor:
        """Compute the (T, D) fp32 states of the tokens that are no padding."""
        longest = max(batch.lengths)
        rows = [ids_T.tolist() for ids_T in batch.split(batch.ids_T)]
        padded = pack([[self._pad_id] * (longest - len(ids)) + ids for ids in rows], self.device)
        is_real_BL = torch.arange(longest) >= longest - torch.tensor(batch.lengths)[:, None]
        gains_BL = is_real_BL.to(self.device, self.dtype) * REAL_KEY_GAIN
        states_TD = self._backbone(
            PackedBatch(
                ids_T=padded.ids_T,
                positions_T=padded.positions_T,
                groups=(LengthGroup(len(rows), longest, gains_BL),),
                starts=padded.starts,
                lengths=padded.lengths,
            )
        ).float()
        kept = [
            states_TD[(row + 1) * longest - length : (row + 1) * longest] for row, length in enumerate(batch.lengths)
        ]
        # Back to packed order, which is that of the sequences' beginnings.
        order = sorted(range(len(rows)), key=batch.starts.__getitem__)
        return torch.cat([kept[row] for row in order])
