"""Pre-train a backbone from random weights: masked diffusion, or next token for the autoregressive twin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from diffembed.data.sources import Source, describe_files, find_sources, iter_texts
from diffembed.errors import ConfigError, DataError
from diffembed.objectives.pretraining import ScoringPlan, plan_masked_diffusion, plan_next_token, planned_loss
from diffembed.objectives.schedule import LinearSchedule, draw_noise_levels
from diffembed.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from diffembed.text.tokenizer_files import TOKENIZER_CONFIG_FILE
from diffembed.training.loop import LoopConfig, PartialLoss, train
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.progress import announce, say

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
    tokenizer_chars: int
    """Characters of text that the tokenizer is trained on: whole texts, drawn evenly from all of them."""
    docstrings: bool = False
    """Where no data is given, train on the docstrings of the running Python's standard library."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and states; None: what this machine multiplies fast. Master weights are fp32 always."""

    def __post_init__(self) -> None:
        wanted = "both" if self.objective == "masked_diffusion" else "forward"
        if self.backbone.direction != wanted:
            raise ConfigError(
                f"objective {self.objective} needs backbone.direction {wanted}, got {self.backbone.direction}",
                hint=f"set backbone.direction={wanted}",
            )
        if len(self.segment_lengths) != len(self.segment_shares) or not self.segment_lengths:
            raise ConfigError(
                f"segment_lengths and segment_shares must be equally long and not empty, got {self.segment_lengths} "
                f"and {self.segment_shares}",
                hint="give each length its share",
            )
        if min(self.segment_lengths) < 2 or not min(self.segment_shares) > 0:
            raise ConfigError(
                f"segments need at least 2 tokens and a share above 0, got {self.segment_lengths} and "
                f"{self.segment_shares}",
                hint="leave out the lengths that are not wanted",
            )
        for name, limit in (
            ("backbone.max_positions", self.backbone.max_positions),
            ("tokens_per_micro_batch", self.tokens_per_micro_batch),
            ("tokens_per_step", self.tokens_per_step),
        ):
            if max(self.segment_lengths) > limit:
                raise ConfigError(
                    f"the longest segment has {max(self.segment_lengths)} tokens, {name} is {limit}",
                    hint=f"raise {name} or shorten the segments",
                )


def main(config: PretrainConfig, *, data: Path | None, out: Path, resume: bool = False, command: list[str]) -> Path:
    """Run a pre-training; the model ends in `out/model`.

    Args:
        config: The whole configuration.
        data: Folder of sources; None where the configuration allows docstrings.
        out: Run directory.
        resume: Go on with a stopped run.
        command: The command line, for the record.

    Returns:
        The model folder.
    """
    if data is None and not config.docstrings:
        raise ConfigError("this recipe needs text to train on", hint="name a folder of sources by --data")
    sources = find_sources(data) if data is not None else None
    device = hardware.default_device()
    hardware.keep_freed_memory()
    hardware.limit_threads()
    dtype = config.dtype or hardware.default_dtype_name(device)
    config = replace(config, dtype=dtype)  # so that it is recorded, and a resumed run keeps it
    env = {**hardware.describe(), "data": describe_files(data) if data is not None else "docstrings"}
    run = runs.open_run(out, config=configs.to_dict(config), command=command, env=env, resume=resume)
    with run.preparing():
        tokenizer, store, batches = _prepare(run.path, sources, config)
    announce(run, f"{len(store.ends):,} documents, {len(store.tokens):,} tokens; {config.loop.num_steps:,} steps")

    backbone = Backbone(config.backbone)
    backbone.init_weights(torch.Generator().manual_seed(config.loop.seed))
    backbone = backbone.to(device=device, dtype=getattr(torch, dtype))

    def micro_batches(step: int, generator: torch.Generator) -> Iterator[PartialLoss]:
        # Sorted by length, so that a micro-batch has few groups of equal lengths.
        sequences = sorted(batches[step - 1], key=len)
        t_B = draw_noise_levels(len(sequences), generator)
        num_scorable = sum(len(ids) - 1 for ids in sequences)  # EOS is never masked; the first token never predicted
        for rows in split_by_tokens([len(ids) for ids in sequences], config.tokens_per_micro_batch):
            batch = pack(sequences[rows], device)
            plan = _plan(batch, t_B[rows], num_scorable, config.objective, tokenizer, generator)
            states_TD = backbone(batch.with_ids(plan.input_ids_T))
            loss = planned_loss(plan, states_TD, backbone.embed_tokens.weight)
            yield PartialLoss(loss, batch.num_tokens, {"scored": plan.positions_N.numel()})

    facts = train(run, backbone, micro_batches, label="pretrain", loop=config.loop, optimizer_config=config.optimizer)
    model = run.path / "model"
    tokenizer.save(model)
    save_backbone(backbone, model, pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id)
    run.finish(model=str(model.relative_to(run.path)), documents=len(store.ends), **facts)
    return model


