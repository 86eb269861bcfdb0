"""Weights in one safetensors file or in several with an index, as Hugging Face lays them out. Nothing else is opened.

Source: the layout is `model-00001-of-00002.safetensors` and so on beside `model.safetensors.index.json`, which holds
`{"weight_map": {weight: file}}`.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffembed.errors import CheckpointError

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MISFIT_HINT = "config.json and the weights must come from the same model"
# An index of the largest models has some 1,000 files; each is an open file here.
MAX_FILES = 1_000
MAX_INDEX_BYTES = 100_000_000


class WeightFiles:
    """Open files of weights; tensors are read one by one. `weights_of` opens them."""

    def __init__(self, path: Path, places: dict[str, Any]) -> None:
        self.path = path
        """For messages: the file, or the index of several."""
        self._places = places

    @property
    def names(self) -> set[str]:
        return set(self._places)

    def check(self, name: str, shape: tuple[int, ...], kinds: Sequence[str]) -> None:
        """See that a tensor is what is expected, from its header alone.

        Raises:
            CheckpointError: It has another shape, or numbers of another kind.
        """
        header = self._places[name].get_slice(name)
        found = tuple(header.get_shape())
        if found != shape:
            raise CheckpointError(
                f"{self.path}: {name} has shape {found}, config.json asks for {shape}", hint=MISFIT_HINT
            )
        if header.get_dtype() not in kinds:
            raise CheckpointError(
                f"{self.path}: {name} is of kind {header.get_dtype()}", hint=f"supported: {', '.join(kinds)}"
            )

    def read(self, name: str) -> Tensor:
        return self._places[name].get_tensor(name)


@contextmanager
def weights_of(folder: Path) -> Iterator[WeightFiles]:
    """Open a folder's weights.

    Raises:
        CheckpointError: They are missing or damaged, the index names a file that is not in the folder, or the files
            hold other weights than it says.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    with ExitStack() as files:
        try:
            if single.is_file():
                file = files.enter_context(safe_open(single, framework="pt"))
                yield WeightFiles(single, dict.fromkeys(file.keys(), file))
            elif index.is_file():
                yield WeightFiles(index, _open_shards(index, files))
            else:
                raise CheckpointError(
                    f"{folder} has no {WEIGHTS_FILE}", hint="only safetensors weights are read, no pickle"
                )
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{single if single.is_file() else index} is not a readable safetensors file: {error}",
                hint="it may be cut short; copy it again",
            ) from None


def _open_shards(index: Path, files: ExitStack) -> dict[str, Any]:
    weight_map = _read_index(index)
    opened: dict[str, Any] = {}
    for name in sorted(set(weight_map.values())):
        path = index.parent / name
        if not path.is_file():
            raise CheckpointError(f"{index.parent} has no {name}, which {index.name} names", hint="copy it again")
        opened[name] = files.enter_context(safe_open(path, framework="pt"))
    held = {name: set(file.keys()) for name, file in opened.items()}
    astray = sorted(weight for weight, name in weight_map.items() if weight not in held[name])
    spare = sorted(weight for name, weights in held.items() for weight in weights if weight_map.get(weight) != name)
    if astray or spare:
        raise CheckpointError(
            f"{index} and its files disagree about {len(astray + spare)} weights, {(astray + spare)[0]} among them",
            hint="the files must come from the same model; copy them again",
        )
    return {weight: opened[name] for weight, name in weight_map.items()}


def _read_index(index: Path) -> dict[str, str]:
    """Weight -> file. A file is named without a folder: an index is no reason to read anything elsewhere."""
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"it is larger than {MAX_INDEX_BYTES:,} bytes")
        data = json.loads(index.read_text(encoding="utf-8"))
        weight_map = data["weight_map"]
        is_sound = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise CheckpointError(f"{index} is no readable index: {error}", hint="copy it again") from None
    if not is_sound or not weight_map:
        raise CheckpointError(f"{index} has no usable `weight_map`", hint="copy it again")
    names = set(weight_map.values())
    for name in sorted(names):
        if name != Path(name).name or name in ("", ".", "..") or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names the file {name!r}", hint="only safetensors files beside it are read")
    if len(names) > MAX_FILES:
        raise CheckpointError(f"{index} names {len(names)} files", hint=f"at most {MAX_FILES} are opened")
    return weight_map
