"""Checks of what lies in a model folder. No weights are read, only what their files say of them."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer as RawTokenizer

from diffembed.backbone import DIRECTIONS, Backbone, BackboneConfig, load_backbone
from diffembed.backbone.adapter import read_adapter
from diffembed.backbone.checkpoint import parameter_shapes, read_config
from diffembed.backbone.compact import COMPACT_FILE, unpack_weights
from diffembed.backbone.config_files import from_hugging_face
from diffembed.backbone.families import QWEN2, QWEN3
from diffembed.backbone.weight_files import MISFIT_HINT, WEIGHTS_FILE
from diffembed.configs import read_json
from diffembed.doctor.facts import Doubt, Facts, Verdict
from diffembed.embedder.export import MODULES_FILE, read_export
from diffembed.embedder.locate import MODEL_PATTERNS
from diffembed.embedder.model import LEAST_TOKENS, Model
from diffembed.embedder.sidecar import SIDECAR_FILE, check_digests, read_golden, read_readout, read_sidecar
from diffembed.errors import CheckpointError
from diffembed.readout.spec import Readout
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.tokenizer_files import QWEN2_PATTERN, TOKENIZER_FILE, read_tokenizer_config

WORDS = {"both": "both ways", "forward": "back in time only (causal)", "backward": "ahead only"}
DIRECTION_KEYS = ("is_causal", "use_bidirectional_attention")
# What transformers 5 takes Qwen2's pre-tokeniser for, whatever tokenizer.json says; and where no class is named.
REBUILT_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
REBUILT_FAMILIES = (QWEN2, QWEN3)
KEPT_CLASS = "PreTrainedTokenizerFast"


def files(facts: Facts) -> Verdict:
    """config.json can be read, and whose folder it is."""
    facts.data = read_config(facts.folder)
    facts.is_export = (facts.folder / MODULES_FILE).is_file()
    facts.is_compact = not (facts.folder / WEIGHTS_FILE).is_file() and (facts.folder / COMPACT_FILE).is_file()
    paths = {path for pattern in MODEL_PATTERNS for path in facts.folder.rglob(pattern) if path.is_file()}
    size = sum(path.stat().st_size for path in paths)
    kind = "a raw checkpoint"
    if (facts.folder / SIDECAR_FILE).is_file():
        kind = "saved by diffembed"
    elif facts.is_export:
        kind = "in the layout of sentence-transformers"
    return f"{facts.folder}: {kind}, {len(paths)} files that count, {size / 1e6:,.1f} MB"


def family(facts: Facts) -> Verdict:
    """The family is known, and config.json asks for nothing that we don't compute."""
    if facts.data is None:
        return None
    facts.family, config = from_hugging_face(facts.data)
    facts.config = config
    return (
        f"{facts.family.title} ({facts.data['model_type']}): {config.num_layers} layers, width {config.width:,}, "
        f"{config.num_heads} heads over {config.num_kv_heads}, {config.vocab_size:,} rows in the table"
    )


def weights(facts: Facts) -> Verdict:
    """Each tensor is there under its name, in the shape that config.json asks for, and of a kind that we read."""
    if facts.config is None:
        return None
    if facts.is_compact:
        backbone = _compact_backbone(facts.folder / COMPACT_FILE, facts.config)
    else:  # the files are mapped into memory, and nothing but their headers is touched
        backbone = load_backbone(facts.folder, dtype=None, device="meta")
    facts.backbone = backbone
    parameters = [parameter for parameter in backbone.parameters()]
    kind = "int8" if facts.is_compact else str(parameters[0].dtype).removeprefix("torch.")
    return f"{len(parameters)} tensors, {sum(p.numel() for p in parameters):,} parameters in {kind}"


def sidecar(facts: Facts) -> Verdict:
    """diffembed.json fits the model and its files."""
    path = facts.folder / SIDECAR_FILE
    if facts.config is None or not path.is_file():
        return None
    facts.told = read_json(path).get("direction")
    # That it disagrees with config.json is `direction`'s to say.
    agreed = replace(facts.config, direction=facts.told) if facts.told in DIRECTIONS else facts.config
    read = read_sidecar(path, agreed)
    names = [TOKENIZER_FILE, COMPACT_FILE if facts.is_compact else WEIGHTS_FILE]
    check_digests(facts.folder, read, [name for name in names if (facts.folder / name).is_file()])
    facts.golden = read_golden(path, read)
    facts.sidecar = read
    return f"{SIDECAR_FILE} fits; tokenizer and weights are those that it was written with"


