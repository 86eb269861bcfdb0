"""Low-rank adapters (LoRA, arXiv:2106.09685) in the layout of `peft`: read, merged into a backbone's weights, written.

Source of the layout: `adapter_config.json` beside `adapter_model.safetensors`, whose tensors are called
`base_model.model.MODULE.lora_A.weight` (rank, inputs) and `...lora_B.weight` (outputs, rank).

`peft` keeps neither the direction nor the readout of what was trained; they are in a file of ours beside it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffembed.backbone.families import FAMILIES, Family
from diffembed.backbone.names import to_ours
from diffembed.configs import read_json
from diffembed.errors import CheckpointError, ConfigError
from diffembed.files import replacing, write_whole

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"
# What we compute, whatever else these keys may ask for.
SUPPORTED: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "lora_bias": False,
}
EMPTY = ("modules_to_save", "rank_pattern", "alpha_pattern", "target_parameters", "trainable_token_indices")
FLOATS = ("F32", "BF16", "F16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """What is added to some weights of a backbone: scale x B x A."""

    rank: int
    alpha: float
    uses_sqrt: bool = False
    """Scale by alpha / sqrt(rank) rather than alpha / rank (rsLoRA, arXiv:2312.03732)."""
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    """Weight of ours (`layers.0.self_attn.q_proj.weight`) -> A (rank, inputs) and B (outputs, rank)."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Weight of ours -> the module that its files name, where that is another: `model.layers.0.self_attn.q_proj` of a
    class with a head, LLaDA's own names. Written again so that `peft` finds the modules of the base."""
    base: str | None = None
    """Model that it was trained on, as its config names it."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise ConfigError(
                f"an adapter's rank and alpha must be positive, got {self.rank} and {self.alpha}",
                hint="16 and 32 are usual",
            )

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.uses_sqrt else self.rank)

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights with the adapter added, each sum made in fp32 and kept in the weight's dtype.

        Raises:
            CheckpointError: It adds to a weight that isn't there, or has another shape.
        """
        result = dict(weights)
        for name, (a, b) in self.pairs.items():
            if name not in weights:
                raise CheckpointError(
                    f"the adapter adds to {name}, which the model has not", hint="name its base model"
                )
            weight = weights[name]
            if (b.shape[0], a.shape[1]) != tuple(weight.shape):
                raise CheckpointError(
                    f"the adapter makes {name} {(b.shape[0], a.shape[1])}, and it is {tuple(weight.shape)}",
                    hint=f"it was trained on {self.base or 'another model'}",
                )
            result[name] = (weight.float() + self.scale * (b.float() @ a.float())).to(weight.dtype)
        return result


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG_FILE).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter that `peft` or `save_adapter` wrote.

    Raises:
        CheckpointError: A file is missing or damaged, or it is of another kind.
    """
    config = _read_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}", hint="only safetensors weights are read, no pickle")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{folder / CONFIG_FILE} has r {rank!r} and lora_alpha {alpha!r}", hint="copy it again")
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                if (kind := file.get_slice(name).get_dtype()) not in FLOATS:
                    raise CheckpointError(f"{path}: {name} is of kind {kind}", hint=f"supported: {', '.join(FLOATS)}")
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}", hint="it may be cut short; copy it again"
        ) from None
    pairs, modules = _pairs(path, tensors, rank)
    base = config.get("base_model_name_or_path")
    try:
        return Adapter(
            rank=rank,
            alpha=float(alpha),
            uses_sqrt=bool(config.get("use_rslora")),
            pairs=pairs,
            modules=modules,
            base=base if isinstance(base, str) and base else None,
        )
    except (ConfigError, OverflowError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} cannot be used: {error}", hint="copy it again") from None


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write an adapter so that `peft` loads it onto the stock class; the configuration comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    modules = {name: adapter.modules.get(name, name.removesuffix(".weight")) for name in adapter.pairs}
    for name, (a, b) in adapter.pairs.items():
        module = ROOT + modules[name]
        tensors[module + A_SUFFIX], tensors[module + B_SUFFIX] = (
            a.detach().cpu().contiguous(),
            b.detach().cpu().contiguous(),
        )
    with replacing(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "use_rslora": adapter.uses_sqrt,
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules.values()}),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    write_whole(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path, CheckpointError)
    for key, value in SUPPORTED.items():
        if config.get(key, value) not in (value, None):
            raise CheckpointError(f"{path} has {key} = {config[key]!r}", hint=f"only {value!r} is supported")
    for key in EMPTY:
        if config.get(key):
            raise CheckpointError(f"{path} has {key} = {config[key]!r}", hint="only its absence is supported")
    return config


def _pairs(
    path: Path, tensors: Mapping[str, Tensor], rank: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str]]:
    """The halves by our weight's name, and what the files call its module."""
    pairs, modules = {}, {}
    for name in sorted(tensors):
        if name.endswith(B_SUFFIX) and name.removesuffix(B_SUFFIX) + A_SUFFIX in tensors:
            continue
        b = tensors.get(name.removesuffix(A_SUFFIX) + B_SUFFIX)
        if not name.startswith(ROOT) or not name.endswith(A_SUFFIX) or b is None:
            raise CheckpointError(f"{path} holds {name}, which is no half of a pair", hint="copy it again")
        a = tensors[name]
        if a.dim() != 2 or b.dim() != 2 or not (a.shape[0] == b.shape[1] == rank):
            raise CheckpointError(
                f"{path}: {name} is {tuple(a.shape)}, its other half {tuple(b.shape)}, and the rank {rank}",
                hint="copy it again",
            )
        module = name.removeprefix(ROOT).removesuffix(A_SUFFIX)
        ours = _our_name(path, module + ".weight")
        pairs[ours], modules[ours] = (a, b), module
    if not pairs:
        raise CheckpointError(f"{path} holds nothing", hint="copy it again")
    return pairs, modules


def _our_name(path: Path, theirs: str) -> str:
    for family in FAMILIES:
        if ours := _in_family(theirs, family):
            return ours
    raise CheckpointError(f"{path} adds to {theirs}, which no known family has", hint="see `diffembed models`")


def _in_family(theirs: str, family: Family) -> str | None:
    """The weight of a layer that a family calls so; others take no adapter."""
    for prefix in sorted(family.prefixes, key=len, reverse=True):
        ours = to_ours(theirs, family, prefix)
        if ours is not None and ours.startswith("layers."):
            return ours
    return None
