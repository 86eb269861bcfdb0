"""What a fine-tuning begins from: weights, tokenizer, and how texts are laid out and read."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from diffembed.backbone.config import BackboneConfig
from diffembed.backbone.transformer import Backbone
from diffembed.embedder.adapters import load_with_adapter
from diffembed.embedder.model import Model
from diffembed.errors import ConfigError
from diffembed.readout.spec import Readout
from diffembed.text.instructions import DEFAULT_PROMPTS, TEXT_SLOT
from diffembed.text.tokenizer import Tokenizer
from diffembed.training.finetune_config import FinetuneConfig


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins from; the tokenizer may be yet to be made."""

    backbone: Backbone
    tokenizer: Tokenizer | None
    facts: dict[str, Any]
    """What `Model` takes besides."""

    @classmethod
    def of(cls, config: FinetuneConfig) -> "Start":
        """Read or draw the weights that a configuration begins with.

        Raises:
            ConfigError: It names none, or they do not suit it.
        """
        if config.init:
            _, read, _ = load_with_adapter(config.init, config.adapter, config.direction)
            start = cls._from_model(read, config)
        elif config.backbone is None:
            raise ConfigError(
                "this recipe needs a model to begin with", hint="--set init=RUN/model, from a pre-training"
            )
        else:
            start = cls._from_shape(
                replace(config.backbone, direction=config.direction or config.backbone.direction), config
            )
        config.loss.check_width(start.backbone.config.width)
        readout: Readout = start.facts["readout"]
        config.loss.check_readout(readout, config.negatives)
        if config.validation and readout.multi:
            raise ConfigError("validation compares single vectors, and a text has several", hint="set validation=null")
        return start

    @classmethod
    def _from_model(cls, read: Model, config: FinetuneConfig) -> "Start":
        prompts = dict(read.prompts)
        if not prompts and "query" in read.tokenizer.names:  # a pre-training of ours
            prompts = dict(DEFAULT_PROMPTS)
        facts = {
            "prompts": prompts | _own_prompts(config),
            "max_tokens": config.max_tokens or read.max_tokens,
            "readout": config.readout or read.readout,
            "template": config.template or read.template,
        }
        return cls(Backbone.from_weights(read.backbone.config, read.backbone.state_dict()), read.tokenizer, facts)

    @classmethod
    def _from_shape(cls, shape: BackboneConfig, config: FinetuneConfig) -> "Start":
        backbone = Backbone(shape)
        backbone.init_weights(torch.Generator().manual_seed(config.loop.seed))
        tokenizer = Tokenizer.load(config.tokenizer_from) if config.tokenizer_from else None
        if tokenizer is not None and tokenizer.vocab_size > shape.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the backbone {shape.vocab_size}",
                hint="take both from the same model",
            )
        facts = {
            "prompts": DEFAULT_PROMPTS | _own_prompts(config),
            "max_tokens": config.max_tokens or shape.max_positions,
            "readout": config.readout or Readout(),
            "template": config.template or TEXT_SLOT,
        }
        return cls(backbone, tokenizer, facts)

    @property
    def vocab_size(self) -> int:
        return self.backbone.config.vocab_size

    def model(self, tokenizer: Tokenizer) -> Model:
        """The embedder to be, before its training."""
        return Model(backbone=self.backbone, tokenizer=tokenizer, **self.facts)


def _own_prompts(config: FinetuneConfig) -> dict[str, str]:
    prompts = {"query": config.query_prompt, "document": config.document_prompt}
    return {role: prompt for role, prompt in prompts.items() if prompt is not None}
