"""What a training will take, from its configuration alone: for `--dry-run`."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed import hardware
from diffembed.backbone.checkpoint import read_config
from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.config_files import from_hugging_face
from diffembed.backbone.known import KNOWN, count_parameters
from diffembed.embedder.locate import find
from diffembed.training.optimizer import OptimizerConfig

if TYPE_CHECKING:
    from diffembed.training.finetune_config import FinetuneConfig
    from diffembed.training.pretrain_config import PretrainConfig

# As in `backbone.attention` and `objectives.cross_entropy`, by device: longest sequence whose attention weights are
# kept, and logits held at once.
KEPT_WEIGHTS = {"cpu": 1_024, "cuda": 0}
CHUNK_LOGITS = {"cpu": 2**23, "cuda": 2**28}
FP32 = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMemory:
    """Bytes that each process has in use at its peak, beside Python and torch themselves (about 0.4 GB).

    To a quarter (tests/training/test_plan_summary.py). A CPU's allocator holds up to half as much again.
    """

    weights: int
    masters_and_moments: int
    """fp32 copies of trained weights of another dtype, and what the optimizer remembers of each."""
    gradients: int
    """Summed in fp32, and those of the pass at hand."""
    activations: int
    """All that the way back needs of the tokens in flight, and what is at work there."""

    @property
    def total(self) -> int:
        return self.weights + self.masters_and_moments + self.gradients + self.activations


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSummary:
    """What a configuration means."""

    trained_parameters: int
    all_parameters: int
    """Of the backbone and its adapter."""
    steps: int
    sequences_per_step: int
    """Of all processes; pre-training: at the mean nominal length, and document ends give more."""
    tokens_per_step: int
    """At most, of all processes; prompts come on top in fine-tuning."""
    candidates_per_query: int | None
    """Texts that a query chooses its positive from, in the largest batches; None where it doesn't choose."""
    memory: TrainingMemory

    def lines(self) -> list[str]:
        """For a person."""
        share = self.trained_parameters / self.all_parameters
        gb = {name: f"{getattr(self.memory, name) / 1e9:.2f}" for name in TrainingMemory.__slots__}
        parts = ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in gb.items())
        lines = [
            f"trains {self.trained_parameters:,} of {self.all_parameters:,} parameters ({share:.2%})",
            f"{self.steps:,} steps of about {self.sequences_per_step:,} sequences, at most {self.tokens_per_step:,} "
            f"tokens{'' if self.candidates_per_query is None else ' (without prompts)'}",
        ]
        if self.candidates_per_query is not None:
            lines.append(
                f"each query has up to {self.candidates_per_query:,} candidates: its positive and "
                f"{self.candidates_per_query - 1:,} negatives"
            )
        total = f"{self.memory.total / 1e9:.2f}"
        return [*lines, f"memory in use by each process: some {total} GB ({parts})"]


def summarise_pretraining(config: "PretrainConfig") -> PlanSummary | None:
    """Plan of a pre-training; None where it begins from a model that is neither known nor on this machine."""
    shape = _shape(config.init, config.backbone, config.direction)
    if shape is None:
        return None
    place = Place.here(config)
    mean = sum(n * s for n, s in zip(config.segment_lengths, config.segment_shares, strict=True))
    mean /= sum(config.segment_shares)
    table = shape.vocab_size * shape.width
    num_logits = min(CHUNK_LOGITS[place.device], config.tokens_per_micro_batch * shape.vocab_size)
    # Log-probabilities, the casts around them, the gradient; the table's gradient in fp32 and in the weights' dtype.
    head = num_logits * (2 * FP32 + 2 * place.item) + table * (FP32 + place.item)
    tokens = Tokens(config.tokens_per_micro_batch, max(config.segment_lengths), config.tokens_per_micro_batch)
    parameters, lora = count_parameters(shape), config.lora
    trained = parameters if lora is None else lora_parameters(shape, lora.rank, lora.targets)
    memory = training_memory(shape, trained, tokens, config.optimizer, place, config.checkpoint_layers, lora)
    return PlanSummary(
        trained_parameters=trained,
        all_parameters=parameters + (0 if lora is None else trained),
        steps=config.loop.num_steps,
        sequences_per_step=max(1, round(config.tokens_per_step / mean)),
        tokens_per_step=config.tokens_per_step,
        candidates_per_query=None,
        memory=replace(memory, activations=memory.activations + head),
    )


