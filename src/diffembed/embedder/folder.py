"""Model folders: found by name, read with every check, written whole or not at all."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError

from diffembed import builtin
from diffembed.backbone import Backbone, Direction, load_backbone, save_backbone
from diffembed.backbone.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from diffembed.backbone.compact import COMPACT_FILE, load_compact, save_compact
from diffembed.configs import read_json
from diffembed.embedder import export
from diffembed.embedder.model import Golden, Model
from diffembed.errors import CheckpointError, ConfigError, MissingExtraError
from diffembed.files import file_digest, temporary_sibling
from diffembed.text.instructions import ROLES
from diffembed.text.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer

SIDECAR_FILE = "diffembed.json"
FORMAT = 1
POOLING = "mean"

Weights = Literal["float32", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

# What we write, so what we may replace.
OWN_ENTRIES = frozenset(
    {
        *(CONFIG_FILE, WEIGHTS_FILE, COMPACT_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, SIDECAR_FILE),
        *(export.MODULES_FILE, export.TRANSFORMER_FILE, export.SETTINGS_FILE, export.CARD_FILE),
        *("1_Pooling", export.POOLING_FILE, "2_Normalize", export.NORMALIZE_FILE),
    }
)
# Their SHA-256 is in the sidecar: the first two must be those that the golden vectors came from, and a card that was
# written on by hand is not ours any more.
HASHED_FILES = (TOKENIZER_FILE, WEIGHTS_FILE, COMPACT_FILE, export.CARD_FILE)
# Threads take turns, since each looks at what another may be replacing.
_SAVING = threading.Lock()
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
    path = _path(name, NAME_HINT)
    if name == "builtin":
        return builtin.folder()
    try:
        if path.is_dir():
            return path
        if path.exists():
            raise CheckpointError(f"{name} is a file, not a model folder", hint="name the folder that it lies in")
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}", hint=NAME_HINT) from None
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
        sidecar = _read_sidecar(folder / SIDECAR_FILE, backbone)
        _check_digests(folder, sidecar, [TOKENIZER_FILE, COMPACT_FILE if is_compact else WEIGHTS_FILE])
        facts: dict[str, Any] = {key: sidecar.get(key) for key in ("prompts", "max_tokens", "trained")}
        facts["golden"] = _read_golden(folder / SIDECAR_FILE, sidecar)
    else:
        facts = export.read_export(folder) or {"prompts": {}, "max_tokens": limit}
        facts["max_tokens"] = limit if facts["max_tokens"] is None else facts["max_tokens"]
    if direction is not None and direction != backbone.config.direction:
        backbone = Backbone.from_weights(replace(backbone.config, direction=direction), backbone.state_dict()).eval()
        facts["golden"] = []  # other vectors than those are right then
    return Model(backbone=backbone.requires_grad_(False), tokenizer=tokenizer, **facts)


def write_model(model: Model, name: str | os.PathLike[str], golden: Sequence[dict[str, Any]], weights: Weights) -> None:
    """Write a model beside its place, then put it there.

    Args:
        model: What to write.
        name: A folder: new, empty, or holding nothing but a model that we wrote; that is replaced.
        golden: Texts with role and vector, to be replayed wherever the folder is loaded.
        weights: `float32` is what other libraries load; `int8` takes a quarter of the space and only we read it.

    Raises:
        CheckpointError: The folder holds something else, or cannot be written.
        ConfigError: It is not named by a string or a path.
    """
    path = _path(name, "name a new folder, or an empty one")

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
            "sha256": {name: file_digest(target / name) for name in HASHED_FILES if (target / name).is_file()},
            "golden": list(golden),
        }
        (target / SIDECAR_FILE).write_text(json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    try:
        folder = Path(os.path.realpath(path))  # `resolve` stumbles over links that lead in a circle
        with _SAVING:
            _check_target(folder)
            _replace_folder(folder, write)
    except (OSError, SafetensorError) as error:  # of a full disk safetensors speaks in its own class
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot write {path}: {reason}", hint="check the path and the disk") from None


def _path(name: str | os.PathLike[str], hint: str) -> Path:
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise ConfigError(f"a model is named by a string or a path, got {type(name).__name__}", hint=hint)
    if not os.fspath(name) or "\0" in os.fspath(name):
        raise ConfigError(f"no model can be named {os.fspath(name)!r}", hint=hint)
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise CheckpointError(f"there is no home folder for {name}", hint=hint) from None


def _read_sidecar(path: Path, backbone: Backbone) -> dict[str, Any]:
    data = read_json(path)
    if not _is_same(data.get("format"), FORMAT):
        raise CheckpointError(
            f"{path} has format {data.get('format')!r}, this release reads {FORMAT}", hint="upgrade diffembed"
        )
    config = backbone.config
    for key, ours in {"direction": config.direction, "dims": config.width, "pooling": POOLING}.items():
        if not _is_same(data.get(key), ours):
            raise CheckpointError(
                f"{path} says {key} {data.get(key)!r}, {CONFIG_FILE} {ours!r}"
                if key != "pooling"
                else f"{path} asks for pooling {data.get(key)!r}, we know {ours!r}",
                hint="one of the files was changed or is from another model; save the model again",
            )
    for key, kind in {"prompts": dict, "trained": dict, "golden": list}.items():
        if not isinstance(data.get(key), kind):
            raise CheckpointError(f"{path} has no usable `{key}`", hint="restore the file")
    return data


def _is_same(found: Any, ours: Any) -> bool:
    return type(found) is type(ours) and found == ours  # true and 1.0 are not 1


def _check_digests(folder: Path, sidecar: dict[str, Any], names: Sequence[str]) -> None:
    digests = sidecar.get("sha256", {})  # the first folders have none
    if not isinstance(digests, dict):
        raise CheckpointError(f"{folder / SIDECAR_FILE} has no usable `sha256`", hint="restore the file")
    for name in names:
        if name in digests and digests[name] != file_digest(folder / name):
            raise CheckpointError(
                f"{folder / name} is not the file that {SIDECAR_FILE} was written with",
                hint=f"copy the folder again; to use the new file, delete {SIDECAR_FILE} (its prompts go with it)",
            )


def _read_golden(path: Path, sidecar: dict[str, Any]) -> list[Golden]:
    try:
        golden = [(each["role"], each["text"], each["vector"]) for each in sidecar["golden"]]
        is_sound = all(
            role in ROLES
            and isinstance(text, str)
            and len(vector) == sidecar["dims"]
            and all(isinstance(value, float) for value in vector)
            for role, text, vector in golden
        )
    except (KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise CheckpointError(f"{path} has no usable `golden`", hint="restore the file")
    return golden


def _check_target(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file", hint="name a folder")
    if folder.is_dir() and (foreign := _foreign_entry(folder)):
        raise CheckpointError(
            f"{folder} holds {foreign}, and is replaced only if all in it is what `save` wrote",
            hint="name a new folder, or empty this one",
        )


def _foreign_entry(folder: Path) -> str | None:
    """Something that another hand has put into a folder."""
    some = None
    for path in folder.rglob("*"):
        some = path.relative_to(folder).as_posix()
        if some not in OWN_ENTRIES:
            return some
    if some is None:
        return None
    try:
        sidecar = read_json(folder / SIDECAR_FILE)
    except ConfigError:
        return some
    if not _is_same(sidecar.get("format"), FORMAT):
        return SIDECAR_FILE
    card, digests = folder / export.CARD_FILE, sidecar.get("sha256")
    if card.is_file() and (not isinstance(digests, dict) or digests.get(card.name) != file_digest(card)):
        return card.name
    return None


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = temporary_sibling(folder), temporary_sibling(folder, "old")
    partial.mkdir()
    try:
        write(partial)
        # No call swaps two folders on every system, so for a moment there is none.
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.is_dir():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
