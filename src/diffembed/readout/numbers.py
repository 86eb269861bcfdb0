"""Unit vectors in smaller number formats, and vectors compared with vectors.

Shape letters: N vectors, E dims of a vector, A and B texts, Q and P vectors of each of them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError
from diffembed.readout.spec import Precision

LARGEST_CODE = 127
# Candidates for the largest magnitude that a calibrated code can hold: quantiles of those in the sample.
QUANTILES = (1.0, 0.9999, 0.999, 0.99)


def to_precision(vectors_NE: NDArray[np.float32], precision: Precision, scale: float | None = None) -> NDArray[Any]:
    """Write unit vectors in a smaller number format.

    - float32: as they are. float16: rounded.
    - int8: each row times 127 / its largest magnitude, rounded. Rows had unit length, so a row divided by its own
      length is the vector again, to within rounding: no scale has to be kept. With `scale`: each row times that, and
      what is beyond 127 is cut off.
    - binary: one bit per dimension, 1 where positive, eight in a uint8 (np.packbits); compare by Hamming distance.
    """
    if precision == "int8":
        if scale is None:
            largest = np.abs(vectors_NE).max(axis=-1, keepdims=True, initial=0.0)
            return np.rint(vectors_NE * (LARGEST_CODE / np.maximum(largest, 1e-30))).astype(np.int8)
        return np.clip(np.rint(vectors_NE * np.float32(scale)), -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
    if precision == "binary":
        return np.packbits(vectors_NE > 0, axis=-1)
    return vectors_NE.astype(precision, copy=False)


def calibrate(vectors_NE: NDArray[np.float32]) -> float:
    """The scale with which calibrated int8 codes lose least of these vectors (mean squared error).

    Small scales waste steps, large ones cut off the largest values; quantiles of the magnitudes are tried.

    Raises:
        ConfigError: There is no vector to go by.
    """
    magnitudes = np.abs(vectors_NE)
    if not magnitudes.size or not magnitudes.max() > 0:
        raise ConfigError("there is no vector to calibrate by", hint="give some texts like those to be embedded")
    scales = [LARGEST_CODE / float(value) for value in np.quantile(magnitudes, QUANTILES) if value > 0]

    def loss(scale: float) -> float:
        return float(np.square(to_precision(vectors_NE, "int8", scale) / np.float32(scale) - vectors_NE).mean())

    return min(scales, key=loss)


def maxsim(queries: NDArray[Any] | Sequence[Any], documents: NDArray[Any] | Sequence[Any]) -> NDArray[np.float32]:
    """Late interaction (ColBERT, arXiv:2004.12832): for each vector of a query the largest product with one of the
    document's, and the mean of those, so that the score of texts with one vector each is their cosine. ColBERT takes
    the sum, which orders documents alike.

    Args:
        queries: (A, Q, E) unit vectors, or (A, E) for one each.
        documents: (B, P, E) unit vectors, or (B, E).

    Returns:
        (A, B), fp32.

    Raises:
        ConfigError: The vectors are of different lengths.
    """
    queries_AQE, documents_BPE = _three(queries), _three(documents)
    if queries_AQE.shape[2] != documents_BPE.shape[2]:
        raise ConfigError(
            f"queries have {queries_AQE.shape[2]} dims, documents {documents_BPE.shape[2]}",
            hint="embed both with the same model and dims",
        )
    count, width = documents_BPE.shape[1:]
    products = queries_AQE.reshape(-1, width) @ documents_BPE.reshape(-1, width).T
    products_AQBP = products.reshape(*queries_AQE.shape[:2], -1, count)
    return products_AQBP.max(axis=3).mean(axis=1)


def _three(vectors: NDArray[Any] | Sequence[Any]) -> NDArray[np.float32]:
    array = np.asarray(vectors, np.float32)
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3:
        raise ConfigError(f"vectors have the shape {array.shape}", hint="give (texts, vectors, dims) or (texts, dims)")
    return array
