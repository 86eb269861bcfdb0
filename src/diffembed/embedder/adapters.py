"""Adapter folders: `peft`'s two files, and a sidecar with what those leave out: direction, prompts, golden vectors."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffembed.backbone import DIRECTIONS, Backbone, Direction
from diffembed.backbone.adapter import Adapter, is_adapter, read_adapter, save_adapter
from diffembed.configs import read_json
from diffembed.embedder.folder import read_model
from diffembed.embedder.locate import find
from diffembed.embedder.model import Model
from diffembed.embedder.sidecar import SIDECAR_FILE, check_format, read_golden, read_readout, write_sidecar
from diffembed.errors import CheckpointError


def load_with_adapter(
    name: str | os.PathLike[str], adapter: str | os.PathLike[str] | None, direction: Direction | None
) -> tuple[Path, Model, Adapter | None]:
    """Read a model by name, with an adapter merged into it if one is named or the name is that of one.

    Args:
        name: `builtin`, a folder or a hub id; of a model, or of an adapter, whose base is then looked for by the name
            in its config.
        adapter: Folder or hub id of an adapter for that model.
        direction: Overrules what the adapter or else the model says.

    Returns:
        The folder of the model, the model, and the adapter.

    Raises:
        CheckpointError: A file is missing or damaged, the adapter names no base, or doesn't fit the model.
    """
    folder = find(name)
    if adapter is None and not (is_adapter(folder) and not (folder / "config.json").is_file()):
        return folder, read_model(folder, direction), None
    place = folder if adapter is None else find(adapter)
    if not is_adapter(place):
        raise CheckpointError(f"{place} holds no adapter", hint="an adapter has adapter_config.json")
    read = read_adapter(place)
    if adapter is None:
        if read.base is None:
            raise CheckpointError(
                f"the adapter in {place} names no base model", hint="name the model, and adapter=this folder"
            )
        folder = find(read.base)
    facts = _read_sidecar(place)
    model = read_model(folder, direction or facts.get("direction"))
    weights = read.merged(model.backbone.state_dict())
    backbone = Backbone.from_weights(model.backbone.config, weights).requires_grad_(False).eval()
    own: dict[str, Any] = {}
    if facts:
        own = {key: facts[key] for key in ("prompts", "max_tokens", "trained")}
        own["readout"], own["template"] = read_readout(place / SIDECAR_FILE, facts)
    is_as_saved = bool(facts) and direction in (None, facts["direction"])
    golden = read_golden(place / SIDECAR_FILE, facts) if is_as_saved else []
    return folder, replace(model, backbone=backbone, **own, golden=golden), read


def write_adapter(adapter: Adapter, model: Model, folder: Path, golden: Sequence[dict[str, Any]]) -> None:
    """Write an adapter and, last, what its merged model is.

    Args:
        adapter: As `read_adapter` or a training gives it.
        model: The model with the adapter in it.
        folder: New or empty.
        golden: Texts with role and vector.

    Raises:
        CheckpointError: The folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is there already", hint="name a new folder")
    save_adapter(adapter, folder)
    write_sidecar(folder, model, golden)


def _read_sidecar(folder: Path) -> dict[str, Any]:
    """What stands beside an adapter; nothing for one of another hand, which then looks where its base does."""
    path = folder / SIDECAR_FILE
    if not path.is_file():
        return {}
    facts = read_json(path)
    check_format(path, facts)
    kinds = {"direction": str, "prompts": dict, "max_tokens": int, "trained": dict, "golden": list, "dims": int}
    for key, kind in kinds.items():
        if type(facts.get(key)) is not kind:
            raise CheckpointError(f"{path} has no usable `{key}`", hint="copy it again")
    if facts["direction"] not in DIRECTIONS:
        raise CheckpointError(f"{path} has direction {facts['direction']!r}", hint=f"allowed: {', '.join(DIRECTIONS)}")
    return facts
