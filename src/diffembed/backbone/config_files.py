"""config.json <-> a backbone's configuration. Free of torch."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from diffembed.backbone.config import BackboneConfig, Direction, RopeKind, RopeScaling
from diffembed.backbone.families import BY_MODEL_TYPE, FAMILIES, KEYS, LLAMA, QWEN2, QWEN3, Family
from diffembed.errors import CheckpointError, ConfigError

# Classes that Hugging Face builds for the hidden states.
ARCHITECTURES = {QWEN3.name: "Qwen3Model", QWEN2.name: "Qwen2Model", LLAMA.name: "LlamaModel"}
# Ours, which no other library reads, for a head that predicts the next token.
SHIFT_KEY = "logit_shift"
RESTORE = "restore the file"
UNLIMITED = sys.maxsize

# Our field -> the key of rope_parameters, for each kind.
_YARN = {"attention_factor": "attention_factor", "slow_turns": "beta_slow", "fast_turns": "beta_fast"}
ROPE_KEYS: Mapping[RopeKind, Mapping[str, str]] = {
    "linear": {},
    "ntk": {},  # ours, for a base to be stretched by hand; the files of others have none of this name
    "yarn": {**_YARN, "original_positions": "original_max_position_embeddings", "rounds_bounds": "truncate"},
    "llama3": {
        "original_positions": "original_max_position_embeddings",
        "slow_turns": "low_freq_factor",
        "fast_turns": "high_freq_factor",
    },
}


def to_hugging_face(config: BackboneConfig, *, pad_id: int | None = None, eos_id: int | None = None) -> dict[str, Any]:
    """Write a configuration as the config.json of a stock model: Qwen3, Qwen2 or Llama, whichever computes the same.

    transformers 5 reads `is_causal`, TEI `use_bidirectional_attention`; a top-level `rope_theta` is for TEI and older
    releases. There is no key for looking only ahead, and no class with both qk-norm and biases.

    Raises:
        CheckpointError: No stock class computes this.
    """
    if config.direction == "backward":
        raise CheckpointError(
            "a model that looks only ahead cannot be written: no other library can read its direction",
            hint="save with direction both or forward",
        )
    if config.qk_norm and config.qkv_bias:
        raise CheckpointError("no stock class has both qk-norm and biases", hint="train with one of them")
    stock = QWEN3 if config.qk_norm else QWEN2 if config.qkv_bias else LLAMA
    rope = _rope_parameters(config)
    return {
        "architectures": [ARCHITECTURES[stock.name]],
        "model_type": stock.model_types[0],
        **{theirs: getattr(config, ours) for ours, theirs in KEYS.items()},
        "rope_theta": rope["rope_theta"],
        "rope_parameters": rope,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.head == "tied",
        "use_sliding_window": False,
        "use_cache": False,
        "is_causal": config.direction == "forward",
        "use_bidirectional_attention": config.direction == "both",
        **({SHIFT_KEY: True} if config.logit_shift else {}),
        "pad_token_id": pad_id,
        "eos_token_id": eos_id,
        "dtype": "float32",
    }


def from_hugging_face(data: dict[str, Any], direction: Direction | None = None) -> tuple[Family, BackboneConfig]:
    """Read a config.json.

    Args:
        data: Its content.
        direction: Overrules what the file says.

    Returns:
        The family, and the configuration with the head that the file promises (`own` or `tied`).

    Raises:
        CheckpointError: The family is unknown, a key is missing, or the file asks for something we do not compute.
    """
    model_type = data.get("model_type")
    family = BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(name for each in FAMILIES for name in each.model_types)
        raise CheckpointError(f"config.json has model_type {model_type!r}", hint=f"known families: {known}")
    _refuse(data, family.supported)
    values = _counts(data, family)
    theta, scaling = _rope(data, values["max_positions"])
    if scaling is not None and scaling.kind in ("yarn", "ntk"):
        # Qwen's files name the trained positions even where they ask for more.
        values["max_positions"] = max(values["max_positions"], int(scaling.factor * scaling.original_positions))
    values["max_positions"] = min(values["max_positions"], _window(data), _dynamic_limit(data))
    try:
        return family, BackboneConfig(
            **values,
            norm_eps=float(_number(data, family.keys["norm_eps"])),
            rope_theta=float(theta),
            rope_scaling=scaling,
            qk_norm=family.qk_norm,
            qkv_bias=family.qkv_bias,
            head="tied" if _flag(data, family.tie_key) else "own",
            logit_shift=_flag(data, SHIFT_KEY, family.logit_shift),
            direction=direction or _direction(data, family),
        )
    except OverflowError:  # an integer that is no float
        raise CheckpointError("config.json has a number beyond all reason", hint=RESTORE) from None
    except ConfigError as error:
        raise CheckpointError(f"config.json cannot be used: {error.message}", hint=RESTORE) from None


def _counts(data: dict[str, Any], family: Family) -> dict[str, int]:
    """All whole numbers of the shape; what a file may leave out follows from the others."""
    keys = {ours: theirs for ours, theirs in family.keys.items() if ours != "norm_eps"}
    given = {**family.defaults, **{theirs: data[theirs] for theirs in keys.values() if data.get(theirs) is not None}}
    optional = {"num_kv_heads", "head_width"}
    missing = [theirs for ours, theirs in keys.items() if ours not in optional and theirs not in given]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}", hint=RESTORE)
    values = {ours: given[theirs] for ours, theirs in keys.items() if theirs in given}
    for ours, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            what = "a fraction where a count belongs" if isinstance(value, float) else "no number"
            raise CheckpointError(f"config.json holds {what}: {keys[ours]} = {value!r}", hint=RESTORE)
    values.setdefault("num_kv_heads", values["num_heads"])
    if "head_width" not in values:
        if values["num_heads"] < 1 or values["width"] % values["num_heads"]:
            raise CheckpointError(
                f"config.json has no {keys['head_width']}, and {keys['width']} {values['width']} does not divide by "
                f"{keys['num_heads']} {values['num_heads']}",
                hint=RESTORE,
            )
        values["head_width"] = values["width"] // values["num_heads"]
    return values


def _rope_parameters(config: BackboneConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling.kind == "ntk":  # a larger base and nothing else, so that any library computes it
        theta = config.rope_theta * scaling.factor ** (config.head_width / max(config.head_width - 2, 1))
        return {"rope_type": "default", "rope_theta": theta}
    own = {theirs: getattr(scaling, ours) for ours, theirs in ROPE_KEYS[scaling.kind].items()}
    own = {key: value for key, value in own.items() if value is not None}
    return {"rope_type": scaling.kind, "rope_theta": config.rope_theta, "factor": scaling.factor, **own}


def _rope(data: dict[str, Any], max_positions: int) -> tuple[int | float, RopeScaling | None]:
    """Base and scaling, from transformers 5's `rope_parameters` or the older `rope_scaling` and `rope_theta`."""
    rope = _rope_entries(data)
    theta = _number({"rope_theta": data.get("rope_theta"), **rope}, "rope_theta")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "dynamic", None):
        return theta, None
    if not isinstance(kind, str) or kind not in ROPE_KEYS:
        raise CheckpointError(
            f"config.json has rope_type {kind!r}", hint=f"supported: default, dynamic, {', '.join(ROPE_KEYS)}"
        )
    for key in ("mscale", "mscale_all_dim"):
        if rope.get(key) is not None:
            raise CheckpointError(f"config.json has {key} = {rope[key]!r}", hint="only its absence is supported")
    fields: dict[str, Any] = {"original_positions": max_positions}
    for ours, theirs in ROPE_KEYS[kind].items():  # type: ignore[index]
        if rope.get(theirs) is not None or kind == "llama3":  # which has no defaults
            if ours == "rounds_bounds":
                fields[ours] = _flag(rope, theirs)
            else:
                number = _number(rope, theirs)
                fields[ours] = int(number) if ours == "original_positions" else float(number)
    try:
        return theta, RopeScaling(kind=kind, factor=float(_number(rope, "factor")), **fields)  # type: ignore[arg-type]
    except ConfigError as error:
        raise CheckpointError(f"config.json cannot be used: {error.message}", hint=RESTORE) from None


