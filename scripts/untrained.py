"""Write the model that `finetune builtin-scratch` begins from: the shape of the built-in one, random weights.

    python scripts/untrained.py --tokenizer runs/pretrain/tokenizer --out runs/untrained

The lowest of what `scripts/compare.py` compares: what tokenizer, shape and pooling give before anything is learned.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffembed.embedder import Embedder
from diffembed.errors import ConfigError, DiffembedError
from diffembed.recipes import finetune
from diffembed.training.start import Start


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder `tokenizer` of a pre-training run")
    parser.add_argument("--out", type=Path, required=True, help="model folder to make")
    options = parser.parse_args(arguments)
    try:
        untrained(options.tokenizer).save(options.out)
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"wrote {options.out}")
    return 0


def untrained(tokenizer: Path) -> Embedder:
    """The embedder with the weights that the recipe's seed draws.

    Raises:
        CheckpointError: There is no tokenizer in that folder.
    """
    start = Start.of(replace(finetune.builtin_scratch(), tokenizer_from=str(tokenizer)))
    assert start.tokenizer is not None, "tokenizer_from was given"
    return Embedder.from_backbone(start.backbone, start.tokenizer, max_tokens=start.facts["max_tokens"])


if __name__ == "__main__":
    sys.exit(main())
