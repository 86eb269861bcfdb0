"""Backbones on disk: safetensors and config.json of any family, written for Hugging Face's stock classes."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.config_files import from_hugging_face, to_hugging_face
from diffembed.backbone.families import Family
from diffembed.backbone.names import HEAD, find_prefix, to_theirs
from diffembed.backbone.transformer import Backbone
from diffembed.backbone.weight_files import MISFIT_HINT, WEIGHTS_FILE, weights_of
from diffembed.configs import read_json
from diffembed.errors import CheckpointError
from diffembed.files import replacing, write_whole

CONFIG_FILE = "config.json"
# Kinds of weights, as safetensors spells them. Others would need a scale that we know nothing of.
FLOATS = ("F32", "BF16", "F16", "F64")
# Kept as they are in memory; anything else becomes fp32.
KEPT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Tables that older files hold and that follow from the configuration.
DERIVED_SUFFIX = ".rotary_emb.inv_freq"


def save_backbone(
    backbone: Backbone, folder: Path | str, *, pad_id: int | None = None, eos_id: int | None = None
) -> None:
    """Write weights and configuration; the configuration comes last, so a half-written folder cannot be loaded.

    Args:
        backbone: What to save, in its own dtype.
        folder: Made if missing; files in it are replaced.
        pad_id: For config.json.
        eos_id: For config.json.

    Raises:
        CheckpointError: No stock class computes what it computes.
    """
    folder = Path(folder)
    dtype = str(backbone.embed_tokens.weight.dtype).removeprefix("torch.")
    config = {**to_hugging_face(backbone.config, pad_id=pad_id, eos_id=eos_id), "dtype": dtype}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to("cpu").contiguous() for name, p in backbone.state_dict().items()}
    with replacing(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_whole(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def load_backbone(
    folder: Path | str,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    direction: Direction | None = None,
    with_head: bool = False,
) -> Backbone:
    """Read a backbone of any family from a folder of safetensors and JSON.

    Args:
        folder: Holds config.json and model.safetensors, or an index and the files that it names.
        dtype: Of the weights in memory; None: as they are stored.
        device: Where they go.
        direction: Overrules the folder's own.
        with_head: Read a vocabulary head of its own too. It takes as much space as the embedding table, and vectors
            don't need it. A tied head is there always.

    Raises:
        CheckpointError: A file is missing, damaged or foreign, or weights and configuration do not fit each other.
    """
    folder = Path(folder)
    family, config = from_hugging_face(read_config(folder), direction)
    if config.head == "own" and not with_head:
        config = replace(config, head="none")
    tensors = _read_weights(folder, config, family)
    if dtype is None:
        stored = {tensor.dtype for tensor in tensors.values()}
        dtype = stored.pop() if len(stored) == 1 and stored <= set(KEPT_DTYPES) else torch.float32
    backbone = Backbone.from_weights(config, {name: t.to(device=device, dtype=dtype) for name, t in tensors.items()})
    return backbone.eval()


def read_config(folder: Path) -> dict:
    """The content of a folder's config.json.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}", hint="point to a complete model folder")
    return read_json(path, CheckpointError)


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


def _read_weights(folder: Path, config: BackboneConfig, family: Family) -> dict[str, Tensor]:
    """The wanted tensors, checked for name, shape and kind before any is kept."""
    with weights_of(folder) as weights:
        wanted = parameter_shapes(config, weights.path, len(weights.names))
        prefix = find_prefix(wanted, weights.names, family)
        if prefix is None:
            first = family.prefixes[0]
            missing = sorted(name for name in wanted if to_theirs(name, family, first) not in weights.names)
            raise CheckpointError(
                f"{weights.path} lacks {len(missing)} of {len(wanted)} weights, for one {missing[0]}", hint=MISFIT_HINT
            )
        theirs = {name: to_theirs(name, family, prefix) for name in wanted}
        spare = {HEAD, to_theirs(HEAD, family, prefix)}  # a tied head written out, or one that nobody asked for
        extra = sorted(
            name for name in weights.names - set(theirs.values()) - spare if not name.endswith(DERIVED_SUFFIX)
        )
        if extra:
            raise CheckpointError(
                f"{weights.path} holds {len(extra)} weights that config.json has no place for, {extra[0]} among them",
                hint=MISFIT_HINT,
            )
        for name, shape in wanted.items():
            weights.check(theirs[name], shape, FLOATS)
        return {name: weights.read(theirs[name]) for name in wanted}
