"""A loss over the vectors of a whole batch, back-propagated in chunks small enough for a machine's memory or caches.

Shape letters: T packed tokens, D width, V vectors of all texts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffembed.backbone.packed import PackedBatch, pack, split_by_tokens
from diffembed.backbone.transformer import Backbone
from diffembed.readout.pooling import MeanPool
from diffembed.readout.spec import SKIPPED
from diffembed.training.loop import PartialLoss

if TYPE_CHECKING:
    from diffembed.training.distributed import Ranks

LARGEST_SEED = 2**62


@dataclass(frozen=True, slots=True)
class Laid:
    """A text as the backbone reads it, and which of its tokens make its vectors.

    Attributes:
        ids: Token ids: prompt, text, mask tokens, EOS.
        rows: int64, for each token the vector of this text (from 0) whose mean counts its state, or SKIPPED.
        num_vectors: How many vectors the text has; each needs a token.
        own: Which of them answers the query, where the text is a document in chunks.
    """

    ids: list[int]
    rows: NDArray[np.int64]
    num_vectors: int = 1
    own: int = 0


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """A loss and scalars for metrics.jsonl."""

    loss: Tensor
    extra: dict[str, float]


def loss_in_parts(
    backbone: Backbone,
    texts: Sequence[Laid],
    loss_of: Callable[[Tensor], BatchLoss],
    *,
    chunk_tokens: int,
    recompute: bool,
    generator: torch.Generator,
    ranks: "Ranks | None" = None,
    device: torch.device | str = "cpu",
) -> Iterator[PartialLoss]:
    """Split a batch's loss into one part per chunk of texts; the parts' gradients sum to that of the whole, exactly.

    Source: GradCache (Gao et al. 2021, arXiv:2101.06983). The loss sees the model only through the vectors, so its
    gradient in the vectors is all that a chunk's backward pass needs to know of the other chunks.

    Every rank is handed the same texts, cuts the same chunks and reads every `world`-th of them. The vectors of all are
    gathered, each rank works out the whole loss, and yields its own chunks' parts: losses, gradients and scalars of the
    ranks sum to those of one process. A chunk's dropout follows from a seed of its own, so that neither the number of
    ranks nor a second forward pass changes it.

    Args:
        backbone: What is trained.
        texts: At least one.
        loss_of: Gives the loss of the (V, D) fp32 means of states, not scaled; the texts' vectors in order.
        chunk_tokens: Budget of a chunk; a longer text is a chunk of its own.
        recompute: Run a chunk's forward pass again when its turn to go back comes, instead of keeping the activations
            of all chunks from the first time. Memory is then that of one chunk, whatever the batch.
        generator: Of the step; gives the seeds.
        ranks: Who shares the work; None: this process does it all.
        device: Where the backbone is.
    """
    rank, world = (0, 1) if ranks is None else (ranks.rank, ranks.world)
    # 1. forward
    order, chunks = _cut(texts, chunk_tokens)
    seeds = torch.randint(LARGEST_SEED, (len(chunks),), generator=generator).tolist()
    shares = [range(first, len(chunks), world) for first in range(world)]
    own = [_Chunk.make([texts[number] for number in chunks[each]], seeds[each], device) for each in shares[rank]]
    num_real = len(own)
    if num_real < len(shares[0]):
        # Sharded weights are fetched by all ranks together, so all run as often: this one goes back with zeros.
        own.append(_Chunk.make([texts[order[0]]], 0, device))
    with torch.set_grad_enabled(not recompute):
        kept = [chunk.embed(backbone) for chunk in own]
    # 2. the loss, and its gradient in the vectors
    firsts = np.cumsum([0, *(text.num_vectors for text in texts)])
    places = [
        [np.arange(firsts[number], firsts[number + 1]) for each in share for number in chunks[each]] for share in shares
    ]
    place_V = torch.from_numpy(np.concatenate([each for share in places for each in share])).to(device)
    rows = [rows.detach() for rows in kept[:num_real]]
    rows_VD = torch.cat(rows) if ranks is None else ranks.gather_rows(rows)
    vectors_VD = torch.empty_like(rows_VD).index_copy_(0, place_V, rows_VD).requires_grad_()
    whole = loss_of(vectors_VD)
    (gradient_VD,) = torch.autograd.grad(whole.loss, vectors_VD)
    # 3. back through each chunk
    share, extra = whole.loss.detach() / len(chunks), {} if rank else whole.extra
    mine_V = torch.from_numpy(np.concatenate(places[rank] or [np.empty(0, np.int64)])).to(device)
    gradients = gradient_VD[mine_V].split([chunk.num_vectors for chunk in own[:num_real]])
    for number, chunk in enumerate(own):
        rows_BD = chunk.embed(backbone) if recompute else kept[number]
        if number < num_real:
            surrogate = (rows_BD * gradients[number]).sum()
            # The value of a share of the loss, the gradient of the surrogate.
            yield PartialLoss(surrogate - surrogate.detach() + share, chunk.batch.num_tokens, extra)
        else:
            yield PartialLoss((rows_BD * 0).sum(), 0, extra)
        extra = {}


@torch.no_grad()
def read_out(
    backbone: Backbone, texts: Sequence[Laid], *, chunk_tokens: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The (texts, D) fp32 means of texts with one vector each, without a way back."""
    order, chunks = _cut(texts, chunk_tokens)
    rows = [_Chunk.make([texts[number] for number in chunk], 0, device).embed(backbone) for chunk in chunks]
    rows_ND = torch.cat(rows)
    return torch.empty_like(rows_ND).index_copy_(0, torch.tensor(order, device=rows_ND.device), rows_ND)


def _cut(texts: Sequence[Laid], chunk_tokens: int) -> tuple[list[int], list[list[int]]]:
    """Numbers of the texts sorted by length, so that a chunk has few groups of equal lengths; and that in chunks."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number].ids))
    return order, [order[rows] for rows in split_by_tokens([len(texts[number].ids) for number in order], chunk_tokens)]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Texts that go through the model together."""

    batch: PackedBatch
    rows_T: Tensor
    num_vectors: int
    seed: int

    @classmethod
    def make(cls, texts: Sequence[Laid], seed: int, device: torch.device | str) -> "_Chunk":
        """Pack texts that are sorted by length; packing then keeps their order."""
        firsts = np.cumsum([0, *(text.num_vectors for text in texts)])
        rows = [
            np.where(text.rows == SKIPPED, SKIPPED, text.rows + first)
            for text, first in zip(texts, firsts, strict=False)
        ]
        batch = pack([text.ids for text in texts], device)
        return cls(batch, torch.from_numpy(np.concatenate(rows)).to(device), int(firsts[-1]), seed)

    def embed(self, backbone: Backbone) -> Tensor:
        """The (vectors, D) means, with the dropout of this chunk's seed."""
        device = self.rows_T.device
        with seeded(self.seed, device):
            states_TD = backbone(self.batch)
        pool = MeanPool(self.num_vectors, states_TD.shape[1], device)
        pool.add(states_TD, self.rows_T)
        return pool.means()


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Random numbers from a seed, and then those that would have come without; None: nothing is random."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
