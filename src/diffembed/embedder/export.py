"""The files by which sentence-transformers, TEI and vLLM read a model folder, and by which we read theirs.

Stock modules only: for any other, sentence-transformers 6 asks for trust_remote_code, in local folders too.
"""

import json
from pathlib import Path
from typing import Any

from diffembed.configs import read_json
from diffembed.embedder.model import Model
from diffembed.errors import CheckpointError
from diffembed.readout.spec import Codes, Pooling, Readout
from diffembed.text.instructions import TEXT_SLOT
from diffembed.text.tokenizer_files import TOKENIZER_CONFIG_FILE

MODULES_FILE = "modules.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
POOLING_FILE, NORMALIZE_FILE = "1_Pooling/config.json", "2_Normalize/config.json"
SETTINGS_FILE = "config_sentence_transformers.json"
CARD_FILE = "README.md"

# The short types are the ones that releases before 5.4 know too; 6.2 loads them with the same vectors.
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
# The least releases that compute the right thing: transformers reads `is_causal: false` since 5.9.
VERSIONS = {"sentence_transformers": "6.0.0", "transformers": "5.9.0", "pytorch": "2.11.0"}
UNLIMITED = 10**9
LEGACY_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
# Our pooling -> sentence-transformers' old key and new value.
MODES: dict[str, tuple[str, str]] = {
    "mean": ("mean_tokens", "mean"),
    "weighted_mean": ("weightedmean_tokens", "weightedmean"),
    "last": ("lasttoken", "lasttoken"),
}
# A module that pplx-embed brings as remote code; what it computes is `codes="tanh"`.
PPLX_QUANTIZER = "st_quantize.FlexibleQuantizer"

CARD = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [diffembed, sentence-transformers, feature-extraction]
---

# A text embedder made with diffembed

{params:.1f}M parameters, {dims} dimensions, up to {max_tokens} tokens at a time, attention: {direction}.
{readout}

```python
from diffembed import Embedder

embedder = Embedder.load("path/to/this/folder")
embedder.encode_query(["..."]) @ embedder.encode_document(["..."]).T
```

```python
from sentence_transformers import SentenceTransformer  # {versions}

model = SentenceTransformer("path/to/this/folder")
model.encode_query(["..."]) @ model.encode_document(["..."]).T
model.encode(["..."], prompt="an instruction<|query|>")  # a query with an instruction
```

Text Embeddings Inference reads the folder too, but its mean counts the tokens of a query's prompt, so its query vectors
differ from these; its document vectors do not.

## Training

```json
{trained}
```
"""


READOUTS = {
    "mean": "A vector is the mean of the token states after the final norm, scaled to unit length",
    "weighted_mean": "A vector is the mean of the token states after the final norm, the n-th counting n times, scaled "
    "to unit length",
    "last": "A vector is the last token's state after the final norm, scaled to unit length.",
}
# Our roles -> what sentence-transformers calls their prompts, in the order in which it looks.
PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def can_export(model: Model) -> bool:
    """Whether stock modules can compute the model's vectors: nothing behind a text, and no codes."""
    slots = [TEXT_SLOT in prompt for prompt in model.prompts.values()]
    return (
        model.readout.pooling in MODES
        and model.readout.codes != "tanh"
        and model.template == TEXT_SLOT
        and not any(slots)
    )


