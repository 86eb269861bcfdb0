"""Weights in a quarter of the space: int8 rows with one scale each, expanded when loaded.

The file has a name of its own, so that no other library takes the integers for weights.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffembed.backbone.checkpoint import CONFIG_FILE, parameter_shapes, read_config
from diffembed.backbone.config_files import from_hugging_face, to_hugging_face
from diffembed.backbone.names import HEAD
from diffembed.backbone.transformer import Backbone
from diffembed.backbone.weight_files import MISFIT_HINT
from diffembed.errors import CheckpointError

COMPACT_FILE = "model.int8.safetensors"
SCALE_SUFFIX = ".scale"


def pack_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round each row of each matrix to integers of at most 127; vectors (norms) stay fp32.

    No weight moves by more than half its row's scale, which is the row's largest magnitude / 127.
    """
    packed = {}
    for name, weight in weights.items():
        wide = weight.detach().to("cpu", torch.float32)
        if wide.dim() == 2:
            scale = wide.abs().amax(dim=1, keepdim=True) / 127
            packed[name] = (wide / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
            packed[name + SCALE_SUFFIX] = scale
        else:
            packed[name] = wide.contiguous()
    return packed


def unpack_weights(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fp32 weights of `pack_weights`.

    Raises:
        CheckpointError: A matrix has no scale or one of another shape, or a weight is no number of either kind.
    """
    weights = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        if tensor.dtype == torch.int8:
            scale = packed.get(name + SCALE_SUFFIX)
            is_matrix = tensor.dim() == 2 and scale is not None and scale.is_floating_point()
            if scale is None or not is_matrix or scale.shape != (len(tensor), 1):
                raise CheckpointError(f"the packed weight {name} has no scale that fits", hint="copy the file again")
            tensor = tensor.float() * scale
        if not tensor.is_floating_point():
            raise CheckpointError(f"the packed weight {name} is of kind {tensor.dtype}", hint="copy the file again")
        weights[name] = tensor.float()
    return weights


def save_compact(backbone: Backbone, folder: Path, *, pad_id: int | None = None, eos_id: int | None = None) -> None:
    """Write config.json and the packed weights, without a vocabulary head, into an existing folder."""
    config = to_hugging_face(backbone.config, pad_id=pad_id, eos_id=eos_id)
    weights: dict[str, Tensor] = {name: weight for name, weight in backbone.named_parameters() if name != HEAD}
    save_file(pack_weights(weights), folder / COMPACT_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_compact(folder: Path) -> Backbone:
    """Read a backbone that `save_compact` wrote, in fp32 on the CPU.

    Raises:
        CheckpointError: A file is damaged or foreign, or weights and configuration do not fit each other.
    """
    path = folder / COMPACT_FILE
    _, config = from_hugging_face(read_config(folder))
    if config.head == "own":  # which is not kept here
        config = replace(config, head="none")
    try:
        weights = unpack_weights(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}", hint="it may be cut short; copy it again"
        ) from None
    wanted = parameter_shapes(config, path, len(weights))
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != wanted:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(
            f"{path} does not fit config.json: {len(wrong)} weights differ, {wrong[0]} among them",
            hint=MISFIT_HINT,
        )
    return Backbone.from_weights(config, weights).eval()
