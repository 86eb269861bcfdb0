"""Backbones on disk: model.safetensors + config.json, readable by Hugging Face's stock classes."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffembed.backbone.config import Direction
from diffembed.backbone.families import from_hugging_face, to_hugging_face
from diffembed.backbone.transformer import Backbone
from diffembed.errors import CheckpointError
from diffembed.files import replacing, write_whole

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# Weights that other exporters write and that we derive or share: the tied head.
SPARE_WEIGHTS = frozenset({"lm_head.weight"})


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
    with torch.device("meta"):
        backbone = Backbone(config)
    wanted = {name: tuple(p.shape) for name, p in backbone.named_parameters()}
    tensors = _read_weights(folder / WEIGHTS_FILE, wanted, family.weight_prefixes)
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
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}", hint="restore the file") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(data).__name__}", hint="restore the file")
    return data


def _read_weights(path: Path, wanted: dict[str, tuple[int, ...]], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The wanted tensors, checked for name, shape and kind before any is kept."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}", hint="only safetensors weights are read, no pickle")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            prefix = next((p for p in prefixes if all(p + name in names for name in wanted)), None)
            if prefix is None:
                missing = sorted(name for name in wanted if prefixes[0] + name not in names)
                raise CheckpointError(
                    f"{path} lacks {len(missing)} of {len(wanted)} weights, for one {missing[0]}",
                    hint="config.json and the weights must come from the same model",
                )
            extra = sorted(names - {prefix + name for name in wanted} - SPARE_WEIGHTS)
            if extra:
                raise CheckpointError(
                    f"{path} holds {len(extra)} weights that config.json has no place for, {extra[0]} among them",
                    hint="config.json and the weights must come from the same model",
                )
            for name, shape in wanted.items():
                found = tuple(file.get_slice(prefix + name).get_shape())
                if found != shape:
                    raise CheckpointError(
                        f"{path}: {name} has shape {found}, config.json asks for {shape}",
                        hint="config.json and the weights must come from the same model",
                    )
            return {name: file.get_tensor(prefix + name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}",
            hint="it may be cut short; copy it again",
        ) from None
