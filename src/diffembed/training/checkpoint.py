"""Training checkpoints: tensors as safetensors, the step as JSON, written whole or not at all.

Weights that are spread over ranks are written by all of them, each its own rows, and can be read back by any number.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffembed.errors import CheckpointError
from diffembed.training.distributed import Ranks
from diffembed.training.sharding import is_sharded, own_rows

FOLDER = "checkpoints"
TENSORS_FILE, SHARD_FILE, STATE_FILE = "state.safetensors", "state.{:05d}.safetensors", "state.json"
# In a shard's header: for each of its tensors the first row and how many rows the whole has.
ROWS_KEY = "rows"
# The newest may be the one whose disk failed; one before it is enough.
KEPT = 2


def save(
    run_path: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, float],
    ranks: Ranks | None = None,
) -> Path:
    """Write checkpoint `step` under a temporary name, rename it, and drop all but the newest two.

    All ranks call it. The main one writes what all have alike, and each the rows of tensors that are spread.

    Raises:
        CheckpointError: It could not be written, on any rank; the older checkpoints stand.
    """
    ranks = ranks or Ranks.alone("cpu")
    folder = run_path / FOLDER
    final = folder / f"{step:08d}"
    temporary = folder / f".{final.name}.part"

    def begin() -> None:
        for leftover in folder.glob(".*.part"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)

    def finish() -> None:
        (temporary / STATE_FILE).write_text(json.dumps({"step": step, **facts}) + "\n", encoding="utf-8")
        for path in (temporary / STATE_FILE, temporary):  # on disk before the name says that it is finished
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in list_steps(run_path)[:-KEPT]:
            shutil.rmtree(folder / f"{old:08d}")

    try:
        _together(ranks, begin if ranks.is_main else None)
        _together(ranks, lambda: _write(temporary, tensors, ranks))
        _together(ranks, finish if ranks.is_main else None)
    except CheckpointError:
        if ranks.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def list_steps(run_path: Path) -> list[int]:
    """Steps of the finished checkpoints, ascending."""
    folder = run_path / FOLDER
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else []


class SavedTensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint, read when they are asked for: whole, or some of their rows."""

    def __init__(self, folder: Path) -> None:
        """Open the files of a checkpoint.

        Raises:
            ValueError: A part is missing.
            SafetensorError: A file is damaged.
        """
        self._parts: dict[str, list[tuple[int, int, Any]]] = {}
        totals: dict[str, int] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            rows = json.loads((file.metadata() or {}).get(ROWS_KEY, "{}"))
            for name in file.keys():  # noqa: SIM118 (it's a file, not a dict)
                shape = file.get_slice(name).get_shape()
                count = shape[0] if shape else 1
                start, totals[name] = rows.get(name, (0, count))
                self._parts.setdefault(name, []).append((start, start + count, file))
        for name, parts in self._parts.items():
            parts.sort(key=lambda part: part[0])
            if [0, *(stop for _, stop, _ in parts)] != [*(start for start, _, _ in parts), totals[name]]:
                raise ValueError(f"rows of {name} are missing")
        if not self._parts:
            raise ValueError("there are no tensors")

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, name: str) -> Tensor:
        parts = [file.get_tensor(name) for _, _, file in self._parts[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a tensor."""
        some = [
            file.get_slice(name)[max(start, first) - first : min(stop, last) - first]
            for first, last, file in self._parts[name]
            if first < stop and start < last
        ]
        return torch.cat(some) if some else self[name][:0]


def load_newest(run_path: Path) -> tuple[SavedTensors, dict[str, float]] | None:
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
        return SavedTensors(folder), {name: facts[name] for name in ("step", "tokens", "seconds", "loss")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} is damaged: {error}", hint="remove that folder to resume from the one before it"
        ) from None


def _write(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    own: dict[str, Tensor] = {}
    rows: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            start, local = own_rows(tensor)
            if len(local):
                own[name], rows[name] = local.contiguous(), (start, len(tensor))
        elif ranks.is_main:
            own[name] = tensor.contiguous()
    if own:
        path = folder / (SHARD_FILE.format(ranks.rank) if rows else TENSORS_FILE)
        save_file(own, path, metadata={ROWS_KEY: json.dumps(rows)} if rows else None)
        _sync(path)


def _together(ranks: Ranks, work: Callable[[], None] | None) -> None:
    """Do one's part, wait for the others, and fail on all ranks where it failed on one."""
    failure = None
    try:
        if work is not None:
            work()
    except OSError as error:
        failure = error.strerror or str(error)
    except SafetensorError as error:
        failure = str(error)
    failures = [each for each in ranks.gather_json(failure) if each is not None]
    if failures:
        raise CheckpointError(f"the checkpoint could not be written: {failures[0]}", hint="free some space")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
