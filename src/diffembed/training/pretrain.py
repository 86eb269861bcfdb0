"""Pre-train a backbone from random weights: masked diffusion, or next token for the autoregressive twin."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffembed import configs, hardware, runs
from diffembed.backbone.checkpoint import save_backbone
from diffembed.backbone.config import BackboneConfig
from diffembed.backbone.packed import PackedBatch, pack, split_by_tokens
from diffembed.backbone.transformer import Backbone
from diffembed.data.docstrings import read_docstrings
from diffembed.data.segments import SegmentBatches, TokenStore
from diffembed.data.sources import find_sources, iter_texts
from diffembed.errors import ConfigError, DataError
from diffembed.objectives.pretraining import ScoringPlan, plan_masked_diffusion, plan_next_token, planned_loss
from diffembed.objectives.schedule import LinearSchedule, draw_noise_levels
from diffembed.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from diffembed.training.loop import LoopConfig, PartialLoss, train
from diffembed.training.optimizer import OptimizerConfig

Objective = Literal["masked_diffusion", "next_token"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """One pre-training run."""

    backbone: BackboneConfig
    objective: Objective
    """masked_diffusion needs direction both, next_token direction forward."""
    optimizer: OptimizerConfig
    loop: LoopConfig
    tokens_per_step: int
    """Tokens of a batch, EOS included."""
    tokens_per_micro_batch: int
    """Tokens of one forward and backward pass; 4,096 stay in a CPU's cache (a third faster than 16,384)."""
    segment_lengths: tuple[int, ...]
    """Lengths in tokens that documents are cut to; the longest is the trained context."""
    segment_shares: tuple[float, ...]
    """How often each length comes; short ones are cheap, long ones teach context."""
    tokenizer_bytes: int
    """UTF-8 bytes of text that the tokenizer is trained on, taken evenly from the sources."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and states; None: what this machine multiplies fast. Master weights are fp32 always."""

    def __post_init__(self) -> None:
        wanted = "both" if self.objective == "masked_diffusion" else "forward"
        if self.backbone.direction != wanted:
            raise ConfigError(
                f"objective {self.objective} needs backbone.direction {wanted}, got {self.backbone.direction}"
            )
        if len(self.segment_lengths) != len(self.segment_shares) or not self.segment_lengths:
            raise ConfigError("segment_lengths and segment_shares must be equally long and not empty")
        if max(self.segment_lengths) > min(self.backbone.max_positions, self.tokens_per_micro_batch):
            raise ConfigError(
                f"the longest segment, {max(self.segment_lengths)}, exceeds max_positions "
                f"{self.backbone.max_positions} or tokens_per_micro_batch {self.tokens_per_micro_batch}"
            )


def main(config: PretrainConfig, *, data: Path | None, out: Path, resume: bool = False, command: list[str]) -> Path:
    """Run a pre-training; the model ends in `out/model`.

    Args:
        config: The whole configuration.
        data: Folder of sources; None: the docstrings of this Python's standard library.
        out: Run directory.
        resume: Go on with a stopped run.
        command: The command line, for the record.

    Returns:
        The model folder.
    """
    sources = find_sources(data) if data is not None else None
    device = hardware.default_device()
    hardware.keep_freed_memory()
    run = runs.open_run(out, config=configs.to_dict(config), command=command, env=hardware.describe(), resume=resume)

    def texts() -> Iterator[str]:
        if sources is None:
            return (passage.text for passage in read_docstrings())
        return (text for source in sources for text in iter_texts(source))

    tokenizer = _tokenizer(run.path / "tokenizer", texts, config)
    store = TokenStore.open(run.path / "tokens") or TokenStore.build(run.path / "tokens", texts(), tokenizer)
    batches = SegmentBatches(
        store,
        lengths=config.segment_lengths,
        shares=config.segment_shares,
        tokens_per_batch=config.tokens_per_step,
        num_batches=config.loop.num_steps,
        eos_id=tokenizer.eos_id,
        seed=config.loop.seed,
    )
    _say(f"{len(store.ends):,} documents, {len(store.tokens):,} tokens; {config.loop.num_steps:,} steps")

    backbone = Backbone(config.backbone)
    backbone.init_weights(torch.Generator().manual_seed(config.loop.seed))
    dtype = getattr(torch, config.dtype) if config.dtype else hardware.default_dtype(device)
    backbone = backbone.to(device=device, dtype=dtype)

    def micro_batches(step: int, generator: torch.Generator) -> Iterator[PartialLoss]:
        # Sorted by length, so that a micro-batch has few groups of equal lengths.
        sequences = sorted(batches[step - 1], key=len)
        t_B = draw_noise_levels(len(sequences), generator)
        num_scorable = sum(len(ids) - 1 for ids in sequences)  # EOS is never masked; the first token never predicted
        for rows in split_by_tokens([len(ids) for ids in sequences], config.tokens_per_micro_batch):
            batch = pack(sequences[rows], device)
            plan = _plan(batch, t_B[rows], num_scorable, config.objective, tokenizer.mask_id, generator)
            states_TD = backbone(batch.with_ids(plan.input_ids_T))
            loss = planned_loss(plan, states_TD, backbone.embed_tokens.weight)
            yield PartialLoss(loss, batch.num_tokens, {"scored": plan.positions_N.numel()})

    label = f"pretrain {config.objective}"
    facts = train(run, backbone, micro_batches, label=label, loop=config.loop, optimizer_config=config.optimizer)
    model = run.path / "model"
    save_backbone(backbone, model)
    tokenizer.save(model)
    run.finish(model=str(model.relative_to(run.path)), documents=len(store.ends), **facts)
    return model


def _plan(
    batch: PackedBatch, t_B: Tensor, num_scorable: int, objective: Objective, mask_id: int, generator: torch.Generator
) -> ScoringPlan:
    segment_T = batch.segment_ids()
    if objective == "next_token":
        return plan_next_token(batch.ids_T, segment_T, num_predicted=num_scorable)
    return plan_masked_diffusion(
        batch.ids_T,
        t_B.to(segment_T.device)[segment_T],
        batch.ids_T >= len(SPECIAL_TOKENS),
        num_maskable=num_scorable,
        mask_token_id=mask_id,
        schedule=LinearSchedule(),
        generator=generator,
    )


def _tokenizer(folder: Path, texts: Callable[[], Iterator[str]], config: PretrainConfig) -> Tokenizer:
    """The run's tokenizer: trained once, then read back."""
    if (folder / "tokenizer_config.json").exists():
        return Tokenizer.load(folder)
    _say("training the tokenizer")
    tokenizer = Tokenizer.train(_sample(texts, config.tokenizer_bytes), config.backbone.vocab_size)
    if tokenizer.vocab_size != config.backbone.vocab_size:
        raise DataError(
            f"the text gives only {tokenizer.vocab_size} tokens, the backbone has {config.backbone.vocab_size}",
            hint="add text, or lower backbone.vocab_size",
        )
    tokenizer.save(folder)
    return tokenizer


def _sample(texts: Callable[[], Iterator[str]], num_bytes: int) -> Iterator[str]:
    """A random sample of about `num_bytes` of text, even over all of it."""
    total = sum(len(text) for text in texts())
    keep = num_bytes / max(total, 1)
    rng = np.random.default_rng(0)
    return (text for text in texts() if rng.random() < keep)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201
