"""Training checkpoints: tensors as safetensors, the step as JSON, written whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffembed.errors import CheckpointError

FOLDER = "checkpoints"
TENSORS_FILE, STATE_FILE = "state.safetensors", "state.json"
# The newest may be the one whose disk failed; one before it is enough.
KEPT = 2


def save(run_path: Path, step: int, tensors: dict[str, Tensor], facts: Mapping[str, float]) -> Path:
    """Write checkpoint `step` under a temporary name, rename it, and drop all but the newest two."""
    folder = run_path / FOLDER
    final = folder / f"{step:08d}"
    temporary = folder / f".{final.name}.part"
    for leftover in folder.glob(".*.part"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / TENSORS_FILE)
    (temporary / STATE_FILE).write_text(json.dumps({"step": step, **facts}) + "\n", encoding="utf-8")
    for path in temporary.iterdir():  # on disk before the name says that it is finished
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in list_steps(run_path)[:-KEPT]:
        shutil.rmtree(folder / f"{old:08d}")
    return final


def list_steps(run_path: Path) -> list[int]:
    """Steps of the finished checkpoints, ascending."""
    folder = run_path / FOLDER
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


def load_newest(run_path: Path) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """Tensors and facts of the newest checkpoint, or None where there is none.

    Raises:
        CheckpointError: The checkpoint is damaged.
    """
    steps = list_steps(run_path)
    if not steps:
        return None
    folder = run_path / FOLDER / f"{steps[-1]:08d}"
    try:
        facts = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        return load_file(folder / TENSORS_FILE), {name: facts[name] for name in ("step", "tokens", "seconds", "loss")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} is damaged: {error}", hint="remove that folder to resume from the one before it"
        ) from None