def summarise_finetuning(config: "FinetuneConfig") -> PlanSummary | None:
    """Plan of a fine-tuning; None where it begins from a model that is neither known nor on this machine."""
    shape = _shape(config.init, config.backbone, config.direction)
    if shape is None:
        return None
    if config.init and shape.head == "own":
        shape = replace(shape, head="none")  # vectors don't need it, and it isn't read
    place = Place.here(config)
    negatives, lora = config.negatives, config.lora
    passages = [size * (1 + negatives) for size in config.batch_sizes()]
    tokens_per_step = max(
        size * config.query_tokens + count * row.passage_tokens
        for size, count, row in zip(config.batch_sizes(), passages, config.mix, strict=True)
    )
    longest = max(config.query_tokens, *(row.passage_tokens for row in config.mix))
    share = -(-tokens_per_step // place.ranks)
    # Every chunk's activations are kept until the loss is known, or else made again a chunk at a time.
    at_work = min(share, max(config.chunk_tokens, longest))
    in_flight = at_work if config.recompute else max(share, longest)
    num_texts = max(config.batch_sizes()) + max(passages)
    similarities = max(config.batch_sizes()) * max(passages)
    parameters = count_parameters(shape)
    trained = parameters if lora is None else lora_parameters(shape, lora.rank, lora.targets)
    memory = training_memory(
        shape, trained, Tokens(in_flight, longest, at_work), config.optimizer, place, config.checkpoint_layers, lora
    )
    # The vectors with their gradients, and the matrix of similarities on its way to the loss and back.
    loss = 4 * FP32 * (num_texts * shape.width + similarities)
    return PlanSummary(
        trained_parameters=trained,
        all_parameters=parameters + (0 if lora is None else trained),
        steps=config.loop.num_steps,
        sequences_per_step=num_texts,
        tokens_per_step=tokens_per_step,
        candidates_per_query=_candidates(config),
        memory=replace(memory, activations=memory.activations + loss),
    )


def _candidates(config: "FinetuneConfig") -> int | None:
    """Texts that a query chooses its own from; None where it doesn't choose."""
    if config.loss.name in ("explicit", "margin_mse", "kl"):
        return 1 + config.negatives
    if config.loss.name == "info_nce":
        size = max(config.batch_sizes())
        return size * (1 + config.negatives) + (size - 1) * config.loss.include_queries
    return None


SUMMARIES: dict[str, Callable[[Any], PlanSummary | None]] = {
    "pretrain": summarise_pretraining,
    "finetune": summarise_finetuning,
}
"""The function for each verb."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run computes."""

    device: str
    """`cpu` or `cuda`."""
    item: int
    """Bytes of a weight or state."""
    ranks: int = 1
    is_sharded: bool = False

    @classmethod
    def here(cls, config: "PretrainConfig | FinetuneConfig") -> "Place":
        """This machine, and as many processes as the launcher has started."""
        device = hardware.default_device()
        dtype = config.dtype or hardware.default_dtype_name(device)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(device, {"float32": 4, "bfloat16": 2}[dtype], ranks, config.loop.shard and ranks > 1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Those whose activations are held at once."""

    count: int
    longest: int
    """Tokens of the longest sequence."""
    at_work: int
    """Those that go through the model together."""


def training_memory(
    config: BackboneConfig,
    trained: int,
    tokens: Tokens,
    optimizer: OptimizerConfig,
    place: Place,
    checkpoint_layers: bool = False,
    lora: Any = None,
) -> TrainingMemory:
    """Predict a process's peak from the sizes of what it holds.

    Args:
        config: Of the backbone.
        trained: Parameters that are.
        tokens: In flight.
        optimizer: AdamW remembers two numbers a weight, Muon one of the layers' matrices.
        place: Where it is.
        checkpoint_layers: Only what enters each layer is kept, and all of one layer.
        lora: The adapter's configuration, with `rank`, `targets` and `dropout`; None: all is trained.
    """
    frozen = count_parameters(config) - (trained if lora is None else 0)
    in_layers = sum(rows * columns for rows, columns in _matrices(config).values()) * config.num_layers
    moments = 2 * FP32 * trained - (FP32 * in_layers if optimizer.muon else 0)
    has_masters = place.item != FP32 and not place.is_sharded
    weights = place.item * (frozen + trained)
    parts, fresh = 1, place.item
    if place.is_sharded:
        # Each rank keeps its rows in fp32. One layer and what is outside of them come together in the states' dtype.
        parts, fresh = place.ranks, FP32
        outside = count_parameters(replace(config, num_layers=1))
        weights = FP32 * (frozen + trained) // parts + place.item * outside
    layer, working = _layer_bytes(config, tokens.longest, place, lora)
    kept = config.num_layers * (place.item * config.width if checkpoint_layers else layer)
    kept += 2 * _norm_bytes(config.width, place.item)  # the last norm, and what it reads
    working += layer * checkpoint_layers
    return TrainingMemory(
        weights=weights,
        masters_and_moments=(moments + FP32 * trained * has_masters) // parts,
        gradients=(FP32 + fresh) * trained // parts,
        activations=tokens.count * kept + tokens.at_work * working,
    )


def lora_parameters(config: BackboneConfig, rank: int, targets: Any) -> int:
    """Weights of an adapter (LoRA, arXiv:2106.09685): rank x (rows + columns) of each chosen matrix of each layer."""
    matrices = _matrices(config)
    return config.num_layers * rank * sum(sum(matrices[name]) for name in targets)


def _matrices(config: BackboneConfig) -> dict[str, tuple[int, int]]:
    """Features out and in of the matrices of a layer."""
    width, mlp = config.width, config.mlp_width
    queries, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    return {
        "q_proj": (queries, width),
        "k_proj": (keys, width),
        "v_proj": (keys, width),
        "o_proj": (width, queries),
        "gate_proj": (mlp, width),
        "up_proj": (mlp, width),
        "down_proj": (width, mlp),
    }


def _layer_bytes(config: BackboneConfig, longest: int, place: Place, lora: Any) -> tuple[int, int]:
    """Bytes per token that a layer keeps for the way back, and that are at work there besides."""
    item, mlp = place.item, config.mlp_width
    queries, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    heads = queries + keys
    kept = 2 * _norm_bytes(config.width, item)
    # Queries and keys as the rotation reads them, rotated; values; what comes out, once more as the product reads it.
    kept += _norm_bytes(heads, item) if config.qk_norm else item * heads
    kept += item * (heads + keys + 2 * queries)
    if config.direction == "both" and longest <= KEPT_WEIGHTS[place.device]:
        kept += item * config.num_heads * longest
    kept += 4 * item * mlp  # gate, its SiLU, the other half, their product
    if lora is not None:
        # Each adapter reads its input through a dropout of its own: a copy and its mask.
        inputs = sum(_matrices(config)[name][1] for name in lora.targets)
        kept += inputs * (item + 1 if lora.dropout else 0) + 2 * item * lora.rank * len(lora.targets)
    return kept, 3 * item * mlp + 2 * FP32 * config.width


def _norm_bytes(features: int, item: int) -> int:
    """Kept by a norm: its input in fp32, scaled to unit size, and what it gives."""
    return features * (FP32 + 2 * item)


def _shape(init: str | None, backbone: BackboneConfig | None, direction: Direction | None) -> BackboneConfig | None:
    """What the run begins with, as far as this machine knows it: nothing is downloaded."""
    if init is None:
        found = backbone
    elif init == "builtin" or Path(init).is_dir():
        found = from_hugging_face(read_config(find(init)))[1]
    else:
        found = next((known.shape for known in KNOWN if known.id == init), None)
    return replace(found, direction=direction) if found and direction else found
