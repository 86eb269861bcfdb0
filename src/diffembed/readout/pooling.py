"""Token states -> one state per vector: weighted means, in fp32.

Shape letters: T packed tokens, D width, N vectors, E dims of a vector.
"""

import torch
from torch import Tensor


class MeanPool:
    """Means of token states per row, fed batch by batch: a row's tokens may be spread over several batches.

    Args:
        num_rows: N.
        width: D.
        device: Where the states are.
    """

    def __init__(self, num_rows: int, width: int, device: torch.device | str = "cpu") -> None:
        self._sums_ND = torch.zeros(num_rows + 1, width, device=device)  # the last row takes the skipped tokens
        self._weights_N = torch.zeros(num_rows + 1, device=device)

    def add(self, states_TD: Tensor, rows_T: Tensor, weights_T: Tensor | None = None) -> None:
        """Add states to their rows.

        Args:
            states_TD: (tokens, width), any float dtype.
            rows_T: (tokens,), int64: the row of each token, or SKIPPED.
            weights_T: (tokens,), fp32, positive: how much each counts; 1 when absent.
        """
        rows_T = torch.where(rows_T < 0, len(self._weights_N) - 1, rows_T)
        states_TD = states_TD.float()
        if weights_T is None:
            self._weights_N += torch.bincount(rows_T, minlength=len(self._weights_N))
        else:
            states_TD = states_TD * weights_T[:, None]
            self._weights_N.index_add_(0, rows_T, weights_T)
        self._sums_ND.index_add_(0, rows_T, states_TD)

    def means(self) -> Tensor:
        """(N, D) means; a row without a token is zero."""
        weights_N = self._weights_N[:-1, None]
        return self._sums_ND[:-1] / torch.where(weights_N > 0, weights_N, 1)


def to_vectors(means_ND: Tensor, dims: int | None = None) -> Tensor:
    """Keep the first dims, then scale to unit length (matryoshka order: truncate, then normalise)."""
    return torch.nn.functional.normalize(means_ND[:, :dims].float(), dim=-1)


def tanh_codes(means_ND: Tensor) -> Tensor:
    """round(127 tanh(x)), fp32: from -127 to 127 (pplx-embed, arXiv:2602.11151)."""
    return torch.round(127 * torch.tanh(means_ND.float()))
