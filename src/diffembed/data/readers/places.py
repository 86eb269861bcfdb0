"""Where training data lies: a local file or folder, or a data set of the hub at one commit."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from diffembed.data.readers.files import PACKED, TABLES
from diffembed.errors import ConfigError, DataError, MissingExtraError

_HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/(?P<name>\w[\w.-]*))(@(?P<revision>.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = [f"*{kind}{packed}" for kind in (*TABLES, ".txt") for packed in ("", *PACKED)]
_HINT = "name a file, a folder, or a data set of the hub as owner/name@COMMIT"


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder that is here."""

    path: Path
    name: str
    """Of the folder, of the folder that the file lies in, or of the data set."""
    hub: str | None
    """Id and commit, if it came from the hub."""


def locate(data: str | os.PathLike[str]) -> Place:
    """Find data, fetching it if it lies on the hub and not here.

    A tag or branch of the hub may point elsewhere tomorrow; so only a full commit is taken, which also needs no network
    once it has been fetched.

    Raises:
        ConfigError: `data` is no string and no path.
        DataError: There is no such thing; or a data set is named without its commit, or the hub did not give it.
        MissingExtraError: A data set of the hub, and no hub client is installed.
    """
    if not isinstance(data, str | os.PathLike) or not isinstance(os.fspath(data), str):
        raise ConfigError(f"data is named by a string or a path, got {type(data).__name__}", hint=_HINT)
    named = os.fspath(data)
    if not named:
        raise ConfigError("data has an empty name", hint=_HINT)
    try:
        path = Path(named).expanduser()
        if path.exists():
            whole = path.resolve()
            return Place(path, whole.name if path.is_dir() else whole.parent.name, None)
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, a user without a home
        raise DataError(f"cannot read {named!r}: {error}", hint=_HINT) from None
    match = _HUB_ID.fullmatch(named)
    if not match:
        raise DataError(f"there is no file and no folder {named!r}", hint=_HINT)
    revision = match["revision"]
    if revision is None or not _COMMIT.fullmatch(revision):
        raise DataError(
            f"there is no folder {named} here, and as a data set of the hub it lacks its commit"
            + (f": {revision!r} is none" if revision else ""),
            hint=f"write {match['id']}@COMMIT, all 40 digits; they stand on its page under `Files`, `History`",
        )
    return Place(_download(match["id"], revision), match["name"], f"{match['id']}@{revision}")


def _download(name: str, commit: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"there is no folder {name}@{commit} here, and no client to fetch it from the hub",
            hint="pip install 'diffembed[hub]'",
        ) from None
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=_PATTERNS))
    except Exception as error:  # the client's own kinds, those of its transport, and plain OSError and ValueError
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"the hub did not give {name}@{commit}: {reason}", hint="check name, commit and network, or name a folder"
        ) from None
