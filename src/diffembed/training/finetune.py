"""Fine-tune a backbone into an embedder: contrastive learning on queries with their passages and hard negatives."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from diffembed import configs, hardware
from diffembed.backbone.checkpoint import read_config
from diffembed.backbone.config_files import from_hugging_face
from diffembed.backbone.transformer import Backbone
from diffembed.data.batches import ExampleBatches
from diffembed.data.example_store import ExampleStore
from diffembed.data.examples import Example
from diffembed.data.pairs import docstring_pairs
from diffembed.data.readers import describe_data, read_examples
from diffembed.embedder import Embedder, golden
from diffembed.embedder.adapters import load_with_adapter, write_adapter
from diffembed.embedder.model import Model
from diffembed.errors import ConfigError, DataError
from diffembed.runs import Run
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.tokenizer_files import TOKENIZER_CONFIG_FILE
from diffembed.training import lora
from diffembed.training.distributed import Ranks, connect
from diffembed.training.events import require_tensorboard
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.fitting import Fitting
from diffembed.training.loop import train
from diffembed.training.progress import announce, say
from diffembed.training.prompts import Prompts
from diffembed.training.sharding import whole_weights
from diffembed.training.start import Start
from diffembed.training.validation import Validation

# No text of ours averages more characters a token, so what lies beyond never reaches the model: English has 4 to 5.
MAX_CHARS_PER_TOKEN = 8
# Examples that a tokenizer is trained on, where the run has to make its own.
TOKENIZER_EXAMPLES = 100_000


def main(
    config: FinetuneConfig, *, data: Path | str | None, out: Path, resume: bool = False, command: list[str]
) -> Path:
    """Run a fine-tuning; the model ends in `out/model`, an adapter in `out/adapter`.

    Args:
        config: The whole configuration.
        data: File, folder, or data set of the hub with its commit, as for `read_examples`; None where the configuration
            allows docstrings.
        out: Run directory.
        resume: Go on with a stopped run.
        command: The command line, for the record.

    Returns:
        The model folder, complete with prompts, readable by `Embedder.load`; that of the adapter where it is all.
    """
    if data is None and not config.docstrings:
        raise ConfigError("this recipe needs examples to train on", hint="name a folder of sources by --data")
    if config.lora:
        lora.require_peft()
    if config.loop.tensorboard:
        require_tensorboard()
    with connect() as ranks:
        return _run(config, data, out, resume, command, ranks)


def _run(
    config: FinetuneConfig, data: Path | str | None, out: Path, resume: bool, command: list[str], ranks: Ranks
) -> Path:
    hardware.keep_freed_memory()
    hardware.limit_threads()
    dtype = config.dtype or hardware.default_dtype_name(ranks.device.type)
    config = replace(config, dtype=dtype)  # so that it is recorded, and a resumed run keeps it
    start = Start.of(config)
    if start.tokenizer is not None:
        prompts_of(start.model(start.tokenizer), config).check_fit()
    skipped = Counter[str]()
    examples, files = _read(config, data, skipped)
    env = {**hardware.describe(), "data": files}
    run = ranks.open_run(out, config=configs.to_dict(config), command=command, env=env, resume=resume)

    def prepare() -> tuple[ExampleStore, Tokenizer]:
        store = _open_store(run.path / "examples", examples, skipped, config)
        return store, start.tokenizer or _own_tokenizer(run.path / "tokenizer", store, start.vocab_size)

    with run.preparing():
        store, tokenizer = ranks.main_first(prepare)
        model = start.model(tokenizer)
        prompts = prompts_of(model, config)
        prompts.check_fit()
        batches = ExampleBatches(
            store,
            mix=config.mix,
            sizes=config.batch_sizes(),
            num_batches=config.loop.num_steps,
            seed=config.loop.seed,
            negatives=config.negatives,
            draws_negatives=config.draws_negatives,
            with_scores=config.loss.needs_scores,
            with_chunks=config.loss.name == "contextual",
        )
        backbone = _trainable(model.backbone, config, ranks)
        fitting = Fitting(backbone, prompts, batches, config, model.readout, ranks)
        validation = Validation(config.validation, fitting.encode, ranks) if config.validation else None
    if ranks.is_main:
        announce(run, _summary(store, batches, config))
    facts = train(
        run,
        backbone,
        fitting.micro_batches,
        label="finetune",
        loop=config.loop,
        optimizer_config=config.optimizer,
        ranks=ranks,
        describe_batch=fitting.describe,
        validation=validation,
    )
    trained = {
        "objective": config.loss.name,
        "temperature": config.loss.temperature,
        "steps": facts["steps"],
        "tokens": facts["tokens"],
        "groups": {name: count["batches"] for name, count in batches.counts().items() if count["batches"]},
    }
    path = _save(run, replace(model, trained=trained), backbone, config, ranks)
    run.finish(
        model=str(path.relative_to(run.path)),
        groups=batches.counts(),
        left_out=batches.left_out,
        dropped=store.dropped,
        **facts,
    )
    return path


def _trainable(backbone: Backbone, config: FinetuneConfig, ranks: Ranks) -> Backbone:
    """A backbone where it is trained, with its adapter if it gets one."""
    backbone = backbone.to(device=ranks.device, dtype=getattr(torch, config.dtype or "float32"))
    backbone.requires_grad_(True).train()
    backbone.checkpoint_layers = config.checkpoint_layers
    backbone.set_attention_dropout(config.attention_dropout)
    if config.lora:
        lora.attach(backbone, config.lora, seed=config.loop.seed)
    return backbone


def prompts_of(model: Model, config: FinetuneConfig) -> Prompts:
    """How the texts of a run are laid out."""
    return Prompts(model, config.mix, query_tokens=config.query_tokens, instruction_share=config.instruction_share)


def _read(
    config: FinetuneConfig, data: Path | str | None, skipped: Counter[str]
) -> tuple[Iterator[Example], dict[str, str] | str]:
    """The examples, and which files they come from."""
    if data is None:
        return (pair.example() for pair in docstring_pairs()), "docstrings"
    asked = {"layout": config.layout, "split": config.split}
    return read_examples(data, on_bad_row=config.on_bad_row, skipped=skipped, **asked), describe_data(data, **asked)


def _open_store(
    folder: Path, examples: Iterator[Example], skipped: Counter[str], config: FinetuneConfig
) -> ExampleStore:
    store = ExampleStore.open(folder)
    if store is None:
        say("reading examples")
        max_chars = [row.passage_tokens * MAX_CHARS_PER_TOKEN for row in config.mix]
        store = ExampleStore.build(
            folder, examples, config.mix, max_chars, least_negatives=config.least_negatives, skipped=skipped
        )
    return store


def _own_tokenizer(folder: Path, store: ExampleStore, vocab_size: int) -> Tokenizer:
    """The run's own tokenizer: trained once on examples drawn evenly, then read back."""
    if (folder / TOKENIZER_CONFIG_FILE).exists():
        return Tokenizer.load(folder)
    say("training the tokenizer")
    every = -(-len(store) // TOKENIZER_EXAMPLES)
    chosen = (store.read([number])[0] for number in range(0, len(store), every))
    texts = (text for example in chosen for text in (example.query, example.positives[0]))
    tokenizer = Tokenizer.train(texts, vocab_size)
    if tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"the data gives only {tokenizer.vocab_size} tokens, the backbone has {vocab_size}",
            hint="add examples, lower backbone.vocab_size, or name a tokenizer_from",
        )
    tokenizer.save(folder)
    return tokenizer


