"""The small diffusion embedder that ships in the package."""

from pathlib import Path

from diffembed.errors import CheckpointError

FOLDER = Path(__file__).parent / "model"


def folder() -> Path:
    """Where the built-in model lies.

    Raises:
        CheckpointError: This copy of the package came without it.
    """
    if not (FOLDER / "config.json").is_file():
        raise CheckpointError(
            f"the built-in model is not in {FOLDER}", hint="install the package again, or name a model folder"
        )
    return FOLDER
