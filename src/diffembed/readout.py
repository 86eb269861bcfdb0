"""Token states -> vectors: the mean, its first dimensions, its smaller number formats. All arithmetic is fp32.

Shape letters: T packed tokens, D width, N texts, E dims of a vector.
"""

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffembed.errors import ConfigError

Precision = Literal["float32", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SKIPPED = -1
"""Row of a token that no text counts."""


class MeanPool:
    """Means of token states per text, fed batch by batch: a text's tokens may be spread over several batches.

    Args:
        num_texts: N, the number of rows.
        width: D.
        device: Where the states are.
    """

    def __init__(self, num_texts: int, width: int, device: torch.device | str = "cpu") -> None:
        self._sums_ND = torch.zeros(num_texts + 1, width, device=device)  # the last row takes the skipped tokens
        self._counts_N = torch.zeros(num_texts + 1, device=device)

    def add(self, states_TD: Tensor, rows_T: Tensor) -> None:
        """Add states to their texts.

        Args:
            states_TD: (tokens, width), any float dtype.
            rows_T: (tokens,), int64: the text of each token, or SKIPPED.
        """
        rows_T = torch.where(rows_T < 0, len(self._counts_N) - 1, rows_T)
        self._sums_ND.index_add_(0, rows_T, states_TD.float())
        self._counts_N += torch.bincount(rows_T, minlength=len(self._counts_N))

    def means(self) -> Tensor:
        """(N, D) means; a text without a token has a zero row."""
        return self._sums_ND[:-1] / self._counts_N[:-1, None].clamp(min=1)


def to_vectors(means_ND: Tensor, dims: int | None = None) -> Tensor:
    """Keep the first dims, then scale to unit length (matryoshka order: truncate, then normalise)."""
    return torch.nn.functional.normalize(means_ND[:, :dims].float(), dim=-1)


def to_precision(vectors_NE: NDArray[np.float32], precision: Precision) -> NDArray[Any]:
    """Write unit vectors in a smaller number format.

    - float32: as they are.
    - int8: each row times 127 / its largest magnitude, rounded. Rows had unit length, so a row divided by its own
      length is the vector again, to within rounding: no scale has to be kept.
    - binary: one bit per dimension, 1 where positive, eight in a uint8 (np.packbits); compare by Hamming distance.
    """
    if precision == "int8":
        largest = np.abs(vectors_NE).max(axis=-1, keepdims=True, initial=0.0)
        return np.rint(vectors_NE * (127 / np.maximum(largest, 1e-30))).astype(np.int8)
    if precision == "binary":
        return np.packbits(vectors_NE > 0, axis=-1)
    return vectors_NE


def check_readout(dims: int | None, precision: str, *, width: int) -> None:
    """Refuse dims and precisions that there are none of.

    Raises:
        ConfigError: dims is no whole number from 1 to the width, or the precision is unknown.
    """
    if dims is not None and (isinstance(dims, bool) or not isinstance(dims, int) or not 1 <= dims <= width):
        raise ConfigError(f"dims is {dims!r}", hint=f"allowed: 1 to {width}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}", hint=f"allowed: {', '.join(PRECISIONS)}")