def _rope_entries(data: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = data.get(key)
        if not isinstance(value, dict | None):
            raise CheckpointError(f"config.json has {key} = {value!r}", hint="it must be an object")
        rope |= value or {}
    return rope


def _dynamic_limit(data: dict[str, Any]) -> int:
    """Dynamic NTK changes the base for sequences beyond the trained positions, and for their neighbours with them.

    Within those positions it is plain; a text's vector must not depend on its neighbours, so the rest is left alone.
    """
    rope = _rope_entries(data)
    if rope.get("rope_type", rope.get("type")) != "dynamic":
        return UNLIMITED
    key = "original_max_position_embeddings"
    return int(_number(rope, key)) if rope.get(key) is not None else UNLIMITED


def _window(data: dict[str, Any]) -> int:
    """Positions up to which a sliding window sees all, so that it makes no difference."""
    window = data.get("sliding_window")
    if window is None or not _flag(data, "use_sliding_window", data.get("model_type") == "mistral"):
        return UNLIMITED
    return int(_number(data, "sliding_window"))


def _direction(data: dict[str, Any], family: Family) -> Direction:
    is_causal, looks_both_ways = (_optional_flag(data, key) for key in ("is_causal", "use_bidirectional_attention"))
    if looks_both_ways or is_causal is False:
        return "both"
    return "forward" if is_causal else family.direction


def _flag(data: Mapping[str, Any], key: str, default: bool = False) -> bool:
    value = _optional_flag(data, key)
    return default if value is None else value


def _optional_flag(data: Mapping[str, Any], key: str) -> bool | None:
    value = data.get(key)
    if not isinstance(value, bool | None):
        raise CheckpointError(f"config.json has {key} = {value!r}", hint="allowed: true, false, null")
    return value


def _number(data: Mapping[str, Any], key: str) -> int | float:
    value = data.get(key)
    if value is None:
        raise CheckpointError(f"config.json lacks {key}", hint=RESTORE)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise CheckpointError(f"config.json holds no number: {key} = {value!r}", hint=RESTORE)
    return value


def _refuse(data: dict[str, Any], supported: Mapping[str, Any]) -> None:
    for key, value in supported.items():
        if data.get(key, value) != value:
            raise CheckpointError(f"config.json has {key} = {data[key]!r}", hint=f"only {value!r} is supported")
