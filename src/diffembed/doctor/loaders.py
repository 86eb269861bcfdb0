"""Which other libraries read a folder and give our vectors, and why not.

What each of them does was read in its source or run: sentence-transformers 6.2 and transformers 5.23;
text-embeddings-inference 1.9 (`backends/candle/src`, `router/src/lib.rs`); vLLM (`model_executor/models/{qwen2,qwen3,
llama}.py`, `transformers_utils/config.py`; the newer schemas of sentence-transformers since vllm-project/vllm#54533).
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from diffembed.backbone import Direction
from diffembed.backbone.families import LLAMA, MISTRAL, PPLX, QWEN2, QWEN3
from diffembed.configs import read_json
from diffembed.doctor.facts import Doubt, Facts, Verdict
from diffembed.doctor.folder import KEPT_CLASS, WORDS
from diffembed.embedder.export import (
    MODULES_FILE,
    POOLING_FILE,
    SETTINGS_FILE,
    TRANSFORMER_FILE,
    VERSIONS,
    read_export,
)
from diffembed.embedder.locate import CONFIG_FILE
from diffembed.errors import DiffembedError
from diffembed.readout.spec import Readout
from diffembed.text.tokenizer_files import TOKENIZER_FILE

Reason = tuple[str, str]
"""Why not, and what to do about it."""

# Families that these libraries have classes of their own for.
STOCK = (QWEN2, QWEN3, LLAMA, MISTRAL)
# text-embeddings-inference: those that look where the folder says.
TEI = (QWEN3, PPLX)
# Those that look where it decided, by `model_type`.
TEI_FIXED: dict[str, Direction] = {"qwen2": "both", "mistral": "forward"}
TEI_DIRECTION = "use_bidirectional_attention"
# What its Qwen3 has no default for, and of which kind.
TEI_KEYS: dict[str, type] = {"attention_bias": bool, "use_sliding_window": bool, "eos_token_id": int}
# Short names, which all releases of sentence-transformers and vLLM know.
LEGACY_PREFIX = "sentence_transformers.models."
STOCK_PREFIX = "sentence_transformers."

ON_VLLM = "serve what Embedder.load(...).save(...) writes with vLLM"
SAVE = "Embedder.load(...).save(...) writes a folder that it reads"
MERGE = "Embedder.load(MODEL, adapter=...).save(...) writes the model with the adapter in it"
QUERIES = "its document vectors are right; let diffembed embed the queries"


def sentence_transformers(facts: Facts) -> Iterator[Reason]:
    """It needs its own files, and what transformers needs."""
    yield from _states(facts)
    modules = _modules(facts)
    if modules is None:
        yield f"there is no {MODULES_FILE}, so it takes the last token's state", SAVE
        return
    foreign = sorted({kind for kind in modules if not kind.startswith(STOCK_PREFIX)})
    if foreign:
        yield f"{MODULES_FILE} names {foreign[0]}, which asks for trust_remote_code", SAVE
    try:
        export = read_export(facts.folder)
    except DiffembedError as error:
        yield f"it computes something else: {error.message}", SAVE
        return
    assert export is not None
    if _spoken(export["prompts"]) != _spoken(facts.prompts):
        yield f"{SETTINGS_FILE} has other prompts than ours", SAVE
    if _means(export["readout"]) != _means(facts.readout):
        yield f"{POOLING_FILE} asks for another readout than ours", SAVE
    if facts.max_tokens is not None and export["max_tokens"] not in (None, facts.max_tokens):
        yield f"{TRANSFORMER_FILE} has another limit than ours: {export['max_tokens']} tokens", SAVE
    yield from _prefix(facts)


def transformers(facts: Facts) -> Iterator[Reason]:
    """AutoModel and AutoTokenizer: the same states, to be pooled by hand."""
    yield from _states(facts)


def text_embeddings_inference(facts: Facts) -> Iterator[Reason]:
    """It has its own classes, and reads the older schema of the pooling alone."""
    data, family, config = facts.data or {}, facts.family, facts.config
    assert config is not None
    if not (facts.folder / TOKENIZER_FILE).is_file():
        yield f"there is no {TOKENIZER_FILE}", SAVE
    if family not in TEI:
        looks = TEI_FIXED.get(data.get("model_type", ""))
        if looks is None:
            yield f"it has no {data.get('model_type')}", ON_VLLM
        elif looks != config.direction:
            yield f"its {data.get('model_type')} looks {WORDS[looks]}, whatever the folder says", ON_VLLM
        else:
            yield f"it has {data.get('model_type')} for GPUs alone, and in fp16", ON_VLLM
    elif (data.get(TEI_DIRECTION) is True) != (config.direction == "both"):
        yield f"config.json lacks {TEI_DIRECTION}, so it looks back only", _set(TEI_DIRECTION)
    if family is PPLX:
        yield "it rounds the vectors of this family to int8 codes", "compare them by cosine; they differ a little"
    if family in TEI:
        lacking = [key for key, kind in TEI_KEYS.items() if type(data.get(key)) is not kind]
        if lacking:
            yield f"config.json lacks {', '.join(lacking)}, which it has no default for", SAVE
    if data.get("rope_theta") is None:
        yield "config.json has no top-level rope_theta, which its older releases ask for", SAVE
    if config.rope_scaling is not None and config.rope_scaling.kind != "ntk":
        yield f"it does not scale positions ({config.rope_scaling.kind})", ON_VLLM
    pooling = _json(facts, POOLING_FILE)
    if pooling is None:
        yield f"there is no {POOLING_FILE}; it takes --pooling mean", SAVE
    elif pooling.get("pooling_mode_mean_tokens") is not True or "pooling_mode_cls_token" not in pooling:
        yield (
            f"{POOLING_FILE} lacks the older keys (pooling_mode_mean_tokens ...), without which it doesn't start",
            SAVE,
        )
    yield from _counted(facts)


def vllm(facts: Facts) -> Iterator[Reason]:
    """It reads sentence-transformers' files, and `is_causal` as transformers does."""
    data = facts.data or {}
    if facts.family not in STOCK:
        yield f"it has no {data.get('model_type')}", SAVE
    elif facts.config is not None and facts.config.direction == "both" and data.get("is_causal") is not False:
        yield "config.json lacks is_causal, so it looks back only", """--hf-overrides '{"is_causal": false}'"""
    modules, pooling = _modules(facts), _json(facts, POOLING_FILE)
    if modules is None or pooling is None:
        yield f"there is no {MODULES_FILE} with {POOLING_FILE}, so it takes the last token's state", SAVE
    elif pooling.get("pooling_mode_mean_tokens") is not True or not all(
        kind.startswith(LEGACY_PREFIX) for kind in modules
    ):
        yield "releases before September 2026 don't know this schema, and take the last token's state", SAVE
    if facts.is_rebuilt:
        yield _rebuilt()
    yield from _counted(facts)