def write_export(model: Model, folder: Path) -> None:
    """Write what other libraries need beside config.json, weights and tokenizer."""
    width = model.backbone.config.width
    legacy, mode = MODES[model.readout.pooling]
    pooling = {
        # Both schemas: TEI demands the old keys, sentence-transformers >= 5.4 writes the new ones.
        "word_embedding_dimension": width,
        **{f"pooling_mode_{each}": each == legacy for each in LEGACY_MODES},
        "embedding_dimension": width,
        "pooling_mode": mode,
        # Only means can leave something out.
        "include_prompt": model.readout.counts_prompt or not model.readout.is_mean,
    }
    settings = {
        "__version__": VERSIONS,
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": "", **model.prompts},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    _write_json(folder / MODULES_FILE, MODULES)
    _write_json(folder / TRANSFORMER_FILE, {"max_seq_length": model.max_tokens, "do_lower_case": False})
    _write_json(folder / POOLING_FILE, pooling)
    _write_json(folder / NORMALIZE_FILE, {})
    _write_json(folder / SETTINGS_FILE, settings)
    (folder / CARD_FILE).write_text(_card(model), encoding="utf-8")


def read_export(folder: Path) -> dict[str, Any] | None:
    """Prompts, max_tokens and readout of a sentence-transformers folder, or None where it is none.

    Prompts that are neither a query's nor a document's are named under `unused`, if there are any.

    Raises:
        CheckpointError: It computes its vectors in a way that we don't.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    try:
        modules = json.loads((folder / MODULES_FILE).read_text(encoding="utf-8"))
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / MODULES_FILE} cannot be read: {error}", hint="restore the file") from None
    codes: Codes = "row"
    if kinds == ["Transformer", "Pooling", "FlexibleQuantizer"] and modules[2]["type"] == PPLX_QUANTIZER:
        codes = "tanh"
    elif kinds != ["Transformer", "Pooling", "Normalize"]:
        raise CheckpointError(
            f"{folder} is made of {', '.join(kinds)}", hint="only Transformer, Pooling, Normalize is supported"
        )
    pooling = read_json(folder / POOLING_FILE)
    kind = _read_pooling(folder, pooling)
    settings = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    named = settings.get("prompts")
    if not isinstance(named, dict | None):
        raise CheckpointError(f"{folder / SETTINGS_FILE} has prompts {named!r}", hint="they must be an object")
    named = {name: prompt for name, prompt in (named or {}).items() if prompt not in ("", None)}
    # A document's prompt goes by three names there (sentence_transformers.base.model, `encode_document`).
    chosen = {role: next((n for n in names if n in named), None) for role, names in PROMPT_NAMES.items()}
    prompts = {role: named[name] for role, name in chosen.items() if name is not None}
    if (default := settings.get("default_prompt_name")) is not None:
        raise CheckpointError(
            f"{folder / SETTINGS_FILE} has default_prompt_name {default!r}",
            hint="only null is supported: a text without a role has no prompt",
        )
    readout = Readout(
        pooling=kind,
        codes=codes,
        counts_prompt=kind != "last" and bool(prompts) and pooling.get("include_prompt", True) is not False,
    )
    found = {"prompts": prompts, "max_tokens": _read_limit(folder), "readout": readout}
    unused = sorted(set(named) - set(chosen.values()))
    return {**found, "unused": unused} if unused else found


def _read_pooling(folder: Path, pooling: dict[str, Any]) -> Pooling:
    modes = pooling.get("pooling_mode", [])
    if not isinstance(modes, str | list | None):
        raise CheckpointError(f"{folder / POOLING_FILE} has pooling_mode {modes!r}", hint="a name, or a list of names")
    asked = {modes} if isinstance(modes, str) else {str(mode) for mode in modes or []}
    asked |= {new for legacy, new in MODES.values() if pooling.get(f"pooling_mode_{legacy}")}
    asked |= {mode for mode in LEGACY_MODES if mode not in dict(MODES.values()) and pooling.get(f"pooling_mode_{mode}")}
    known: dict[str, Pooling] = {new: kind for kind, (_, new) in MODES.items()}  # type: ignore[misc]
    if len(asked) > 1 or not asked <= set(known):
        raise CheckpointError(
            f"{folder / POOLING_FILE} asks for another pooling: {', '.join(sorted(asked))}",
            hint=f"one of {', '.join(known)} is supported",
        )
    return known[asked.pop()] if asked else "mean"


def _read_limit(folder: Path) -> int | None:
    """Releases since 5.4 keep the limit with the tokenizer; there, a number beyond all reason stands for none."""
    transformer = read_json(folder / TRANSFORMER_FILE) if (folder / TRANSFORMER_FILE).is_file() else {}
    if transformer.get("do_lower_case"):
        raise CheckpointError(
            f"{folder / TRANSFORMER_FILE} asks for lower case", hint="only do_lower_case false is supported"
        )
    limit, source = transformer.get("max_seq_length"), TRANSFORMER_FILE
    if limit is None and (folder / TOKENIZER_CONFIG_FILE).is_file():
        limit, source = read_json(folder / TOKENIZER_CONFIG_FILE).get("model_max_length"), TOKENIZER_CONFIG_FILE
        if isinstance(limit, int | float) and limit >= UNLIMITED:
            return None
    if limit is not None and type(limit) is not int:
        raise CheckpointError(f"{folder / source} limits texts to {limit!r} tokens", hint="a limit is a whole number")
    return limit


def _card(model: Model) -> str:
    config = model.backbone.config
    return CARD.format(
        params=sum(p.numel() for p in model.backbone.parameters()) / 1e6,
        dims=config.width,
        max_tokens=model.max_tokens,
        direction={"both": "both ways", "forward": "causal"}[config.direction],
        readout=READOUTS[model.readout.pooling] + _left_out(model),
        versions=", ".join(f"{name} >= {VERSIONS[name]}" for name in ("sentence_transformers", "transformers")),
        trained=json.dumps(dict(model.trained), indent=2, ensure_ascii=False),
    )


def _left_out(model: Model) -> str:
    if not model.readout.is_mean:
        return ""
    return "; the prompt's tokens count too." if model.readout.counts_prompt else "; the prompt's tokens are left out."


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
