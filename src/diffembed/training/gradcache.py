"""A loss over the vectors of a whole batch, back-propagated in chunks that are small enough for a CPU's caches.

Shape letters: T packed tokens, D width, B texts of a chunk, N texts of the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffembed.backbone.packed import PackedBatch, pack, split_by_tokens
from diffembed.backbone.transformer import Backbone
from diffembed.readout.pooling import MeanPool, to_vectors
from diffembed.readout.spec import SKIPPED
from diffembed.training.loop import PartialLoss


@dataclass(frozen=True, slots=True)
class PromptedIds:
    """Token ids of a text, EOS included, with the prompt that pooling skips in front.

    Attributes:
        ids: Prompt and text.
        prompt_tokens: How many of them are the prompt; fewer than all.
    """

    ids: list[int]
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """A loss and scalars for metrics.jsonl."""

    loss: Tensor
    extra: dict[str, float]


def loss_in_parts(
    backbone: Backbone,
    texts: Sequence[PromptedIds],
    loss_of: Callable[[Tensor], BatchLoss],
    *,
    chunk_tokens: int,
    recompute: bool,
    device: torch.device | str = "cpu",
) -> Iterator[PartialLoss]:
    """Split a batch's loss into one part per chunk of texts; the parts' gradients sum to that of the whole, exactly.

    The loss sees the model only through the vectors, so its gradient in the vectors is all that a chunk's backward pass
    needs to know of the other chunks (GradCache, arXiv:2101.06983).

    Args:
        backbone: What is trained.
        texts: At least one.
        loss_of: Gives the loss of the (N, D) fp32 unit rows, which stand in the order of the texts.
        chunk_tokens: Budget of a chunk; a longer text is a chunk of its own.
        recompute: Run a chunk's forward pass again when its turn to go back comes, instead of keeping the activations
            of all chunks from the first time. Memory is then that of one chunk, whatever the batch.
        device: Where the backbone is.
    """
    # 1. forward; sorted by length, so that a chunk has few groups of equal lengths
    order = sorted(range(len(texts)), key=lambda number: len(texts[number].ids))
    chunks = [order[rows] for rows in split_by_tokens([len(texts[number].ids) for number in order], chunk_tokens)]
    packed = [_pack(texts, chunk, device) for chunk in chunks]
    with torch.set_grad_enabled(not recompute):
        kept = [_embed(backbone, *each) for each in packed]
    # 2. the loss, and its gradient in the vectors
    order_N = torch.tensor(order, device=device)
    rows_ND = torch.cat(kept).detach()
    vectors_ND = torch.empty_like(rows_ND).index_copy_(0, order_N, rows_ND).requires_grad_()
    whole = loss_of(vectors_ND)
    (gradient_ND,) = torch.autograd.grad(whole.loss, vectors_ND)
    gradients = gradient_ND[order_N].split([len(chunk) for chunk in chunks])
    # 3. back through each chunk
    share, extra = whole.loss.detach() / len(chunks), whole.extra
    for number, (batch, prompts_B) in enumerate(packed):
        vectors_BD = _embed(backbone, batch, prompts_B) if recompute else kept[number]
        surrogate = (vectors_BD * gradients[number]).sum()
        # The value of a share of the loss, the gradient of the surrogate.
        yield PartialLoss(surrogate - surrogate.detach() + share, batch.num_tokens, extra)
        extra = {}


def _pack(
    texts: Sequence[PromptedIds], numbers: Sequence[int], device: torch.device | str
) -> tuple[PackedBatch, Tensor]:
    chosen = [texts[number] for number in numbers]
    return pack([text.ids for text in chosen], device), torch.tensor([t.prompt_tokens for t in chosen], device=device)


def _embed(backbone: Backbone, batch: PackedBatch, prompts_B: Tensor) -> Tensor:
    sequence_T = batch.sequence_numbers()
    is_prompt_T = batch.positions_T < prompts_B[sequence_T]
    states_TD = backbone(batch)
    pool = MeanPool(len(prompts_B), states_TD.shape[1], states_TD.device)
    pool.add(states_TD, sequence_T.masked_fill(is_prompt_T, SKIPPED))
    return to_vectors(pool.means())
