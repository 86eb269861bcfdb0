"""Sequences of different lengths as one row of tokens: no padding in the linear layers, no mask in attention.

Shape letters: T tokens of the whole batch, B sequences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Neighbouring sequences of one length: `count` of them, `length` tokens each."""

    count: int
    length: int
    key_gains: Tensor | None = None
    """(count, length), added to the scores of each key; None for nothing. See `legacy`."""

    @property
    def num_tokens(self) -> int:
        return self.count * self.length


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Token sequences laid end to end, sorted by length so that equal lengths are neighbours.

    Attributes:
        ids_T: int64 token ids.
        positions_T: int64 position of each token in its own sequence, from 0.
        groups: Runs of equal length, in packed order; together they cover all T tokens.
        starts: Where each sequence begins in T, in the order in which the caller gave them.
        lengths: Tokens of each sequence, in the caller's order.
    """

    ids_T: Tensor
    positions_T: Tensor
    groups: tuple[LengthGroup, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return self.ids_T.numel()

    def with_ids(self, ids_T: Tensor) -> "PackedBatch":
        """The same layout with other token ids."""
        return replace(self, ids_T=ids_T)

    def sequence_numbers(self) -> Tensor:
        """For each of the T tokens the number of its sequence in the caller's order (int64, (T,))."""
        order = sorted(range(len(self.starts)), key=self.starts.__getitem__)
        index = torch.tensor(order, device=self.ids_T.device)
        return index.repeat_interleave(torch.tensor([self.lengths[i] for i in order], device=self.ids_T.device))

    def split(self, states_TD: Tensor) -> list[Tensor]:
        """Cut packed states into one (length, width) view per sequence, in the caller's order."""
        return [states_TD[start : start + n] for start, n in zip(self.starts, self.lengths, strict=True)]


def pack(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay token sequences end to end, equal lengths together.

    Args:
        sequences: Token ids of each sequence; none may be empty.
        device: Where the tensors go.

    Raises:
        ValueError: There is no sequence, or one is empty.
    """
    if not sequences or not all(len(each) for each in sequences):
        raise ValueError("every packed batch needs at least one sequence, and every sequence at least one token")
    lengths = [len(each) for each in sequences]
    order = sorted(range(len(sequences)), key=lengths.__getitem__)  # stable: equal lengths keep their order
    starts = [0] * len(sequences)
    groups: list[LengthGroup] = []
    ids: list[int] = []
    for row in order:
        starts[row] = len(ids)
        ids.extend(sequences[row])
        if groups and groups[-1].length == lengths[row]:
            groups[-1] = LengthGroup(groups[-1].count + 1, lengths[row])
        else:
            groups.append(LengthGroup(1, lengths[row]))
    positions = torch.cat([torch.arange(group.length).repeat(group.count) for group in groups])
    return PackedBatch(
        ids_T=torch.tensor(ids, dtype=torch.int64, device=device),
        positions_T=positions.to(device),
        groups=tuple(groups),
        starts=tuple(starts),
        lengths=tuple(lengths),
    )


def split_by_tokens(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[slice]:
    """Cut a list of sequences into neighbouring runs of at most `tokens_per_batch` tokens (one sequence at least)."""
    start, total = 0, 0
    for stop, length in enumerate(lengths):
        if stop > start and total + length > tokens_per_batch:
            yield slice(start, stop)
            start, total = stop, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
