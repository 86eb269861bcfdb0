"""Sequences of tokens through the engine, and their states to vectors.

Shape letters: T packed tokens, D width, N vectors.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffembed.backbone import pack
from diffembed.backbone.fused import FusedBackbone
from diffembed.backbone.legacy import LegacyBackbone
from diffembed.backbone.packed import split_by_tokens
from diffembed.embedder.budget import Budget
from diffembed.embedder.golden import LEAST_NORM
from diffembed.embedder.layout import Counted, Piece, count_tokens
from diffembed.errors import CheckpointError
from diffembed.readout.numbers import to_precision
from diffembed.readout.pooling import MeanPool, tanh_codes, to_vectors
from diffembed.readout.spec import SKIPPED, Precision, Readout

Batches = Iterator[tuple[list[list[int]], Counted]]


Engine = FusedBackbone | LegacyBackbone


class Reader:
    """An engine and a readout.

    Args:
        make_engine: Gives the engine, packed tokens -> (T, D) fp32 states; called when it is needed.
        readout: States -> vectors.
        batch_rows: Sequences in a batch, where those show in the vectors; otherwise batches are counted in tokens.
    """

    def __init__(self, make_engine: Callable[[], Engine], readout: Readout, *, batch_rows: int | None = None) -> None:
        self._make = make_engine
        self.readout = readout
        self._batch_rows = batch_rows
        self._budget: Budget | None = None

    def reading(self, readout: Readout) -> "Reader":
        """The same engine and batches, and another readout."""
        return Reader(self._make, readout, batch_rows=self._batch_rows)

    @property
    def engine(self) -> Engine:
        return self._make()

    @property
    def budget(self) -> Budget:
        """The size of batches."""
        if self._budget is None:
            self._budget = Budget(self.engine)
        return self._budget

    def batches(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """Pieces sorted by length, in batches."""
        ordered = sorted(pieces, key=lambda piece: len(piece.ids))
        if self._batch_rows is None:
            lengths = [len(piece.ids) for piece in ordered]
            cuts = split_by_tokens(lengths, self.budget.tokens_for(lengths))
        else:
            cuts = (slice(start, start + self._batch_rows) for start in range(0, len(ordered), self._batch_rows))
        for rows in cuts:
            yield ordered[rows]

    def count(self, batch: Sequence[Piece]) -> Counted:
        """The tokens of a batch whose states count, and for which vector."""
        return count_tokens(batch, self.readout, looks_before=self.engine.config.logit_shift)

    @torch.inference_mode()
    def vectors(
        self,
        read: Batches,
        num_units: int,
        dims: int | None,
        precision: Precision,
        *,
        each: int | None = None,
        unit: str = "text",
        first: int = 0,
    ) -> NDArray[Any]:
        """The vectors of texts or chunks.

        Args:
            read: Sequences sorted by length, and which vector their tokens count for; a unit's follow each other.
            num_units: How many texts or chunks there are.
            dims: Dimensions that are kept; all when None.
            precision: Number format.
            each: Vectors of each unit; None for one, without a dimension of its own.
            unit: What they are, for messages.
            first: Number of the first unit, for messages.

        Returns:
            (units, dims), or (units, each, dims).

        Raises:
            CheckpointError: The model gave numbers that make no vector.
        """
        device = self.engine.device
        pool = MeanPool(num_units * (each or 1), self.engine.config.width, device)
        for sequences, counted in read:
            # Sorted by length, so packing keeps their order.
            rows_T = torch.from_numpy(counted.rows_T).to(device)
            weights_T = None if counted.weights_T is None else torch.from_numpy(counted.weights_T).to(device)
            for part, states_TD in self._states(sequences):
                pool.add(states_TD, rows_T[part], None if weights_T is None else weights_T[part])
        means_ND = pool.means()
        states_ND = tanh_codes(means_ND) if self.readout.codes == "tanh" else means_ND
        norms_N = states_ND[:, :dims].norm(dim=-1)
        is_sound_N = means_ND.isfinite().all(dim=-1) & norms_N.isfinite() & (norms_N > LEAST_NORM)
        if not bool(is_sound_N.all()):
            number = first + int(is_sound_N.logical_not().nonzero()[0]) // (each or 1)
            raise CheckpointError(
                f"the model gave no finite vector with a direction for {unit} {number}",
                hint="its weights are damaged; copy them again",
            )
        numbers = self._numbers(means_ND, states_ND, dims, precision)
        return numbers if each is None else numbers.reshape(num_units, each, -1)

    def _states(self, sequences: list[list[int]]) -> Iterator[tuple[slice, Tensor]]:
        if self._batch_rows is None:
            return self.budget.states(sequences)
        return iter([(slice(None), self.engine(pack(sequences, self.engine.device)))])

    def _numbers(self, means_ND: Tensor, states_ND: Tensor, dims: int | None, precision: Precision) -> NDArray[Any]:
        if self.readout.codes == "tanh" and precision == "int8":
            return states_ND[:, :dims].to(torch.int8).cpu().numpy()
        if self.readout.codes == "tanh" and precision == "binary":  # of the state: a code of 0 has no sign any more
            return np.packbits(means_ND[:, :dims].cpu().numpy() >= 0, axis=-1)
        scale = self.readout.scale
        if scale is not None and dims is not None:  # numbers of a shorter unit vector are larger
            scale *= math.sqrt(dims / states_ND.shape[1])
        return to_precision(to_vectors(states_ND, dims).cpu().numpy(), precision, scale)

    @torch.inference_mode()
    def products(
        self, batch: Sequence[Piece], vectors_D2: NDArray[np.float32]
    ) -> Iterator[tuple[int, tuple[float, float]]]:
        """For each token of a batch that counts its number, and its weighted state times each of two vectors."""
        counted = self.count(batch)
        states_TD = self.engine(pack([piece.ids for piece in batch], self.engine.device))
        along_T2 = (states_TD @ torch.from_numpy(vectors_D2).to(self.engine.device)).cpu().numpy().astype(np.float64)
        if counted.weights_T is not None:
            along_T2 *= counted.weights_T[:, None]
        for token in np.flatnonzero(counted.rows_T != SKIPPED).tolist():
            yield token, (float(along_T2[token, 0]), float(along_T2[token, 1]))
