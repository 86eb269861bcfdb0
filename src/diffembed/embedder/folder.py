"""Model folders: read with every check, written whole or not at all."""

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError

from diffembed.backbone import Backbone, Direction, load_backbone, save_backbone
from diffembed.backbone.checkpoint import CONFIG_FILE, read_config
from diffembed.backbone.compact import COMPACT_FILE, load_compact, save_compact
from diffembed.backbone.config import BackboneConfig
from diffembed.backbone.config_files import from_hugging_face
from diffembed.backbone.families import Family
from diffembed.backbone.weight_files import WEIGHTS_FILE
from diffembed.configs import read_json
from diffembed.embedder import export
from diffembed.embedder.locate import checked_path
from diffembed.embedder.model import Model
from diffembed.embedder.sidecar import (
    SIDECAR_FILE,
    check_digests,
    check_format,
    read_golden,
    read_readout,
    read_sidecar,
    write_sidecar,
)
from diffembed.errors import CheckpointError, ConfigError
from diffembed.files import file_digest, temporary_sibling
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

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
    backbone = load_compact(folder) if is_compact else load_backbone(folder, dtype=None)
    family, config = from_hugging_face(read_config(folder))
    tokenizer = Tokenizer.load(folder, family.mask_token)
    if (folder / SIDECAR_FILE).is_file():
        sidecar = read_sidecar(folder / SIDECAR_FILE, backbone.config)
        check_digests(folder, sidecar, [TOKENIZER_FILE, COMPACT_FILE if is_compact else WEIGHTS_FILE])
        facts: dict[str, Any] = {key: sidecar.get(key) for key in ("prompts", "max_tokens", "trained")}
        facts["golden"] = read_golden(folder / SIDECAR_FILE, sidecar)
        facts["readout"], facts["template"] = read_readout(folder / SIDECAR_FILE, sidecar)
    else:
        facts = export.read_export(folder) or {"prompts": {}, "max_tokens": None}
        if unused := facts.pop("unused", None):
            warnings.warn(
                f"{folder} has prompts for {', '.join(unused)}, which are no roles here; they are left out "
                "(with_readout(prompts=...) sets others)",
                stacklevel=2,
            )
        if facts["max_tokens"] is None:
            facts["max_tokens"] = _trained_tokens(family, config)
    if direction is not None and direction != backbone.config.direction:
        backbone = Backbone.from_weights(replace(backbone.config, direction=direction), backbone.state_dict()).eval()
        facts["golden"] = []  # other vectors than those are right then
    return Model(backbone=backbone.requires_grad_(False), tokenizer=tokenizer, **facts)


def _trained_tokens(family: Family, config: BackboneConfig) -> int:
    """Longest sequence that a model of another hand was trained on, where its family is known to promise more."""
    scaling = config.rope_scaling
    stretch = scaling.factor if scaling is not None and scaling.kind == "ntk" else 1
    return min(config.max_positions, int((family.trained_tokens or config.max_positions) * stretch))


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
    path = checked_path(name, "name a new folder, or an empty one")

    def write(target: Path) -> None:
        ids = {f"{kind}_id": model.tokenizer.find_id(kind) for kind in ("pad", "eos")}
        model.tokenizer.save(target)
        if weights == "int8":
            save_compact(model.backbone, target, **ids)
        else:
            save_backbone(model.backbone, target, **ids)
            if export.can_export(model):
                export.write_export(model, target)
        for path in target.glob("*.safetensors"):  # safetensors makes files that only their owner may read
            path.chmod((target / CONFIG_FILE).stat().st_mode)
        digests = {name: file_digest(target / name) for name in HASHED_FILES if (target / name).is_file()}
        write_sidecar(target, model, golden, sha256=digests)

    try:
        folder = Path(os.path.realpath(path))  # `resolve` stumbles over links that lead in a circle
        with _SAVING:
            _check_target(folder)
            _replace_folder(folder, write)
    except (OSError, SafetensorError) as error:  # of a full disk safetensors speaks in its own class
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot write {path}: {reason}", hint="check the path and the disk") from None


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
        check_format(folder / SIDECAR_FILE, sidecar)
    except ConfigError:
        return some
    except CheckpointError:
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
