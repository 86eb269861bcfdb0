"""Fine-tune a backbone into an embedder: contrastive learning on (query, passage) pairs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffembed import configs, hardware
from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.transformer import Backbone
from diffembed.data.batches import PairBatch, PairBatches
from diffembed.data.pair_store import MixRow, PairStore
from diffembed.data.pairs import Pair, docstring_pairs, read_pairs
from diffembed.data.sources import describe_files
from diffembed.embedder import Embedder
from diffembed.embedder.folder import read_model
from diffembed.embedder.locate import find
from diffembed.errors import ConfigError, DataError
from diffembed.objectives.contrastive import in_batch_accuracy, info_nce
from diffembed.readout.pooling import to_vectors
from diffembed.readout.spec import SKIPPED
from diffembed.text.instructions import DEFAULT_PROMPTS, instruction_prompt
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.tokenizer_files import TOKENIZER_CONFIG_FILE
from diffembed.training.distributed import Ranks, connect
from diffembed.training.gradcache import BatchLoss, Laid, loss_in_parts
from diffembed.training.loop import LoopConfig, PartialLoss, check_sharding, train
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.progress import announce, say
from diffembed.training.sharding import whole_weights

# No text of ours averages more characters a token, so what lies beyond never reaches the model: English has 4 to 5.
MAX_CHARS_PER_TOKEN = 8
# Pairs that a tokenizer is trained on, where the run has to make its own.
TOKENIZER_PAIRS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """One fine-tuning run."""

    init: str | None
    """Folder of the model to begin with, for example a pre-training's `model`; None: random weights like `backbone`."""
    backbone: BackboneConfig | None
    """Shape of random weights; None with `init`, whose folder says it."""
    tokenizer_from: str | None
    """Folder with the tokenizer for random weights; None with `init`, or to train one on the pairs."""
    direction: Direction | None = None
    """Where the attention looks, in training and in the model that is saved; None: as `init` or `backbone` says."""
    mix: tuple[MixRow, ...]
    """Which pairs, how often, with what instruction. The first row that fits a pair counts."""
    batch_pairs: int
    """Pairs of a batch of the row with the shortest passages; others have fewer, at about equal tokens."""
    query_tokens: int
    """Queries are cut to this, EOS included, the prompt not."""
    temperature: float
    false_negative_margin: float | None
    """Other passages that beat a query's own by more than this in cosine are not counted as wrong; None: all are."""
    symmetric: bool
    """Also find the query for each passage."""
    instruction_share: float
    """Part of the queries that carry their row's instruction: the model must work with and without."""
    optimizer: OptimizerConfig
    loop: LoopConfig
    chunk_tokens: int = 2048
    """Tokens that go through the model at once; the loss is over the whole batch all the same."""
    recompute: bool = False
    """Run each chunk twice rather than keep its activations: a quarter slower, and memory for one chunk is enough."""
    checkpoint_layers: bool = False
    """Keep only what enters each layer of a chunk, and run the layer again on the way back: memory of one layer."""
    docstrings: bool = False
    """Where no data is given, train on the docstrings of the running Python's standard library."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and states; None: what this machine multiplies fast. Master weights are fp32 always."""

    def __post_init__(self) -> None:
        check_sharding(self.loop, self.optimizer)
        if self.init and (self.backbone or self.tokenizer_from):
            raise ConfigError(
                "init brings shape and tokenizer, and backbone or tokenizer_from is set too",
                hint="set them to null, or init",
            )
        if "backward" in (self.direction, self.backbone.direction if self.backbone else None):
            raise ConfigError(
                "a model that looks only ahead cannot be saved", hint="train with direction both or forward"
            )
        if self.chunk_tokens < 1:
            raise ConfigError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}", hint="2,048 suits a CPU")
        if not self.mix:
            raise ConfigError("mix has no row", hint="give it one that fits all: source * and kind *")
        if self.query_tokens < 2 or self.batch_pairs < 2:
            raise ConfigError(
                f"query_tokens and batch_pairs must be at least 2, got {self.query_tokens} and {self.batch_pairs}",
                hint="64 tokens and 256 pairs are usual",
            )
        if not self.temperature > 0 or not 0 <= self.instruction_share <= 1:
            raise ConfigError(
                f"temperature must be positive and instruction_share in [0, 1], got {self.temperature} and "
                f"{self.instruction_share}",
                hint="0.05 and 0.5 are usual",
            )
        if self.false_negative_margin is not None and not self.false_negative_margin >= 0:
            raise ConfigError(
                f"false_negative_margin must not be negative, got {self.false_negative_margin}", hint="null: no filter"
            )
        if min(self.batch_sizes()) < 2:
            raise ConfigError("a row's passage_tokens leave its batches less than 2 pairs", hint="raise batch_pairs")

    def batch_sizes(self) -> list[int]:
        """Pairs of a batch, for each row of the mix."""
        shortest = min(row.passage_tokens for row in self.mix)
        return [self.batch_pairs * shortest // row.passage_tokens for row in self.mix]


def main(config: FinetuneConfig, *, data: Path | None, out: Path, resume: bool = False, command: list[str]) -> Path:
    """Run a fine-tuning; the model ends in `out/model`.

    Args:
        config: The whole configuration.
        data: Folder of sources; None where the configuration allows docstrings.
        out: Run directory.
        resume: Go on with a stopped run.
        command: The command line, for the record.

    Returns:
        The model folder, complete with prompts, readable by `Embedder.load`.
    """
    if data is None and not config.docstrings:
        raise ConfigError("this recipe needs pairs to train on", hint="name a folder of sources by --data")
    with connect() as ranks:
        return _run(config, data, out, resume, command, ranks)


def _run(config: FinetuneConfig, data: Path | None, out: Path, resume: bool, command: list[str], ranks: Ranks) -> Path:
    hardware.keep_freed_memory()
    hardware.limit_threads()
    dtype = config.dtype or hardware.default_dtype_name(ranks.device.type)
    config = replace(config, dtype=dtype)  # so that it is recorded, and a resumed run keeps it
    backbone, tokenizer = starting_point(config)
    if tokenizer is not None:
        Prompts(tokenizer, config).check_fit(backbone.config.max_positions)
    pairs = read_pairs(data) if data is not None else docstring_pairs()
    env = {**hardware.describe(), "data": describe_files(data) if data is not None else "docstrings"}
    run = ranks.open_run(out, config=configs.to_dict(config), command=command, env=env, resume=resume)

    def prepare() -> tuple[PairStore, Tokenizer]:
        store = _open_store(run.path / "pairs", pairs, config)
        return store, tokenizer or _own_tokenizer(run.path / "tokenizer", store, backbone.config.vocab_size)

    with run.preparing():
        store, tokenizer = ranks.main_first(prepare)
        prompts = Prompts(tokenizer, config)
        prompts.check_fit(backbone.config.max_positions)
        batches = PairBatches(
            store, mix=config.mix, sizes=config.batch_sizes(), num_batches=config.loop.num_steps, seed=config.loop.seed
        )
    if ranks.is_main:
        announce(run, _summary(store, batches, config))
    backbone = backbone.to(device=ranks.device, dtype=getattr(torch, dtype)).train()
    backbone.checkpoint_layers = config.checkpoint_layers

    def micro_batches(step: int, generator: torch.Generator) -> Iterator[PartialLoss]:
        batch = batches[step - 1]
        return loss_in_parts(
            backbone,
            prompts.apply(batch, generator),
            partial(_batch_loss, config, batch.group.row),
            chunk_tokens=config.chunk_tokens,
            recompute=config.recompute,
            generator=generator,
            ranks=ranks,
            device=ranks.device,
        )

    facts = train(
        run,
        backbone,
        micro_batches,
        label="finetune",
        loop=config.loop,
        optimizer_config=config.optimizer,
        ranks=ranks,
        describe_batch=lambda step: {"queries": batches[step - 1].queries, "passages": batches[step - 1].passages},
    )
    model = run.path / "model"
    weights = whole_weights(backbone, torch.float32, ranks)
    if ranks.is_main:
        trained = {
            "objective": "info_nce",
            "temperature": config.temperature,
            "steps": facts["steps"],
            "tokens": facts["tokens"],
            "groups": {name: count["batches"] for name, count in batches.counts().items() if count["batches"]},
        }
        max_tokens = backbone.config.max_positions
        whole = Backbone.from_weights(backbone.config, weights)
        Embedder.from_backbone(whole, tokenizer, max_tokens=max_tokens, trained=trained).save(model)
    run.finish(
        model=str(model.relative_to(run.path)),
        groups=batches.counts(),
        left_out=batches.left_out,
        dropped=store.dropped,
        **facts,
    )
    return model


class Prompts:
    """Lays texts out as the embedder does: the role's prompt or the instruction, the text, EOS."""

    def __init__(self, tokenizer: Tokenizer, config: FinetuneConfig) -> None:
        self.tokenizer, self.config = tokenizer, config
        self.instructed = tokenizer.encode([instruction_prompt(row.instruction) for row in config.mix])
        self.query, self.passage = tokenizer.encode([DEFAULT_PROMPTS["query"], DEFAULT_PROMPTS["document"]])

    def check_fit(self, max_positions: int) -> None:
        """Refuse a mix whose longest texts the model has no positions for.

        Raises:
            ConfigError: Queries or passages may get too long.
        """
        for row, prompt in zip(self.config.mix, self.instructed, strict=True):
            needed = max(len(self.passage) + row.passage_tokens, len(prompt) + self.config.query_tokens)
            if needed > max_positions:
                raise ConfigError(
                    f"the mix row {row.source} {row.kind} needs {needed} positions, the model has {max_positions}",
                    hint="lower query_tokens or the row's passage_tokens",
                )

    def apply(self, batch: PairBatch, generator: torch.Generator) -> list[Laid]:
        """All queries of a batch, then all its passages; which queries carry the instruction is drawn."""
        ids = self.tokenizer.encode([*batch.queries, *batch.passages])
        queries, passages = ids[: len(batch.queries)], ids[len(batch.queries) :]
        row = batch.group.row
        is_instructed = torch.rand(len(queries), generator=generator) < self.config.instruction_share
        prompts = [self.instructed[row] if instructed else self.query for instructed in is_instructed.tolist()]
        return [
            *(self._lay_out(p, q, self.config.query_tokens) for p, q in zip(prompts, queries, strict=True)),
            *(self._lay_out(self.passage, p, self.config.mix[row].passage_tokens) for p in passages),
        ]

    def _lay_out(self, prompt: list[int], ids: list[int], longest: int) -> Laid:
        counted = [*ids[: longest - 1], *self.tokenizer.suffix]
        return Laid([*prompt, *counted], np.array([SKIPPED] * len(prompt) + [0] * len(counted)))


def starting_point(config: FinetuneConfig) -> tuple[Backbone, Tokenizer | None]:
    """What a run with this configuration begins from: weights in fp32, and the tokenizer where there is one yet."""
    if config.init:
        model = read_model(find(config.init), config.direction)
        return Backbone.from_weights(model.backbone.config, model.backbone.state_dict()), model.tokenizer
    if config.backbone is None:
        raise ConfigError("this recipe needs a model to begin with", hint="--set init=RUN/model, from a pre-training")
    backbone = Backbone(replace(config.backbone, direction=config.direction or config.backbone.direction))
    backbone.init_weights(torch.Generator().manual_seed(config.loop.seed))
    tokenizer = Tokenizer.load(config.tokenizer_from) if config.tokenizer_from else None
    if tokenizer is not None and tokenizer.vocab_size > backbone.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the backbone {backbone.config.vocab_size}",
            hint="take both from the same model",
        )
    return backbone, tokenizer