# Check, why not, and from which releases on.
_LOADERS: tuple[tuple[str, Callable[[Facts], Iterator[Reason]], str], ...] = (
    ("sentence-transformers", sentence_transformers, f"{VERSIONS['sentence_transformers']} or newer reads it"),
    ("transformers", transformers, f"AutoModel of {VERSIONS['transformers']} or newer gives the same token states"),
    ("text-embeddings-inference", text_embeddings_inference, "1.9 or newer reads it (--dtype float32 on a CPU)"),
    ("vllm", vllm, "reads it"),
)


def _look(name: str, reasons: Callable[[Facts], Iterator[Reason]], fine: str) -> tuple[str, Callable[[Facts], Verdict]]:
    def look(facts: Facts) -> Verdict:
        if facts.has_failed:
            return None
        if facts.adapter_folder is not None:
            return Doubt("reads an adapter through peft, if at all, which forgets direction and prompts", MERGE)
        if facts.is_compact:
            return Doubt("the weights are int8 in a file that only diffembed reads", SAVE)
        found = list(reasons(facts))
        if not found:
            return fine
        hints = dict.fromkeys(hint for _, hint in found)
        return Doubt("; ".join(reason for reason, _ in found), "; ".join([SAVE] if SAVE in hints else hints))

    return name, look


LOADERS = tuple(_look(*row) for row in _LOADERS)


def _states(facts: Facts) -> Iterator[Reason]:
    """Why transformers computes other states from other tokens."""
    data = facts.data or {}
    if facts.family not in STOCK:
        yield f"it has no {data.get('model_type')}", SAVE
    elif facts.config is not None and facts.config.direction == "both" and data.get("is_causal") is not False:
        yield "config.json lacks is_causal, so it looks back only", _set("is_causal")
    if facts.is_rebuilt:
        yield _rebuilt()


def _counted(facts: Facts) -> Iterator[Reason]:
    yield from _prefix(facts)
    if any(_spoken(facts.prompts)):
        yield "its mean counts the tokens of a prompt, so query vectors differ from ours", QUERIES


def _prefix(facts: Facts) -> Iterator[Reason]:
    if facts.tokenizer is not None and facts.tokenizer.prefix:
        token = facts.tokenizer.decode(facts.tokenizer.prefix)
        yield f"its mean counts the {token} before each text, which ours leaves out", "let diffembed embed"


def _rebuilt() -> Reason:
    return f"it cuts words as Qwen2 does, and not as {TOKENIZER_FILE} says", f'set "tokenizer_class" to "{KEPT_CLASS}"'


def _set(key: str) -> str:
    return f'set "{key}" in {CONFIG_FILE} to {"false" if key == "is_causal" else "true"}'


def _means(readout: Readout) -> tuple[str, bool, bool]:
    """What two readouts must agree on for fp32 vectors to be equal."""
    return readout.pooling, readout.counts_prompt, readout.codes == "tanh"


def _spoken(prompts: dict[str, str] | None) -> dict[str, str]:
    return {role: prompt for role, prompt in (prompts or {}).items() if prompt}


def _modules(facts: Facts) -> list[str] | None:
    """Types of the modules; None where there are none to be read."""
    try:
        rows = json.loads((facts.folder / MODULES_FILE).read_text(encoding="utf-8"))
        return [str(row["type"]) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _json(facts: Facts, name: str) -> dict[str, Any] | None:
    try:
        return read_json(facts.folder / name)
    except DiffembedError:
        return None
