"""Pre-train a backbone: masked diffusion, or next token for the autoregressive twin.

It begins from random weights, or from a model: an autoregressive one then learns to look both ways (`init`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffembed import configs, hardware
from diffembed.backbone.checkpoint import load_backbone, read_config, save_backbone
from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.config_files import from_hugging_face
from diffembed.backbone.packed import PackedBatch, pack, split_by_tokens
from diffembed.backbone.transformer import Backbone
from diffembed.data.docstrings import read_docstrings
from diffembed.data.segments import SegmentBatches, TokenStore
from diffembed.data.sources import Source, describe_files, find_sources, iter_texts
from diffembed.embedder.locate import check_model, find
from diffembed.errors import ConfigError, DataError
from diffembed.objectives.pretraining import ScoringPlan, plan_masked_diffusion, plan_next_token, planned_loss
from diffembed.objectives.schedule import LinearSchedule, draw_noise_levels
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.tokenizer_files import TOKENIZER_CONFIG_FILE
from diffembed.training.distributed import Ranks, connect
from diffembed.training.loop import LoopConfig, PartialLoss, check_sharding, train
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.progress import announce, say
from diffembed.training.sharding import whole_weights

Objective = Literal["masked_diffusion", "next_token"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """One pre-training run."""

    backbone: BackboneConfig | None
    """Shape of random weights; None with `init`, whose folder says it."""
    objective: Objective
    """masked_diffusion needs direction both, next_token direction forward; a model given by `init` gets it."""
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
    init: str | None = None
    """Folder or hub id of a model to go on from, tokenizer included. One that looked only back keeps predicting each
    token from the state before it, and sees what follows from the first step on (DiffuLLaMA's 7B, pplx-embed)."""
    mask_token: str | None = None
    """With `init`: the token that hides others, of those that its tokenizer has; a rare one where none was made for it.
    None: the tokenizer's own mask token."""
    docstrings: bool = False
    """Where no data is given, train on the docstrings of the running Python's standard library."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and states; None: what this machine multiplies fast. Master weights are fp32 always."""

    def __post_init__(self) -> None:
        check_sharding(self.loop, self.optimizer)
        if (self.init is None) == (self.backbone is None):
            raise ConfigError(
                "a run begins from init or from random weights like backbone: one of them must be set, the other null",
                hint="init brings shape and tokenizer",
            )
        if self.mask_token is not None and self.init is None:
            raise ConfigError("mask_token is for init: a new tokenizer has its own", hint="set mask_token=null")
        if self.backbone is not None and self.backbone.direction != self.direction:
            raise ConfigError(
                f"objective {self.objective} needs backbone.direction {self.direction}, got {self.backbone.direction}",
                hint=f"set backbone.direction={self.direction}",
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
            *([("backbone.max_positions", self.backbone.max_positions)] if self.backbone else []),
            ("tokens_per_micro_batch", self.tokens_per_micro_batch),
            ("tokens_per_step", self.tokens_per_step),
        ):
            if max(self.segment_lengths) > limit:
                raise ConfigError(
                    f"the longest segment has {max(self.segment_lengths)} tokens, {name} is {limit}",
                    hint=f"raise {name} or shorten the segments",
                )

    @property
    def direction(self) -> Direction:
        """Where the objective lets a token look."""
        return "both" if self.objective == "masked_diffusion" else "forward"


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
    with connect() as ranks:
        return _run(config, data, out, resume, command, ranks)


def _run(config: PretrainConfig, data: Path | None, out: Path, resume: bool, command: list[str], ranks: Ranks) -> Path:
    sources = find_sources(data) if data is not None else None
    if config.init:
        check_model(find(config.init))
    hardware.keep_freed_memory()
    hardware.limit_threads()
    dtype = config.dtype or hardware.default_dtype_name(ranks.device.type)
    config = replace(config, dtype=dtype)  # so that it is recorded, and a resumed run keeps it
    env = {**hardware.describe(), "data": describe_files(data) if data is not None else "docstrings"}
    run = ranks.open_run(out, config=configs.to_dict(config), command=command, env=env, resume=resume)
    with run.preparing():
        backbone, tokenizer, store, batches = ranks.main_first(lambda: _prepare(run.path, sources, config))
    if ranks.is_main:
        announce(run, f"{len(store.ends):,} documents, {len(store.tokens):,} tokens; {config.loop.num_steps:,} steps")

    backbone = backbone.to(device=ranks.device, dtype=getattr(torch, dtype))
    facts = train(
        run,
        backbone,
        partial(_micro_batches, backbone, batches, tokenizer, config, ranks),
        label="pretrain",
        loop=config.loop,
        optimizer_config=config.optimizer,
        ranks=ranks,
        describe_batch=lambda step: {"ids": batches[step - 1]},
    )
    model = run.path / "model"
    weights = whole_weights(backbone, getattr(torch, dtype), ranks)
    if ranks.is_main:
        tokenizer.save(model)
        trained = Backbone.from_weights(backbone.config, weights)
        save_backbone(trained, model, pad_id=tokenizer.find_id("pad"), eos_id=tokenizer.eos_id)
    run.finish(model=str(model.relative_to(run.path)), documents=len(store.ends), **facts)
    return model


def _micro_batches(
    backbone: Backbone,
    batches: SegmentBatches,
    tokenizer: Tokenizer,
    config: PretrainConfig,
    ranks: Ranks,
    step: int,
    generator: torch.Generator,
) -> Iterator[PartialLoss]:
    """This rank's part of a step. All ranks plan all micro-batches: the randomness is that of a single process."""
    # Sorted by length, so that a micro-batch has few groups of equal lengths.
    sequences = sorted(([*tokenizer.prefix, *ids] for ids in batches[step - 1]), key=len)
    t_B = draw_noise_levels(len(sequences), generator)
    num_scorable = sum(len(ids) for ids in sequences) - len(sequences) * _num_unscored(backbone, tokenizer, config)
    cuts = list(split_by_tokens([len(ids) for ids in sequences], config.tokens_per_micro_batch))
    for number in range(-(-len(cuts) // ranks.world) * ranks.world):
        is_filler = number >= len(cuts)
        is_own = number % ranks.world == ranks.rank
        if is_filler and not (is_own and config.loop.shard):
            continue
        rows = cuts[0 if is_filler else number]
        batch = pack(sequences[rows], ranks.device if is_own else "cpu")
        plan = _plan(batch, t_B[rows], num_scorable, backbone, tokenizer, config, generator)
        if is_own:
            states_TD = backbone(batch.with_ids(plan.input_ids_T))
            if config.objective == "masked_diffusion":
                states_TD = backbone.predicting_states(states_TD, batch)
            head = backbone.lm_head if backbone.config.head == "own" else backbone.embed_tokens
            loss = planned_loss(plan, states_TD, head.weight)
            if is_filler:  # spread weights are fetched by all ranks together, so all run as often
                yield PartialLoss(loss * 0, 0, {})
            else:
                yield PartialLoss(loss, batch.num_tokens, {"scored": plan.positions_N.numel()})


def _prepare(
    folder: Path, sources: list[Source] | None, config: PretrainConfig
) -> tuple[Backbone, Tokenizer, TokenStore, SegmentBatches]:
    """The weights to begin with; tokenizer and tokens, made once and then read back; the batches they are dealt in."""

    def texts() -> Iterator[str]:
        if sources is None:
            return (passage.text for passage in read_docstrings())
        return (text for source in sources for text in iter_texts(source))

    if config.init:
        backbone, tokenizer = _starting_point(find(config.init), config)
    else:
        assert config.backbone is not None
        backbone = Backbone(config.backbone)
        backbone.init_weights(torch.Generator().manual_seed(config.loop.seed))
        vocab_size = config.backbone.vocab_size
        tokenizer = _tokenizer(folder / "tokenizer", texts, config.tokenizer_chars, vocab_size)
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
    return backbone, tokenizer, store, batches


def _starting_point(folder: Path, config: PretrainConfig) -> tuple[Backbone, Tokenizer]:
    """A model of any family, its head included, as the objective needs it.

    Raises:
        ConfigError: It has no token to mask with, or too few positions.
    """
    dtype = getattr(torch, config.dtype or "float32")
    looked_back = from_hugging_face(read_config(folder))[1].direction == "forward"
    backbone = load_backbone(folder, dtype=dtype, direction=config.direction, with_head=True)
    if config.objective == "masked_diffusion" and looked_back:
        backbone.config = replace(backbone.config, logit_shift=True)
    longest, positions = max(config.segment_lengths), backbone.config.max_positions
    tokenizer = Tokenizer.load(folder)
    if longest + len(tokenizer.prefix) > positions:
        raise ConfigError(
            f"the longest segment has {longest} tokens, the model {positions} positions", hint="shorten the segments"
        )
    if config.mask_token is not None:
        if tokenizer.raw.token_to_id(config.mask_token) is None:
            raise ConfigError(
                f"the tokenizer of {folder} has no token {config.mask_token!r}", hint="name one that it has"
            )
        tokenizer = Tokenizer(tokenizer.raw, {**tokenizer.names, "mask": config.mask_token})
    if config.objective == "masked_diffusion" and "mask" not in tokenizer.names:
        raise ConfigError(
            f"the tokenizer of {folder} has no mask token",
            hint="set mask_token to a token of it that texts do not hold, such as a reserved one",
        )
    return backbone.train(), tokenizer


def _num_unscored(backbone: Backbone, tokenizer: Tokenizer, config: PretrainConfig) -> int:
    """Tokens of a sequence that are never targets."""
    if config.objective == "next_token":
        return 1  # the first
    # What stands in front, or else the first token where no state comes before it; and EOS.
    return max(len(tokenizer.prefix), int(backbone.config.logit_shift)) + 1


def _plan(
    batch: PackedBatch,
    t_B: Tensor,
    num_scorable: int,
    backbone: Backbone,
    tokenizer: Tokenizer,
    config: PretrainConfig,
    generator: torch.Generator,
) -> ScoringPlan:
    sequence_T = batch.sequence_numbers()
    if config.objective == "next_token":
        return plan_next_token(batch.ids_T, sequence_T, num_predicted=num_scorable)
    kinds = [tokenizer.find_id(kind) for kind in tokenizer.names]
    special = torch.tensor([*tokenizer.prefix, *tokenizer.suffix, *kinds], device=sequence_T.device)
    is_maskable_T = torch.isin(batch.ids_T, special, invert=True)
    if backbone.config.logit_shift:
        is_maskable_T &= batch.positions_T > 0
    return plan_masked_diffusion(
        batch.ids_T,
        t_B.to(sequence_T.device)[sequence_T],
        is_maskable_T,
        num_maskable=num_scorable,
        mask_token_id=tokenizer.mask_token_id,
        schedule=LinearSchedule(),
        generator=generator,
    )


def _tokenizer(folder: Path, texts: Callable[[], Iterator[str]], num_chars: int, vocab_size: int) -> Tokenizer:
    """The run's tokenizer: trained once, then read back."""
    if (folder / TOKENIZER_CONFIG_FILE).exists():
        return Tokenizer.load(folder)
    say("training the tokenizer")
    tokenizer = Tokenizer.train(_sample(texts, num_chars), vocab_size)
    if tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"the text gives only {tokenizer.vocab_size} tokens, the backbone has {vocab_size}",
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