def _open_store(folder: Path, pairs: Iterator[Pair], config: FinetuneConfig) -> PairStore:
    store = PairStore.open(folder)
    if store is None:
        say("reading pairs")
        max_chars = [row.passage_tokens * MAX_CHARS_PER_TOKEN for row in config.mix]
        store = PairStore.build(folder, pairs, config.mix, max_chars)
    return store


def _batch_loss(config: FinetuneConfig, row: int, means_ND: Tensor) -> BatchLoss:
    """The first half of the means are queries', the second half their passages' in the same order."""
    query_BE, passage_PE = to_vectors(means_ND).chunk(2)
    positive_B = torch.arange(len(query_BE), device=means_ND.device)
    loss = info_nce(
        query_BE,
        passage_PE,
        positive_B,
        temperature=config.temperature,
        false_negative_margin=config.false_negative_margin,
        symmetric=config.symmetric,
    )
    accuracy = in_batch_accuracy(query_BE, passage_PE, positive_B)
    return BatchLoss(loss, {"accuracy": accuracy, "pairs": len(query_BE), "row": row})


def _own_tokenizer(folder: Path, store: PairStore, vocab_size: int) -> Tokenizer:
    """The run's own tokenizer: trained once on pairs drawn evenly, then read back."""
    if (folder / TOKENIZER_CONFIG_FILE).exists():
        return Tokenizer.load(folder)
    say("training the tokenizer")
    every = -(-len(store) // TOKENIZER_PAIRS)
    chosen = range(0, len(store), every)
    texts = (text for number in chosen for side in store.read([number]) for text in side)
    tokenizer = Tokenizer.train(texts, vocab_size)
    if tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"the pairs give only {tokenizer.vocab_size} tokens, the backbone has {vocab_size}",
            hint="add pairs, lower backbone.vocab_size, or name a tokenizer_from",
        )
    tokenizer.save(folder)
    return tokenizer


def _summary(store: PairStore, batches: PairBatches, config: FinetuneConfig) -> str:
    """What the run trains on, and all that it leaves out."""
    used = [name for name, count in batches.counts().items() if count["batches"]]
    lines = [f"{len(store):,} pairs; {len(batches):,} batches from {len(used)} groups"]
    found = {group.row for group in store.groups}
    idle = [f"{row.source} {row.kind}" for number, row in enumerate(config.mix) if number not in found]
    if idle:
        lines.append(f"rows of the mix without a pair, their weight goes to the others: {', '.join(idle)}")
    if batches.left_out:
        lines.append(f"left out, too few different texts for a batch: {', '.join(batches.left_out)}")
    lines += [f"{count:,} pairs not used: {reason}" for reason, count in store.dropped.items()]
    return "\n".join(lines)