def _summary(store: ExampleStore, batches: ExampleBatches, config: FinetuneConfig) -> str:
    """What the run trains on, and all that it leaves out."""
    used = [name for name, count in batches.counts().items() if count["batches"]]
    lines = [f"{len(store):,} examples; {len(batches):,} batches from {len(used)} groups"]
    found = {group.row for group in store.groups}
    idle = [f"{row.source} {row.kind}" for number, row in enumerate(config.mix) if number not in found]
    if idle:
        lines.append(f"rows of the mix without an example, their weight goes to the others: {', '.join(idle)}")
    if batches.left_out:
        lines.append(f"left out, too few different texts for a batch: {', '.join(batches.left_out)}")
    lines += [f"{count:,} not used: {reason}" for reason, count in store.dropped.items()]
    return "\n".join(lines)


def _save(run: Run, model: Model, backbone: Backbone, config: FinetuneConfig, ranks: Ranks) -> Path:
    """Write what was trained: the model, or the adapter and, if it is wanted, the model with the adapter in it."""
    path = run.path / "model"
    if not config.lora:
        weights = whole_weights(backbone, torch.float32, ranks)
        if ranks.is_main:
            _embedder(model, Backbone.from_weights(backbone.config, weights)).save(path)
        return path
    weights = whole_weights(backbone, torch.float32, ranks, lora.is_of_adapter)
    if not config.lora.merge:
        path = run.path / "adapter"
    if ranks.is_main:
        assert config.init is not None
        base, read, first = load_with_adapter(config.init, config.adapter, config.direction)
        family, _ = from_hugging_face(read_config(base))
        own = lora.detach(weights, config.lora, base=str(config.init), family=family)
        merged = own.merged(read.backbone.state_dict())
        trained = Backbone.from_weights(read.backbone.config, merged)
        embedder = _embedder(model, trained)
        shutil.rmtree(run.path / "adapter", ignore_errors=True)  # of a run that was killed while it wrote
        whole = own if first is None else lora.joined(first, own)
        write_adapter(whole, replace(model, backbone=trained), run.path / "adapter", golden.make(embedder))
        if config.lora.merge:
            embedder.save(path)
    return path


def _embedder(model: Model, backbone: Backbone) -> Embedder:
    model = replace(model, backbone=backbone.requires_grad_(False).eval())
    return Embedder(model, dtype=torch.float32, device=torch.device("cpu"))
