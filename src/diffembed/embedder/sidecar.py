"""The file that `save` writes beside the weights, and the checks that it belongs to them. Costs no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.backbone.config import BackboneConfig
from diffembed.configs import read_json
from diffembed.errors import CheckpointError, ConfigError
from diffembed.files import file_digest
from diffembed.readout.spec import Readout
from diffembed.text.instructions import ROLES, TEXT_SLOT

if TYPE_CHECKING:
    from diffembed.embedder.model import Golden, Model

SIDECAR_FILE = "diffembed.json"
# Readouts and templates came with 2. Whoever has neither stays at 1, which the first release reads too.
FORMAT, PLAIN_FORMAT = 2, 1
FORMATS = (PLAIN_FORMAT, FORMAT)


def write_sidecar(folder: Path, model: "Model", golden: Sequence[dict[str, Any]], **more: Any) -> None:
    """Write what the files of other libraries leave out.

    Args:
        folder: Of the model, or of an adapter with which it was made.
        model: What its files give.
        golden: Texts with role and vector.
        more: Further entries.
    """
    readout = model.readout.to_dict()
    own = {key: value for key, value in readout.items() if key != "pooling"}
    own = {**({"readout": own} if own else {}), **({"template": model.template} if model.template != TEXT_SLOT else {})}
    data = {
        "format": FORMAT if own or readout else PLAIN_FORMAT,
        "direction": model.backbone.config.direction,
        "pooling": model.readout.pooling,
        **own,
        "prompts": dict(model.prompts),
        "max_tokens": model.max_tokens,
        "dims": model.backbone.config.width,
        "trained": dict(model.trained),
        **more,
        "golden": list(golden),
    }
    (folder / SIDECAR_FILE).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sidecar(path: Path, config: BackboneConfig) -> dict[str, Any]:
    """The content of a sidecar.

    Args:
        path: The file.
        config: What config.json says of the backbone beside it.

    Raises:
        CheckpointError: It is of another format or does not fit the backbone, or asks for a readout that is none.
        ConfigError: It cannot be read.
    """
    data = read_json(path)
    check_format(path, data)
    for key, ours in {"direction": config.direction, "dims": config.width}.items():
        if not is_same(data.get(key), ours):
            raise CheckpointError(
                f"{path} says {key} {data.get(key)!r}, config.json {ours!r}",
                hint="one of the files was changed or is from another model; save the model again",
            )
    read_readout(path, data)
    for key, kind in {"prompts": dict, "trained": dict, "golden": list}.items():
        if not isinstance(data.get(key), kind):
            raise CheckpointError(f"{path} has no usable `{key}`", hint="restore the file")
    return data


def check_format(path: Path, data: dict[str, Any]) -> None:
    """Refuse formats of other releases.

    Raises:
        CheckpointError: It is one.
    """
    if not any(is_same(data.get("format"), known) for known in FORMATS):
        raise CheckpointError(
            f"{path} has format {data.get('format')!r}, this release reads {PLAIN_FORMAT} to {FORMAT}",
            hint="upgrade diffembed",
        )


def read_readout(path: Path, sidecar: dict[str, Any]) -> tuple[Readout, str]:
    """How states become vectors, and the template.

    Raises:
        CheckpointError: There is no such readout.
    """
    own, template = sidecar.get("readout", {}), sidecar.get("template", TEXT_SLOT)
    try:
        readout = Readout.from_dict({**own, "pooling": sidecar.get("pooling")})
    except (ConfigError, TypeError) as error:
        raise CheckpointError(
            f"{path} asks for a readout that we don't know: {getattr(error, 'message', error)}",
            hint="restore the file, or upgrade diffembed",
        ) from None
    return readout, template


def check_digests(folder: Path, sidecar: dict[str, Any], names: Sequence[str]) -> None:
    """See that files of the folder are those that its sidecar was written with.

    Raises:
        CheckpointError: One is another.
    """
    digests = sidecar.get("sha256", {})  # the first folders have none
    if not isinstance(digests, dict):
        raise CheckpointError(f"{folder / SIDECAR_FILE} has no usable `sha256`", hint="restore the file")
    for name in names:
        if name in digests and digests[name] != file_digest(folder / name):
            raise CheckpointError(
                f"{folder / name} is not the file that {SIDECAR_FILE} was written with",
                hint=f"copy the folder again; to use the new file, delete {SIDECAR_FILE} (its prompts go with it)",
            )


def read_golden(path: Path, sidecar: dict[str, Any]) -> "list[Golden]":
    """The texts that were saved with the model, and the vectors that they had then.

    Raises:
        CheckpointError: They are none, or of another length than the sidecar says.
    """
    try:
        golden = [(each["role"], each["text"], each["vector"]) for each in sidecar["golden"]]
        is_sound = all(
            role in ROLES
            and isinstance(text, str)
            and len(vector)
            and len(vector) % sidecar["dims"] == 0  # several vectors follow each other
            and all(isinstance(value, float) for value in vector)
            for role, text, vector in golden
        )
    except (KeyError, TypeError):
        is_sound = False
    if not is_sound:
        raise CheckpointError(f"{path} has no usable `golden`", hint="restore the file")
    return golden


def is_same(found: Any, ours: Any) -> bool:
    """Whether a value of a JSON file is ours; there, true and 1.0 are not 1."""
    return type(found) is type(ours) and found == ours
