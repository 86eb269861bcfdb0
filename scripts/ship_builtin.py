"""Put a fine-tuned model into the package as its built-in one, in int8.

    python scripts/ship_builtin.py runs/finetune/model

Every version stays in the history for good, so this is for models that are better, with a record that says so. The
model that is there stays unless the new one was written, is small enough and loads.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from diffembed import builtin
from diffembed.embedder import Embedder
from diffembed.errors import CheckpointError, DiffembedError

LIMIT_BYTES = 20_000_000
"""Of the weights: the package has to stay a small download."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model into the source tree, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder that `diffembed finetune` made")
    options = parser.parse_args(arguments)
    try:
        size = ship(options.model)
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{size:,} bytes of weights in {builtin.FOLDER}")
    return 0


def ship(model: Path) -> int:
    """Make a model the built-in one, whole or not at all.

    Returns:
        Bytes of its weights.

    Raises:
        CheckpointError: It cannot be loaded, also not after it was written, or is too large.
    """
    # Beside its place, so that a move is enough; what was there is moved in here, and goes with it.
    with tempfile.TemporaryDirectory(dir=builtin.FOLDER.parent, prefix=".ship-") as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        Embedder.load(model).save(new, weights="int8")
        size = sum(path.stat().st_size for path in new.rglob("*.safetensors"))
        if size > LIMIT_BYTES:
            raise CheckpointError(
                f"the weights take {size:,} bytes, the limit is {LIMIT_BYTES:,}", hint="train a smaller model"
            )
        Embedder.load(new)
        if builtin.FOLDER.exists():
            builtin.FOLDER.rename(old)
        try:
            new.rename(builtin.FOLDER)
        except OSError:
            if old.exists():
                old.rename(builtin.FOLDER)
            raise
    return size


if __name__ == "__main__":
    sys.exit(main())
