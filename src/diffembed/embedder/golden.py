"""Texts whose vectors are saved with a model, so that any later copy can be checked. Free of torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import CheckpointError
from diffembed.text.instructions import Role

if TYPE_CHECKING:
    from diffembed.embedder.core import Embedder
    from diffembed.embedder.model import Golden

# A role, an empty text, odd ones, windows.
TEXTS: tuple[tuple[Role, str], ...] = (
    ("query", "how do I copy a folder?"),
    ("document", "Recursively copy an entire directory tree rooted at src to a directory named dst."),
    ("document", ""),
    ("document", "naïve café,\n\t3.14159 ≈ π — 日本語 🙂"),
    ("document", " ".join(str(number) for number in range(1_000))),
)
DECIMALS = 7
# Of these some are replayed whenever a folder is loaded, the odd characters among them (`doctor` replays all); bf16
# gives 0.9999, another tokenizer next to nothing.
REPLAYED = (0, 1, 3)
LEAST_COSINE = 0.99
# Shorter means have no direction: torch's normalize divides by no less.
LEAST_NORM = 1e-12


def make(embedder: "Embedder") -> list[dict[str, Any]]:
    """Role, text and vector of each golden text."""
    return [
        {
            "role": role,
            "text": text,
            "vector": embedder.embed([text], role).vectors[0].astype(float).round(DECIMALS).ravel().tolist(),
        }
        for role, text in TEXTS
    ]


def replay(embedder: "Embedder", saved: "Sequence[Golden]") -> None:
    """See that texts which were saved with the model have the vectors that they had then.

    Raises:
        CheckpointError: One has another.
    """
    for role, text, vector in (saved[number] for number in REPLAYED if number < len(saved)):
        cosine = least_cosine(embedder.embed([text], role).vectors[0], vector)
        if not cosine >= LEAST_COSINE:
            raise CheckpointError(
                f"the model gives another vector than it was saved with for {text!r} (cosine {cosine:.3f})",
                hint="its files were changed or mixed up; copy the folder again",
            )


def least_cosine(vectors: NDArray[np.float32], saved: Sequence[float]) -> float:
    """The least cosine of a text's unit vectors, (dims,) or (vectors, dims), with those that were saved; -1 where those
    are of another number, NaN where they are none.
    """
    if vectors.size != len(saved):
        return -1.0
    rows = vectors.reshape(-1, vectors.shape[-1]).astype(np.float64)
    with np.errstate(all="ignore"):  # a damaged file may say 1e300
        others = np.array(saved, np.float64).reshape(rows.shape)
        return float(((rows * others).sum(1) / np.linalg.norm(others, axis=1)).min())