def _prepare(
    folder: Path, sources: list[Source] | None, config: PretrainConfig
) -> tuple[Tokenizer, TokenStore, SegmentBatches]:
    """Tokenizer and tokens of a run, made once and then read back, and the batches that they are dealt in."""

    def texts() -> Iterator[str]:
        if sources is None:
            return (passage.text for passage in read_docstrings())
        return (text for source in sources for text in iter_texts(source))

    tokenizer = _tokenizer(folder / "tokenizer", texts, config)
    store = TokenStore.open(folder / "tokens") or TokenStore.build(folder / "tokens", texts(), tokenizer)
    batches = SegmentBatches(
        store,
        lengths=config.segment_lengths,
        shares=config.segment_shares,
        tokens_per_batch=config.tokens_per_step,
        num_batches=config.loop.num_steps,
        eos_id=tokenizer.eos_id,
        seed=config.loop.seed,
    )
    return tokenizer, store, batches


def _plan(
    batch: PackedBatch,
    t_B: Tensor,
    num_scorable: int,
    objective: Objective,
    tokenizer: Tokenizer,
    generator: torch.Generator,
) -> ScoringPlan:
    sequence_T = batch.sequence_numbers()
    if objective == "next_token":
        return plan_next_token(batch.ids_T, sequence_T, num_predicted=num_scorable)
    return plan_masked_diffusion(
        batch.ids_T,
        t_B.to(sequence_T.device)[sequence_T],
        batch.ids_T >= len(SPECIAL_TOKENS),
        num_maskable=num_scorable,
        mask_token_id=tokenizer.mask_token_id,
        schedule=LinearSchedule(),
        generator=generator,
    )


def _tokenizer(folder: Path, texts: Callable[[], Iterator[str]], config: PretrainConfig) -> Tokenizer:
    """The run's tokenizer: trained once, then read back."""
    if (folder / TOKENIZER_CONFIG_FILE).exists():
        return Tokenizer.load(folder)
    say("training the tokenizer")
    tokenizer = Tokenizer.train(_sample(texts, config.tokenizer_chars), config.backbone.vocab_size)
    if tokenizer.vocab_size != config.backbone.vocab_size:
        raise DataError(
            f"the text gives only {tokenizer.vocab_size} tokens, the backbone has {config.backbone.vocab_size}",
            hint="add text, or lower backbone.vocab_size",
        )
    tokenizer.save(folder)
    return tokenizer


def _sample(texts: Callable[[], Iterator[str]], num_chars: int) -> Iterator[str]:
    """A random sample of texts with about `num_chars` characters."""
    total = sum(len(text) for text in texts())
    keep = num_chars / max(total, 1)
    rng = np.random.default_rng(0)
    is_empty = True
    for text in texts():
        if rng.random() < keep:
            is_empty = False
            yield text
    if is_empty:  # all is in a few long texts, and none was drawn
        yield next(texts(), "")[:num_chars]
