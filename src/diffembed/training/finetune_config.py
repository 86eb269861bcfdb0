"""The settings of a fine-tuning, and what of them cannot go together."""

from dataclasses import dataclass
from typing import Literal

from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.data.mix import MixRow
from diffembed.errors import ConfigError
from diffembed.readout.spec import Readout
from diffembed.training.loop_config import LoopConfig, check_sharding
from diffembed.training.lora import LoraConfig
from diffembed.training.losses import NEEDS_NEGATIVES, LossConfig
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """One fine-tuning run."""

    init: str | None
    """Model to begin with, a folder or a hub id, for example a pre-training's `model`; None: random weights like
    `backbone`."""
    backbone: BackboneConfig | None
    """Shape of random weights; None with `init`, whose folder says it."""
    tokenizer_from: str | None
    """Folder with the tokenizer for random weights; None with `init`, or to train one on the examples."""
    adapter: str | None = None
    """Adapter that is merged into `init` first, as LLM2Vec does with that of MNTP; a folder or a hub id."""
    direction: Direction | None = None
    """Where the attention looks, in training and in the model that is saved; None: as `init` or `backbone` says."""
    readout: Readout | None = None
    """Which states make a vector, in training and in the model that is saved; None: as `init` says, or their mean."""
    query_prompt: str | None = None
    """Stands before a query without an instruction, or around it where it has a `{text}`; None: as `init` says."""
    document_prompt: str | None = None
    """The same for passages."""
    template: str | None = None
    """Stands around every text with its prompt, and has a `{text}`; None: as `init` says."""
    max_tokens: int | None = None
    """Longest sequence of the model that is saved; None: as `init` says."""
    layout: str | None = None
    """Of the data, where its files don't show it; see the data page in docs/."""
    split: str = "train"
    """Of data that comes in splits."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be used ends the run before it begins, or is counted and left out."""
    mix: tuple[MixRow, ...]
    """Which examples, how often, with what instruction. The first row that fits an example counts."""
    batch_pairs: int
    """Queries of a batch of the row with the shortest passages; others have fewer, at about equal tokens."""
    query_tokens: int
    """Queries are cut to this, EOS included, the prompt not."""
    negatives: int = 0
    """Hard negatives of each query, at most; those of all queries are candidates for each. Losses over a query's own
    candidates leave out examples that have fewer."""
    draws_negatives: bool = False
    """Draw them from those that an example has; otherwise the first ones are taken, the hardest in many data sets."""
    loss: LossConfig
    """What the vectors should do."""
    instruction_share: float
    """Part of the queries that carry their instruction: a model can learn to work with and without."""
    optimizer: OptimizerConfig
    loop: LoopConfig
    lora: LoraConfig | None = None
    """Train an adapter beside the frozen weights; None: all weights."""
    attention_dropout: float = 0.0
    """Part of the attention weights that is set to zero in training: all that tells the two sides of SimCSE apart."""
    chunk_tokens: int = 2048
    """Tokens that go through the model at once; the loss is over the whole batch all the same."""
    recompute: bool = False
    """Run each chunk twice rather than keep its activations: a quarter slower, and memory for one chunk is enough."""
    checkpoint_layers: bool = False
    """Keep only what enters each layer of a chunk, and run the layer again on the way back: memory of one layer."""
    validation: ValidationConfig | None = None
    """Task whose nDCG@10 is measured now and then; None: none."""
    docstrings: bool = False
    """Where no data is given, train on the docstrings of the running Python's standard library."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and states; None: what this machine multiplies fast. Master weights are fp32 always."""

    def __post_init__(self) -> None:
        check_sharding(self.loop, self.optimizer)
        self._check_model()
        self._check_batches()
        if self.readout is not None:
            self.loss.check_readout(self.readout, self.negatives)

    def _check_model(self) -> None:
        if self.init and (self.backbone or self.tokenizer_from):
            raise ConfigError(
                "init brings shape and tokenizer, and backbone or tokenizer_from is set too",
                hint="set them to null, or init",
            )
        if "backward" in (self.direction, self.backbone.direction if self.backbone else None):
            raise ConfigError(
                "a model that looks only ahead cannot be saved", hint="train with direction both or forward"
            )
        if self.backbone is not None and (self.lora or self.adapter):
            raise ConfigError(
                "an adapter stands on a model that others have too, and the weights here are random",
                hint="set init to a model, or lora and adapter to null",
            )
        if self.lora and self.optimizer.muon:
            raise ConfigError(
                "muon makes the rows of whole matrices orthogonal, and an adapter has none",
                hint="set optimizer.muon=false",
            )
        if not 0 <= self.attention_dropout < 1:
            raise ConfigError(
                f"attention_dropout must be in [0, 1), got {self.attention_dropout}", hint="SimCSE takes 0.3"
            )

    def _check_batches(self) -> None:
        if self.chunk_tokens < 1:
            raise ConfigError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}", hint="2,048 suits a CPU")
        if not self.mix:
            raise ConfigError("mix has no row", hint="give it one that fits all: source * and kind *")
        if self.query_tokens < 2 or self.batch_pairs < 2:
            raise ConfigError(
                f"query_tokens and batch_pairs must be at least 2, got {self.query_tokens} and {self.batch_pairs}",
                hint="64 tokens and 256 pairs are usual",
            )
        if not 0 <= self.instruction_share <= 1:
            raise ConfigError(
                f"instruction_share must be in [0, 1], got {self.instruction_share}", hint="1: all queries"
            )
        if self.negatives < 0:
            raise ConfigError(f"negatives must not be negative, got {self.negatives}", hint="0 to 15 is usual")
        if min(self.batch_sizes()) < 2:
            raise ConfigError("a row's passage_tokens leave its batches less than 2 pairs", hint="raise batch_pairs")

    @property
    def least_negatives(self) -> int:
        """Hard negatives without which an example is of no use."""
        return self.negatives if self.loss.name in NEEDS_NEGATIVES else 0

    def batch_sizes(self) -> list[int]:
        """Queries of a batch, for each row of the mix."""
        shortest = min(row.passage_tokens for row in self.mix)
        return [self.batch_pairs * shortest // row.passage_tokens for row in self.mix]
