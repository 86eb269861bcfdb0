"""A step of pre-training: its segments, which of their tokens are hidden, and the loss of predicting those."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffembed.backbone.packed import PackedBatch, pack, split_by_tokens
from diffembed.backbone.transformer import Backbone
from diffembed.data.segments import SegmentBatches
from diffembed.objectives.pretraining import (
    ScoringPlan,
    normalized,
    plan_masked_diffusion,
    plan_masked_next_token,
    plan_next_token,
    planned_loss,
)
from diffembed.objectives.schedule import LinearSchedule, draw_noise_levels
from diffembed.text.tokenizer import Tokenizer
from diffembed.training.distributed import Ranks
from diffembed.training.gradcache import LARGEST_SEED, seeded
from diffembed.training.loop import PartialLoss
from diffembed.training.pretrain_config import PretrainConfig


class Scoring:
    """A backbone in pre-training on batches of segments.

    All ranks plan all micro-batches of a step, so that the randomness is that of a single process, and run their own.
    """

    def __init__(
        self, backbone: Backbone, batches: SegmentBatches, tokenizer: Tokenizer, config: PretrainConfig, ranks: Ranks
    ) -> None:
        self.backbone, self.batches, self.tokenizer = backbone, batches, tokenizer
        self.config, self.ranks = config, ranks
        self.shifts = backbone.config.logit_shift and config.objective != "next_token"

    def micro_batches(self, step: int, generator: torch.Generator) -> Iterator[PartialLoss]:
        """This rank's parts of the loss of a step."""
        # Sorted by length, so that a micro-batch has few groups of equal lengths.
        sequences = sorted(([*self.tokenizer.prefix, *ids] for ids in self.batches[step - 1]), key=len)
        t_B = draw_noise_levels(len(sequences), generator)
        cuts = list(split_by_tokens([len(ids) for ids in sequences], self.config.tokens_per_micro_batch))
        planned = []
        for number, rows in enumerate(self._filled(cuts)):
            is_own = number % self.ranks.world == self.ranks.rank
            batch = pack(sequences[rows], self.ranks.device if is_own else "cpu")
            planned.append((batch, self._plan(batch, t_B[rows], generator)))
        count = sum(plan.positions_N.numel() for _, plan in planned[: len(cuts)])
        if self.config.objective != "masked_next_token" and self.config.normalizer == "maskable":
            count = sum(len(ids) for ids in sequences) - len(sequences) * self._num_unscored()
        seeds = self._seeds(len(planned), generator)
        self.backbone.open_future(self._future_share(step))
        for number in range(self.ranks.rank, len(planned), self.ranks.world):
            batch, plan = planned[number]
            loss = self._loss(batch, normalized(plan, count), seeds[number])
            if number < len(cuts):
                yield PartialLoss(loss, batch.num_tokens, {"scored": plan.positions_N.numel()})
            else:
                yield PartialLoss(loss * 0, 0, {})

    def _filled(self, cuts: list[slice]) -> list[slice]:
        """Spread weights are fetched by all ranks together, so all run as often: some the first micro-batch again."""
        spare = -len(cuts) % self.ranks.world if self.config.loop.shard else 0
        return [*cuts, *[cuts[0]] * spare]

    def _seeds(self, count: int, generator: torch.Generator) -> list[int] | list[None]:
        if not (self.config.lora or self.config.anneal_steps):
            return [None] * count  # nothing else is random
        return torch.randint(LARGEST_SEED, (count,), generator=generator).tolist()

    def _future_share(self, step: int) -> float:
        """DiffuLLaMA's attention-mask annealing (arXiv:2410.17891): the share of what lies ahead rises in a line."""
        return min(1.0, step / self.config.anneal_steps) if self.config.anneal_steps else 1.0

    def _loss(self, batch: PackedBatch, plan: ScoringPlan, seed: int | None) -> Tensor:
        backbone = self.backbone
        with seeded(seed, self.ranks.device):
            states_TD = backbone(batch.with_ids(plan.input_ids_T))
        if self.shifts:
            states_TD = backbone.predicting_states(states_TD, batch)
        head = backbone.lm_head if backbone.config.head == "own" else backbone.embed_tokens
        return planned_loss(plan, states_TD, head.weight)

    def _num_unscored(self) -> int:
        """Tokens of a sequence that are never targets."""
        if self.config.objective == "next_token":
            return 1  # the first
        # What stands in front, or else the first token where no state comes before it; and EOS.
        return max(len(self.tokenizer.prefix), int(self.shifts)) + 1

    def _plan(self, batch: PackedBatch, t_B: Tensor, generator: torch.Generator) -> ScoringPlan:
        config, tokenizer = self.config, self.tokenizer
        sequence_T = batch.sequence_numbers()
        if config.objective == "next_token":
            return plan_next_token(batch.ids_T, sequence_T, num_predicted=1)
        kinds = [tokenizer.find_id(kind) for kind in tokenizer.names]
        special = torch.tensor([*tokenizer.prefix, *tokenizer.suffix, *kinds], device=sequence_T.device)
        is_maskable_T = torch.isin(batch.ids_T, special, invert=True)
        if self.shifts:
            is_maskable_T &= batch.positions_T > 0
        if config.objective == "masked_next_token":
            return plan_masked_next_token(
                batch.ids_T,
                is_maskable_T,
                share=config.mask_share,
                only_masks=config.only_masks,
                mask_token_id=tokenizer.mask_token_id,
                vocab_size=tokenizer.vocab_size,
                generator=generator,
            )
        return plan_masked_diffusion(
            batch.ids_T,
            t_B.to(sequence_T.device)[sequence_T],
            is_maskable_T,
            num_maskable=1,
            mask_token_id=tokenizer.mask_token_id,
            schedule=LinearSchedule(),
            generator=generator,
            cart_T=sequence_T if config.weighting == "cart" else None,
        )
