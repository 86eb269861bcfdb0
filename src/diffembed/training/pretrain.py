"""Pre-train a backbone: masked diffusion, masked next-token prediction, or next token for the autoregressive twin.

It begins from random weights, or from a model: an autoregressive one then learns to look both ways (`init`).
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diffembed import configs, hardware
from diffembed.backbone.checkpoint import load_backbone, read_config, save_backbone
from diffembed.backbone.config_files import from_hugging_face
from diffembed.backbone.transformer import Backbone
from diffembed.data.docstrings import read_docstrings
from diffembed.data.segments import SegmentBatches, TokenStore
from diffembed.data.sources import Source, describe_files, find_sources, iter_texts
from diffembed.embedder import Embedder, golden
from diffembed.embedder.adapters import write_adapter
from diffembed.embedder.folder import read_model
from diffembed.embedder.locate import check_model, find
from diffembed.errors import ConfigError, DataError
from diffembed.runs import Run
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.tokenizer_files import TOKENIZER_CONFIG_FILE
from diffembed.training import lora
from diffembed.training.distributed import Ranks, connect
from diffembed.training.events import require_tensorboard
from diffembed.training.loop import train
from diffembed.training.pretrain_config import PretrainConfig
from diffembed.training.progress import announce, say
from diffembed.training.scoring import Scoring
from diffembed.training.sharding import whole_weights


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
    if config.lora:
        lora.require_peft()
    if config.loop.tensorboard:
        require_tensorboard()
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

    backbone = backbone.to(device=ranks.device, dtype=getattr(torch, dtype)).train()
    backbone.checkpoint_layers = config.checkpoint_layers
    if config.lora:
        lora.attach(backbone, config.lora, seed=config.loop.seed)
    facts = train(
        run,
        backbone,
        Scoring(backbone, batches, tokenizer, config, ranks).micro_batches,
        label="pretrain",
        loop=config.loop,
        optimizer_config=config.optimizer,
        ranks=ranks,
        describe_batch=lambda step: {"ids": batches[step - 1]},
    )
    model = _save(run, backbone, tokenizer, config, ranks)
    run.finish(model=str(model.relative_to(run.path)), documents=len(store.ends), **facts)
    return model


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
    if config.objective == "masked_next_token" or (config.objective == "masked_diffusion" and looked_back):
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
    if config.objective != "next_token" and "mask" not in tokenizer.names:
        raise ConfigError(
            f"the tokenizer of {folder} has no mask token",
            hint="set mask_token to a token of it that texts do not hold, such as a reserved one",
        )
    return backbone.train(), tokenizer


def _save(run: Run, backbone: Backbone, tokenizer: Tokenizer, config: PretrainConfig, ranks: Ranks) -> Path:
    """Write what was trained: the model, or the adapter and, if it is wanted, the model with the adapter in it."""
    model, dtype = run.path / "model", getattr(torch, config.dtype or "float32")
    if not config.lora:
        weights = whole_weights(backbone, dtype, ranks)
        if ranks.is_main:
            _write_model(model, Backbone.from_weights(backbone.config, weights), tokenizer)
        return model
    weights = whole_weights(backbone, torch.float32, ranks, lora.is_of_adapter)
    if ranks.is_main:
        assert config.init is not None
        folder = find(config.init)
        own = lora.detach(weights, config.lora, base=config.init, family=from_hugging_face(read_config(folder))[0])
        base = load_backbone(folder, dtype=None, direction=config.direction, with_head=True)
        merged = Backbone.from_weights(backbone.config, own.merged(base.state_dict()))
        read = read_model(folder, config.direction)
        shutil.rmtree(run.path / "adapter", ignore_errors=True)  # of a run that was killed while it wrote
        headless = {name: weight for name, weight in merged.state_dict().items() if name in read.backbone.state_dict()}
        whole = replace(read, backbone=Backbone.from_weights(read.backbone.config, headless), golden=())
        embedder = Embedder(whole, dtype=torch.float32, device=torch.device("cpu"))
        write_adapter(own, whole, run.path / "adapter", golden.make(embedder))
        if config.lora.merge:
            _write_model(model, merged, tokenizer)
    return model if config.lora.merge else run.path / "adapter"


def _write_model(folder: Path, backbone: Backbone, tokenizer: Tokenizer) -> None:
    tokenizer.save(folder)
    save_backbone(backbone, folder, pad_id=tokenizer.find_id("pad"), eos_id=tokenizer.eos_id)


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
