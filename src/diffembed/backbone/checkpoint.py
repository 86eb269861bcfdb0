"""Backbones on disk: model.safetensors + config.json, readable by Hugging Face's stock classes."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.families import from_hugging_face, to_hugging_face
from diffembed.backbone.transformer import Backbone
from diffembed.errors import CheckpointError
from diffembed.files import replacing, write_whole

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# Weights that other exporters write and that we derive or share: the tied head.
SPARE_WEIGHTS = frozenset({"lm_head.weight"})
# Kinds of weights, as safetensors spells them. Others would need a scale that we know nothing of.
FLOATS = ("F32", "BF16", "F16", "F64")
MISFIT_HINT = "config.json and the weights must come from the same model"


def save_backbone(
    backbone: Backbone, folder: Path | str, *, pad_id: int | None = None, eos_id: int | None = None
) -> None:
    """Write weights (fp32) and configuration; the configuration comes last, so a half-written folder cannot be loaded.

    Args:
        backbone: What to save, of any dtype.
        folder: Made if missing; files in it are replaced.
        pad_id: For config.json.
        eos_id: For config.json.
    """
    folder = Path(folder)
    config = to_hugging_face(backbone.config, pad_id=pad_id, eos_id=eos_id)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to("cpu", torch.float32).contiguous() for name, p in backbone.state_dict().items()}
    with replacing(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_whole(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def load_backbone(
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    direction: Direction | None = None,
) -> Backbone:
    """Read a backbone from a folder of safetensors and JSON.

    Args:
        folder: Holds config.json and model.safetensors.
        dtype: Of the weights in memory.
        device: Where they go.
        direction: Overrules the folder's own.

    Raises:
        CheckpointError: A file is missing, damaged or foreign, or weights and configuration do not fit each other.
    """
    folder = Path(folder)
    family, config = from_hugging_face(read_config(folder), direction)
    tensors = _read_weights(folder / WEIGHTS_FILE, config, family.weight_prefixes)
    backbone = Backbone.from_weights(config, {name: t.to(device=device, dtype=dtype) for name, t in tensors.items()})
    return backbone.to(device).eval()


def read_config(folder: Path) -> dict:
    """The content of a folder's config.json.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}", hint="point to a complete model folder")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, an integer of 5,000 digits
        raise CheckpointError(f"{path} is not readable JSON: {error}", hint="restore the file") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(data).__name__}", hint="restore the file")
    return data


def parameter_shapes(config: BackboneConfig, path: Path, num_weights: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight that a configuration asks for.

    Args:
        config: Its depth is not believed: a billion layers would take hours to name.
        path: File of the weights, for messages.
        num_weights: Weights that it holds; there are several to a layer.

    Raises:
        CheckpointError: So many layers are not in the file.
    """
    if config.num_layers > num_weights:
        raise CheckpointError(
            f"{path} lacks weights: it holds {num_weights}, and config.json asks for {config.num_layers} layers",
            hint=MISFIT_HINT,
        )
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in Backbone(config).named_parameters()}


def _read_weights(path: Path, config: BackboneConfig, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The wanted tensors, checked for name, shape and kind before any is kept."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}", hint="only safetensors weights are read, no pickle")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            wanted = parameter_shapes(config, path, len(names))
            prefix = next((p for p in prefixes if all(p + name in names for name in wanted)), None)
            if prefix is None:
                missing = sorted(name for name in wanted if prefixes[0] + name not in names)
                raise CheckpointError(
                    f"{path} lacks {len(missing)} of {len(wanted)} weights, for one {missing[0]}",
                    hint=MISFIT_HINT,
                )
            extra = sorted(names - {prefix + name for name in wanted} - SPARE_WEIGHTS)
            if extra:
                raise CheckpointError(
                    f"{path} holds {len(extra)} weights that config.json has no place for, {extra[0]} among them",
                    hint=MISFIT_HINT,
                )
            for name, shape in wanted.items():
                header = file.get_slice(prefix + name)
                found = tuple(header.get_shape())
                if found != shape:
                    raise CheckpointError(
                        f"{path}: {name} has shape {found}, config.json asks for {shape}",
                        hint=MISFIT_HINT,
                    )
                if header.get_dtype() not in FLOATS:
                    raise CheckpointError(
                        f"{path}: {name} is of kind {header.get_dtype()}", hint=f"supported: {', '.join(FLOATS)}"
                    )
            return {name: file.get_tensor(prefix + name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}",
            hint="it may be cut short; copy it again",
        ) from None