def adapter(facts: Facts) -> Verdict:
    """The adapter fits the model, and says what peft forgets."""
    if facts.adapter_folder is None or facts.backbone is None or facts.config is None:
        return None
    read = read_adapter(facts.adapter_folder)
    pairs = {name: (a.to("meta"), b.to("meta")) for name, (a, b) in read.pairs.items()}
    replace(read, pairs=pairs).merged(facts.backbone.state_dict())
    facts.golden = []
    message = f"rank {read.rank}, alpha {read.alpha:g}, added to {len(pairs)} matrices"
    path = facts.adapter_folder / SIDECAR_FILE
    if not path.is_file():
        return Doubt(
            f"{message}; peft keeps no direction, so it looks where its base does: {WORDS[facts.config.direction]}",
            "if it was trained to look elsewhere: Embedder.load(..., direction=...), then save or save_adapter",
        )
    own = read_json(path)
    facts.config = replace(facts.config, direction=own.get("direction"))  # type: ignore[arg-type]
    own = read_sidecar(path, facts.config)
    facts.golden = read_golden(path, own)
    facts.sidecar = {**(facts.sidecar or {}), **own}
    return message


def direction(facts: Facts) -> Verdict:
    """Where the model looks is said, once or with one voice."""
    if facts.family is None or facts.config is None or facts.data is None:
        return None
    looks = from_hugging_face(facts.data)[1].direction  # the adapter may look elsewhere
    if facts.told in DIRECTIONS and facts.told != looks:
        raise CheckpointError(
            f"{SIDECAR_FILE} says {facts.told}, config.json {looks}",
            hint="one of the files was changed or is from another model; save the model again",
        )
    is_causal, looks_both_ways = (facts.data.get(key) for key in DIRECTION_KEYS)
    if looks == "both" and (is_causal is True or looks_both_ways is False):
        return Doubt(
            f"config.json contradicts itself: is_causal {json.dumps(is_causal)}, "
            f"use_bidirectional_attention {json.dumps(looks_both_ways)}; diffembed looks both ways, others may not",
            "set is_causal to false and use_bidirectional_attention to true, or the other way round",
        )
    if facts.config.direction != looks:
        return f"{WORDS[facts.config.direction]}, as the adapter says; its base looks {WORDS[looks]}"
    if is_causal is not None or looks_both_ways is not None:
        return f"{WORDS[looks]}, as config.json says"
    message = f"{WORDS[looks]}, as {facts.family.title} does; config.json does not say"
    if looks == "forward" and facts.is_export and facts.sidecar is None:
        # sentence-transformers computes it so as well; whoever trained it both ways lost that when it was saved.
        return Doubt(
            f"{message}, and a mean over all tokens is often trained to look both ways",
            'ask its makers; set "is_causal" in config.json to false for both ways, else to true',
        )
    return message


def readout(facts: Facts) -> Verdict:
    """How states become a vector is said, and is what we do: sentence-transformers' files, if there is no sidecar."""
    if facts.config is None:
        return None
    path = facts.folder / SIDECAR_FILE
    if facts.sidecar is not None:
        facts.prompts, facts.max_tokens = facts.sidecar["prompts"], facts.sidecar.get("max_tokens")
        facts.readout, facts.template = read_readout(path, facts.sidecar)
        return f"{_spelt(facts.readout)}, as {SIDECAR_FILE} says"
    if path.is_file():  # and can't be read
        return None
    export = read_export(facts.folder)
    if export is None:
        facts.prompts = {}
        return f"{_spelt(facts.readout)}; the folder does not say"
    facts.prompts, facts.max_tokens, facts.readout = export["prompts"], export["max_tokens"], export["readout"]
    return f"{_spelt(facts.readout)}, as the files of sentence-transformers say"


def _spelt(readout: Readout) -> str:
    """A readout in words."""
    count = (readout.query_masks, readout.document_masks)
    words = {
        "mean": "the mean of the token states",
        "weighted_mean": "the mean of the token states, the n-th counting n times",
        "last": "the last token's state",
        "masks": f"the states that predict {count[0]} mask tokens behind a query and {count[1]} behind a document",
    }[readout.pooling]
    if readout.is_mean:
        words += ", those of the prompt too" if readout.counts_prompt else ", without those of the prompt"
    if readout.pooling == "masks":
        words += ", a vector each" if readout.multi else ", as their mean"
    return words + {"row": "", "tanh": ", as int8 codes by tanh", "calibrated": "; int8 with one scale"}[readout.codes]


