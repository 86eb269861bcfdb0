"""Model folders by name, and which model it is that lies in one. Costs no torch and no numpy."""

import hashlib
import os
import re
from pathlib import Path

from diffembed import builtin
from diffembed.errors import CheckpointError, ConfigError, MissingExtraError
from diffembed.files import file_digest

CONFIG_FILE = "config.json"
NAME_HINT = "name `builtin`, a folder, or a hub id (owner/name)"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Nothing that could hold code or pickle. All that a model's vectors depend on is among them.
MODEL_PATTERNS = ["*.json", "*.safetensors", "merges.txt"]

# A hash of so much takes a quarter of a second on slow cores.
WHOLE_BYTES = 256_000_000
# Of a larger file. Its beginning holds the header of any safetensors file that we know; a model that was trained on
# differs in every block.
HEAD_BYTES = 2**20
BLOCK_BYTES = 2**17
NUM_BLOCKS = 64


def find(name: str | os.PathLike[str]) -> Path:
    """The folder that a name stands for: `builtin`, a folder, or a hub id (which is downloaded).

    Raises:
        CheckpointError: There is no such model.
        ConfigError: The name is no string and no path.
        MissingExtraError: A hub id, and no hub client is installed.
    """
    path = checked_path(name, NAME_HINT)
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


def check_model(folder: Path) -> None:
    """See at a glance whether a model may lie in a folder, before work is done that would need it.

    Args:
        folder: As `find` gives it.

    Raises:
        CheckpointError: It holds no config.json.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"there is no {CONFIG_FILE} in {folder}, so no model is there", hint=NAME_HINT)


def fingerprint(folder: Path) -> str:
    """A short hash of all that makes a model's vectors: the JSON and safetensors files below its folder.

    It depends on their names and contents alone: not on the place of the folder, the card or other files. Of a file
    over 256 MB only size, beginning and evenly spread blocks are read, so that a model of 15 GB takes a fraction of a
    second; a change that misses all of them, which no training makes, goes unseen.

    Args:
        folder: As `find` gives it.

    Returns:
        16 hexadecimal digits.

    Raises:
        CheckpointError: A file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        paths = {path for pattern in MODEL_PATTERNS for path in folder.rglob(pattern) if path.is_file()}
        for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in paths):
            digest.update(f"{name}\0{_content_digest(path)}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise CheckpointError(
            f"a file of {folder} cannot be read: {error.strerror or error}", hint="check the folder's permissions"
        ) from None
    return digest.hexdigest()[:16]


def checked_path(name: str | os.PathLike[str], hint: str) -> Path:
    """The path that names a model, whether there is one or not.

    Raises:
        CheckpointError: It begins with a `~` that stands for nothing.
        ConfigError: It is no string and no path, or one that no file system takes.
    """
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise ConfigError(f"a model is named by a string or a path, got {type(name).__name__}", hint=hint)
    if not os.fspath(name) or "\0" in os.fspath(name):
        raise ConfigError(f"no model can be named {os.fspath(name)!r}", hint=hint)
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise CheckpointError(f"there is no home folder for {name}", hint=hint) from None


def _content_digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return file_digest(path)
    digest = hashlib.sha256(f"{size}\0".encode())
    with path.open("rb") as file:
        digest.update(file.read(HEAD_BYTES))
        for number in range(NUM_BLOCKS):  # the last one ends where the file ends
            file.seek(number * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"there is no folder {name} here, and no client to fetch it from the hub",
            hint="pip install 'diffembed[hub]'",
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=MODEL_PATTERNS))
    except (
        Exception
    ) as error:  # the client raises its own kinds, those of its transport and plain OSError and ValueError
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"there is no folder {name} here, and the hub did not give it: {reason}",
            hint="check the name and the network, or name a folder",
        ) from None
