"""Model folders: found by name, read with every check, written whole or not at all."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from diffembed import builtin
from diffembed.backbone import Backbone, Direction, load_backbone, save_backbone
from diffembed.backbone.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from diffembed.backbone.compact import COMPACT_FILE, load_compact, save_compact
from diffembed.configs import read_json
from diffembed.embedder import export
from diffembed.embedder.model import Model
from diffembed.errors import CheckpointError, ConfigError, MissingExtraError
from diffembed.text.tokenizer import TOKENIZER_FILE, Tokenizer

SIDECAR_FILE = "diffembed.json"
FORMAT = 1
POOLING = "mean"

Weights = Literal["float32", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

# What we write, so what we may replace.
OWN_ENTRIES = frozenset(
    {
        *(CONFIG_FILE, WEIGHTS_FILE, COMPACT_FILE, TOKENIZER_FILE, "tokenizer_config.json", SIDECAR_FILE),
        *(export.MODULES_FILE, export.TRANSFORMER_FILE, export.SETTINGS_FILE, export.CARD_FILE),
        *("1_Pooling", "2_Normalize"),
    }
)
NAME_HINT = "name `builtin`, a folder, or a hub id (owner/name)"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Nothing that could hold code or pickle.
HUB_PATTERNS = ["*.json", "*.safetensors"]


def find(name: str | os.PathLike[str]) -> Path:
    """The folder that a name stands for: `builtin`, a folder, or a hub id (which is downloaded).

    Raises:
        CheckpointError: There is no such model.
        ConfigError: The name is no string and no path.
        MissingExtraError: A hub id, and no hub client is installed.
    """
    if not isinstance(name, str | os.PathLike):
        raise ConfigError(f"a model is named by a string or a path, got {type(name).__name__}", hint=NAME_HINT)
    if name == "builtin":
        return builtin.folder()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{name} is a file, not a model folder", hint="name the folder that it lies in")
    if isinstance(name, str) and HUB_ID.fullmatch(name):
        return _download(name)
    raise CheckpointError(f"there is no model folder {name}", hint=NAME_HINT)


def read_model(folder: Path, direction: Direction | None = None) -> Model:
    """Read a folder of ours, of sentence-transformers, or a raw one (backbone and tokenizer: no prompts).

    Args:
        folder: Holds config.json, weights and tokenizer.json.
        direction: Overrules the folder's own.

    Raises:
        CheckpointError: A file is missing, damaged or foreign, or the files do not fit each other.
        ConfigError: A JSON file cannot be read.
    """
    is_compact = not (folder / WEIGHTS_FILE).is_file() and (folder / COMPACT_FILE).is_file()
    backbone = load_compact(folder) if is_compact else load_backbone(folder)
    tokenizer = Tokenizer.load(folder)
    limit = backbone.config.max_positions
    if (folder / SIDECAR_FILE).is_file():
        facts = _read_sidecar(folder / SIDECAR_FILE, backbone)
    else:
        facts = export.read_export(folder) or {"prompts": {}, "max_tokens": limit}
        facts["max_tokens"] = limit if facts["max_tokens"] is None else facts["max_tokens"]
    if direction is not None and direction != backbone.config.direction:
        backbone = Backbone.from_weights(replace(backbone.config, direction=direction), backbone.state_dict()).eval()
    return Model(backbone=backbone.requires_grad_(False), tokenizer=tokenizer, **facts)


def write_model(model: Model, folder: Path, golden: Sequence[dict[str, Any]], weights: Weights) -> None:
    """Write a model beside its place, then put it there.

    Args:
        model: What to write.
        folder: New, empty, or holding nothing but a model; that is replaced.
        golden: Texts with role and vector, to be replayed wherever the folder is loaded.
        weights: `float32` is what other libraries load; `int8` takes a quarter of the space and only we read it.

    Raises:
        CheckpointError: The folder holds something else, or cannot be written.
    """
    folder = folder.expanduser().resolve()
    _check_target(folder)

    def write(target: Path) -> None:
        ids = {"pad_id": model.tokenizer.pad_id, "eos_id": model.tokenizer.eos_id}
        model.tokenizer.save(target)
        if weights == "int8":
            save_compact(model.backbone, target, **ids)
        else:
            save_backbone(model.backbone, target, **ids)
            export.write_export(model, target)
        for path in target.glob("*.safetensors"):  # safetensors makes files that only their owner may read
            path.chmod((target / CONFIG_FILE).stat().st_mode)
        sidecar = {
            "format": FORMAT,
            "direction": model.backbone.config.direction,
            "pooling": POOLING,
            "prompts": dict(model.prompts),
            "max_tokens": model.max_tokens,
            "dims": model.backbone.config.width,
            "trained": dict(model.trained),
            "golden": list(golden),
        }
        (target / SIDECAR_FILE).write_text(json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    try:
        _replace_folder(folder, write)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder}: {error.strerror or error}", hint="check the path and the disk"
        ) from None


def _read_sidecar(path: Path, backbone: Backbone) -> dict[str, Any]:
    data = read_json(path)
    if data.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {data.get('format')!r}, this release reads {FORMAT}", hint="upgrade diffembed"
        )
    config = backbone.config
    for key, ours in {"direction": config.direction, "dims": config.width, "pooling": POOLING}.items():
        if data.get(key) != ours:
            raise CheckpointError(
                f"{path} says {key} {data.get(key)!r}, {CONFIG_FILE} {ours!r}"
                if key != "pooling"
                else f"{path} asks for pooling {data.get(key)!r}, we know {ours!r}",
                hint="one of the files was changed or is from another model; save the model again",
            )
    for key, kind in {"prompts": dict, "trained": dict, "golden": list}.items():
        if not isinstance(data.get(key), kind):
            raise CheckpointError(f"{path} has no usable `{key}`", hint="restore the file")
    return {key: data.get(key) for key in ("prompts", "max_tokens", "trained")}


def _check_target(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file", hint="name a folder")
    foreign = sorted({path.name for path in folder.iterdir()} - OWN_ENTRIES) if folder.is_dir() else []
    if foreign:
        raise CheckpointError(
            f"{folder} holds {foreign[0]}, which belongs to no model", hint="name a new folder, or empty this one"
        )


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        if folder.is_dir():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.is_dir():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"there is no folder {name} here, and no client to fetch it from the hub",
            hint="pip install 'diffembed[hub]'",
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_PATTERNS))
    except (
        Exception
    ) as error:  # the client raises its own kinds, those of its transport and plain OSError and ValueError
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"there is no folder {name} here, and the hub did not give it: {reason}",
            hint="check the name and the network, or name a folder",
        ) from None