def tokenizer(facts: Facts) -> Verdict:
    """The tokenizer can be read, fits the table, and other libraries read it as it is."""
    if facts.config is None or facts.family is None:
        return None
    found = Tokenizer.load(facts.folder, facts.family.mask_token if facts.family else None)
    rows = facts.config.vocab_size
    _model(facts, found, {}, max(facts.config.max_positions, LEAST_TOKENS))
    token, last = max(found.raw.get_vocab(with_added_tokens=True).items(), key=lambda pair: pair[1], default=("", 0))
    if last >= rows:
        raise CheckpointError(
            f"the tokenizer gives {token!r} the id {last}, and the embedding table has {rows:,} rows",
            hint="tokenizer and weights must come from the same model",
        )
    facts.tokenizer = found
    facts.is_rebuilt = is_rebuilt(facts, found.raw)
    special = ", ".join(f"{kind} {token}" for kind, token in found.names.items())
    message = f"{found.vocab_size:,} tokens for {rows:,} rows; special: {special or 'none'}"
    if facts.is_rebuilt:
        kind = read_tokenizer_config(facts.folder).get("tokenizer_class")
        return Doubt(
            f"{message}; tokenizer_class is {kind or 'missing'}, so transformers 5 cuts words as Qwen2 does, not as "
            f"{TOKENIZER_FILE} says",
            f'set "tokenizer_class" in tokenizer_config.json to "{KEPT_CLASS}"',
        )
    if not found.suffix and not {"eos", "pad", "mask"} & set(found.names):
        return Doubt(f"{message}; nothing can stand for an empty text", "name an eos_token in tokenizer_config.json")
    return message


def prompts(facts: Facts) -> Verdict:
    """Each prompt ends in a special token, so that no text merges with it and its tokens can be told apart."""
    if facts.config is None or facts.tokenizer is None or facts.prompts is None:
        return None
    found, facts.prompts = facts.prompts, None  # nothing behind this can use bad ones
    _model(facts, facts.tokenizer, found, max(facts.config.max_positions, LEAST_TOKENS))  # `limit` looks at max_tokens
    facts.prompts = found
    said = [f"{role} {json.dumps(prompt, ensure_ascii=False)}" for role, prompt in found.items() if prompt]
    if not said:
        return "none"
    return f"{', '.join(said)}; ends in a special token" if facts.readout.is_mean else ", ".join(said)


def limit(facts: Facts) -> Verdict:
    """The longest sequence is one that the model knows."""
    if facts.config is None or facts.family is None or facts.tokenizer is None or facts.prompts is None:
        return None
    positions, trained = facts.config.max_positions, facts.family.trained_tokens
    tokens = min(positions, trained or positions) if facts.max_tokens is None else facts.max_tokens
    _model(facts, facts.tokenizer, facts.prompts, tokens)
    if trained is not None and tokens > trained:
        return Doubt(
            f"{tokens:,} tokens at a time, and {facts.family.title} was trained on {trained:,}",
            f"measure it, or set the limit to {trained}",
        )
    what = f"; config.json promises {positions:,}" if tokens < positions else ""
    return f"{tokens:,} tokens at a time{', those of the training' if tokens == trained else ''}{what}"


def is_rebuilt(facts: Facts, raw: RawTokenizer) -> bool:
    """Whether transformers 5 would cut words as Qwen2 does, and tokenizer.json says otherwise."""
    if not (facts.folder / TOKENIZER_FILE).is_file():
        return False
    kind = read_tokenizer_config(facts.folder).get("tokenizer_class")
    if kind not in REBUILT_CLASSES and not (kind is None and facts.family in REBUILT_FAMILIES):
        return False
    parts = json.loads(raw.to_str())
    pieces = parts["pre_tokenizer"] or {}
    patterns = [piece.get("pattern") for piece in pieces.get("pretokenizers", [pieces])]
    return {"Regex": QWEN2_PATTERN} not in patterns or parts["normalizer"] != {"type": "NFC"}


def _model(facts: Facts, tokenizer: Tokenizer, prompts: dict[str, str], max_tokens: int) -> None:
    """Let a model say whether its parts fit each other; a single layer without numbers stands for the backbone."""
    assert facts.config is not None
    with torch.device("meta"):
        backbone = Backbone(replace(facts.config, num_layers=1, head="none"))
    Model(
        backbone=backbone,
        tokenizer=tokenizer,
        prompts=prompts,
        max_tokens=max_tokens,
        readout=facts.readout,
        template=facts.template,
    )


def _compact_backbone(path: Path, config: BackboneConfig) -> Backbone:
    """What `load_compact` gives, without numbers."""
    try:
        with safe_open(path, framework="pt") as file:
            packed = {name: file.get_tensor(name).to("meta") for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}", hint="it may be cut short; copy it again"
        ) from None
    found = unpack_weights(packed)
    config = replace(config, head="none") if config.head == "own" else config
    wanted = parameter_shapes(config, path, len(found))
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    wrong = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
    if wrong:
        raise CheckpointError(
            f"{path} does not fit config.json: {len(wrong)} weights differ, {wrong[0]} among them", hint=MISFIT_HINT
        )
    return Backbone.from_weights(config, found)
