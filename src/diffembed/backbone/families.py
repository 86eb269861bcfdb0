"""What each family of checkpoints calls things. The only place that knows Hugging Face's configuration keys."""

from dataclasses import dataclass
from typing import Any

from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Facts that a family of checkpoints shares."""

    model_type: str
    """`model_type` in config.json."""
    architecture: str
    """Class that Hugging Face builds for the hidden states."""
    direction: Direction
    """Where its attention looks when the configuration does not say."""
    weight_prefixes: tuple[str, ...]
    """What stands before our weight names in its files."""


QWEN3 = Family(model_type="qwen3", architecture="Qwen3Model", direction="forward", weight_prefixes=("", "model."))
FAMILIES = {family.model_type: family for family in (QWEN3,)}

# Our field -> Hugging Face's key.
KEYS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "mlp_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
}


# What we compute, whatever else these keys may ask for. An untied head (`tie_word_embeddings`) plays no part here.
SUPPORTED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "use_sliding_window": False,
    "quantization_config": None,
}


def to_hugging_face(config: BackboneConfig, *, pad_id: int | None = None, eos_id: int | None = None) -> dict[str, Any]:
    """Write a configuration as the config.json of a stock Qwen3 model.

    transformers 5 reads `is_causal`, TEI `use_bidirectional_attention`; a top-level `rope_theta` is for TEI and older
    releases. There is no key for looking only ahead: such a model cannot be written.

    Raises:
        CheckpointError: The direction is backward.
    """
    if config.direction == "backward":
        raise CheckpointError(
            "a model that looks only ahead cannot be written: no other library can read its direction",
            hint="save with direction both or forward",
        )
    return {
        "architectures": [QWEN3.architecture],
        "model_type": QWEN3.model_type,
        **{theirs: getattr(config, ours) for ours, theirs in KEYS.items()},
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "use_cache": False,
        "is_causal": config.direction == "forward",
        "use_bidirectional_attention": config.direction == "both",
        "pad_token_id": pad_id,
        "eos_token_id": eos_id,
        "dtype": "float32",
    }


def from_hugging_face(data: dict[str, Any], direction: Direction | None = None) -> tuple[Family, BackboneConfig]:
    """Read a config.json.

    Args:
        data: Its content.
        direction: Overrules what the file says.

    Raises:
        CheckpointError: The family is unknown, a key is missing, or the file asks for something we do not compute.
    """
    model_type = data.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise CheckpointError(
            f"config.json has model_type {model_type!r}", hint=f"known families: {', '.join(FAMILIES)}"
        )
    missing = [theirs for theirs in KEYS.values() if theirs not in data]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}", hint="restore the file")
    _refuse(data, SUPPORTED)
    rope = data.get("rope_parameters")
    rope = {} if rope is None else rope
    if not isinstance(rope, dict):
        raise CheckpointError(f"config.json has rope_parameters = {rope!r}", hint="they must be an object")
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"config.json has rope_type {rope['rope_type']!r}", hint="only `default` is supported")
    theta = rope.get("rope_theta", data.get("rope_theta"))
    if theta is None:
        raise CheckpointError("config.json lacks rope_theta", hint="restore the file")
    values = {ours: data[theirs] for ours, theirs in KEYS.items()}
    wrong = [f"{KEYS[k]} = {v!r}" for k, v in values.items() if isinstance(v, bool) or not isinstance(v, int | float)]
    if wrong or isinstance(theta, bool) or not isinstance(theta, int | float):
        raise CheckpointError(
            f"config.json holds no number: {', '.join(wrong) or f'rope_theta = {theta!r}'}", hint="restore the file"
        )
    fractions = [KEYS[k] for k, v in values.items() if k != "norm_eps" and not isinstance(v, int)]
    if fractions:
        raise CheckpointError(
            f"config.json holds a fraction where a count belongs: {', '.join(fractions)}", hint="restore the file"
        )
    found = direction or _direction(data, family)
    try:
        values["norm_eps"], theta = float(values["norm_eps"]), float(theta)
        return family, BackboneConfig(**values, rope_theta=theta, direction=found)
    except OverflowError:  # an integer that is no float
        raise CheckpointError("config.json has a number beyond all reason", hint="restore the file") from None
    except ConfigError as error:
        raise CheckpointError(f"config.json cannot be used: {error.message}", hint="restore the file") from None


def _direction(data: dict[str, Any], family: Family) -> Direction:
    for key in ("is_causal", "use_bidirectional_attention"):
        if not isinstance(data.get(key), bool | None):
            raise CheckpointError(f"config.json has {key} = {data[key]!r}", hint="allowed: true, false, null")
    if data.get("use_bidirectional_attention") or data.get("is_causal") is False:
        return "both"
    return "forward" if data.get("is_causal") else family.direction


def _refuse(data: dict[str, Any], supported: dict[str, Any]) -> None:
    for key, value in supported.items():
        if data.get(key, value) != value:
            raise CheckpointError(f"config.json has {key} = {data[key]!r}", hint=f"only {value!r} is supported")
