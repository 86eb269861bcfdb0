"""A stand-in embedder that really retrieves: texts that share words have near vectors. No model, no torch."""

import re
import zlib

import numpy as np
from numpy.typing import NDArray


class HashedWords:
    """Sums one fixed random direction per word; a text without words points along the first axis."""

    def __init__(self, dims: int = 64, seed: int = 0) -> None:
        self.dims = dims
        self.seed = seed
        self.calls: list[tuple[str, int, str | None]] = []

    def encode_query(self, texts: list[str], *, instruction: str | None = None) -> NDArray[np.float32]:
        self.calls.append(("query", len(texts), instruction))
        return self._encode(texts)

    def encode_document(self, texts: list[str]) -> NDArray[np.float32]:
        self.calls.append(("document", len(texts), None))
        return self._encode(texts)

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dims))
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row] += np.random.default_rng([self.seed, zlib.crc32(word.encode())]).normal(size=self.dims)
            if not vectors[row].any():
                vectors[row, 0] = 1
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
