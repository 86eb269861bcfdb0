"""Put a fine-tuned model into the package as its built-in one, in int8.

    python scripts/ship_builtin.py runs/finetune/model

Every version stays in the history for good, so this is for models that are better, with a record that says so.
"""

import argparse
import sys
from pathlib import Path

from diffembed import builtin
from diffembed.embedder import Embedder
from diffembed.errors import DiffembedError

LIMIT_BYTES = 20_000_000


def main() -> int:
    """Write the model into the source tree, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder that `diffembed finetune` made")
    options = parser.parse_args()
    try:
        Embedder.load(options.model).save(builtin.FOLDER, weights="int8")
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in builtin.FOLDER.rglob("*") if path.is_file())
    print(f"{size:,} bytes in {builtin.FOLDER}")
    if size > LIMIT_BYTES:
        print(f"error: the limit is {LIMIT_BYTES:,} bytes\nhint: train a smaller model", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
