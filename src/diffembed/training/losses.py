"""Losses by name: from the states of a batch's texts to a number. The formulas are in `diffembed.objectives`.

Shape letters: V vectors of all texts, D width, E dims that are compared, B queries, P candidates, C own candidates of a
query (its passage first), K vectors a text, N chunks of all documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffembed.data.batches import Batch
from diffembed.errors import ConfigError
from diffembed.objectives import contrastive, distillation
from diffembed.objectives.straight_through import straight_through
from diffembed.readout.pooling import tanh_codes
from diffembed.readout.spec import Readout
from diffembed.training.gradcache import BatchLoss, Laid

LossName = Literal["info_nce", "explicit", "margin_mse", "kl", "vectors", "contextual"]
NEEDS_NEGATIVES = ("explicit", "margin_mse", "kl")
"""Losses that need all the hard negatives that the configuration asks for; others take what there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What is asked of the vectors. Formulas and sources are in `diffembed.objectives`."""

    name: LossName = "info_nce"
    """`info_nce`: pick one's own passage among all of the batch by cosine. `explicit`: among one's own passage and hard
    negatives, by the product of states divided by their width (RepLLaMA, as DiffEmbed trains on MS MARCO).
    `margin_mse`, `kl`: have the scores of a teacher, which the rows bring along. `vectors`: have the vectors of a
    teacher (LEAF). `contextual`: pick the chunk that answers, in its document and among the chunks of all (pplx-embed).
    """
    temperature: float
    """Divides every score: 0.02 is DiffEmbed's (its scale of 50), 1 leaves them alone, as `explicit`, `margin_mse` and
    `vectors` do in the papers."""
    false_negative_margin: float | None = None
    """`info_nce`: others that beat a query's own passage by more than this in cosine are not counted as wrong; None:
    all are."""
    symmetric: bool = False
    """`info_nce`: also find the query for each passage."""
    include_queries: bool = False
    """`info_nce`: the other queries are candidates too (pplx-embed's pair stage)."""
    matryoshka_dims: tuple[int, ...] = ()
    """The loss is the sum over vectors cut to these dims and over whole ones (arXiv:2205.13147)."""
    teacher_temperature: float = 1.0
    """`kl`: divides the teacher's scores."""
    teacher: str | None = None
    """`vectors`: model whose vectors are learnt; a folder or a hub id."""
    teacher_dims: int | None = None
    """`vectors`: dims that are kept of the teacher's vectors; None: all. The model's own first dims learn them."""

    def __post_init__(self) -> None:
        for name, value in {"temperature": self.temperature, "teacher_temperature": self.teacher_temperature}.items():
            if not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}", hint="0.05 is usual, 1 leaves scores alone")
        if self.false_negative_margin is not None and not self.false_negative_margin >= 0:
            raise ConfigError(
                f"false_negative_margin must not be negative, got {self.false_negative_margin}", hint="null: no filter"
            )
        for name, is_set in {
            "symmetric": self.symmetric,
            "include_queries": self.include_queries,
            "false_negative_margin": self.false_negative_margin is not None,
        }.items():
            if is_set and self.name != "info_nce":
                raise ConfigError(
                    f"{name} is about the other pairs of a batch, and the loss {self.name} is not",
                    hint=f"leave out loss.{name}, or use loss.name=info_nce",
                )
        if (self.name == "vectors") != (self.teacher is not None):
            raise ConfigError(
                f"the loss is {self.name} and the teacher {self.teacher}",
                hint="loss.teacher is for loss.name=vectors, which needs it",
            )
        if self.teacher_dims is not None and (self.teacher is None or self.teacher_dims < 1):
            raise ConfigError(f"teacher_dims is {self.teacher_dims}", hint="positive, and with loss.teacher only")
        self._check_dims()

    def _check_dims(self) -> None:
        dims = self.matryoshka_dims
        if dims and self.name in ("explicit", "vectors"):
            raise ConfigError(
                f"matryoshka_dims are prefixes scaled to unit length, and the loss {self.name} takes none",
                hint="leave out loss.matryoshka_dims",
            )
        if min(dims, default=1) < 1 or list(dims) != sorted(set(dims)):
            raise ConfigError(f"matryoshka_dims are {list(dims)}", hint="positive and rising, for example [64, 128]")

    @property
    def needs_scores(self) -> bool:
        """Whether the rows must bring a teacher's scores along."""
        return self.name in ("margin_mse", "kl")

    def check_readout(self, readout: Readout, negatives: int) -> None:
        """Refuse what cannot be trained together.

        Args:
            readout: Of the model.
            negatives: Hard negatives of each query.

        Raises:
            ConfigError: One of them doesn't suit this loss.
        """
        if readout.pooling == "weighted_mean":
            raise ConfigError("weighted_mean is read, not trained", hint="train with readout.pooling=mean")
        if readout.codes == "calibrated":
            raise ConfigError("a scale for int8 codes is found after training", hint="leave out readout.codes")
        if readout.codes == "tanh" and self.name == "explicit":
            raise ConfigError(
                "codes by tanh have no use for the length of a state, and the loss explicit compares by it",
                hint="use loss.name=info_nce, or readout.codes=row",
            )
        compares_queries = self.include_queries or self.symmetric
        if readout.multi and (self.name in ("explicit", "vectors", "contextual") or compares_queries):
            raise ConfigError(
                "a text has several vectors, and this loss compares one with one",
                hint="readout.multi=false, or loss.name=info_nce without include_queries and symmetric",
            )
        if self.name == "contextual" and readout.pooling != "mean":
            raise ConfigError(
                f"a chunk is the mean of its tokens, and pooling is {readout.pooling}", hint="use readout.pooling=mean"
            )
        if self.name in NEEDS_NEGATIVES and not negatives:
            raise ConfigError(f"the loss {self.name} compares with hard negatives", hint="set negatives, 1 to 15")
        if self.name in ("contextual", "vectors") and negatives:
            raise ConfigError(f"the loss {self.name} has no use for hard negatives", hint="set negatives=0")

    def check_width(self, width: int) -> None:
        """Refuse prefixes longer than a vector.

        Raises:
            ConfigError: There is one.
        """
        if max(self.matryoshka_dims, default=1) > width:
            raise ConfigError(
                f"matryoshka_dims go to {max(self.matryoshka_dims)}, and a vector has {width}",
                hint="leave out the larger ones",
            )


def batch_loss(
    vectors_VD: Tensor,
    *,
    texts: Sequence[Laid],
    batch: Batch,
    config: LossConfig,
    readout: Readout,
    share_done: float = 0.0,
    teacher_VE: Tensor | None = None,
) -> BatchLoss:
    """The loss of a batch.

    Args:
        vectors_VD: fp32 means of states, not scaled; of all queries, passages and negatives in order.
        texts: What they are the vectors of.
        batch: Where the texts come from, with the scores or chunks that the loss needs.
        config: Which loss.
        readout: How many vectors each side has, and whether they are codes.
        share_done: Part of the steps that are done, for the loss `contextual`.
        teacher_VE: Unit vectors of the same texts, for the loss `vectors`.
    """
    if readout.codes == "tanh":
        vectors_VD = straight_through(tanh_codes(vectors_VD), 127 * torch.tanh(vectors_VD))
    num_queries = len(batch.queries)
    cut = sum(text.num_vectors for text in texts[:num_queries])
    query_BKD = vectors_VD[:cut].unflatten(0, (num_queries, -1))
    if config.name == "contextual":
        return _contextual(query_BKD[:, 0], vectors_VD[cut:], texts[num_queries:], batch, config, share_done)
    candidate_PKD = vectors_VD[cut:].unflatten(0, (len(texts) - num_queries, -1))
    if config.name == "vectors":
        assert teacher_VE is not None
        return _vectors(vectors_VD, query_BKD[:, 0], candidate_PKD[:, 0], batch, teacher_VE)
    if config.name == "info_nce":
        return _in_batch(query_BKD, candidate_PKD, batch, config)
    return _among_own(query_BKD, candidate_PKD, batch, config)


def _in_batch(query_BKD: Tensor, candidate_PKD: Tensor, batch: Batch, config: LossConfig) -> BatchLoss:
    positive_B = torch.arange(len(query_BKD), device=query_BKD.device)
    is_ignored_BP = _known(batch, len(candidate_PKD)).to(query_BKD.device)
    common = {
        "temperature": config.temperature,
        "is_ignored_BP": is_ignored_BP,
        "false_negative_margin": config.false_negative_margin,
    }

    def loss_of(query_BKE: Tensor, candidate_PKE: Tensor) -> Tensor:
        if max(query_BKE.shape[1], candidate_PKE.shape[1]) > 1:
            return contrastive.pick_own(contrastive.max_sim(query_BKE, candidate_PKE), positive_B, **common)
        return contrastive.info_nce(
            query_BKE[:, 0],
            candidate_PKE[:, 0],
            positive_B,
            symmetric=config.symmetric,
            include_queries=config.include_queries,
            **common,
        )

    loss = _over_prefixes(loss_of, (query_BKD, candidate_PKD), config)
    return BatchLoss(loss, _facts(query_BKD, candidate_PKD, batch, is_ignored_BP))


def _among_own(query_BKD: Tensor, candidate_PKD: Tensor, batch: Batch, config: LossConfig) -> BatchLoss:
    """Losses over a query's passage and its own hard negatives."""
    count = len(query_BKD)
    negatives_BNKD = candidate_PKD[count:].unflatten(0, (count, -1))
    own_BCKD = torch.cat([candidate_PKD[:count, None], negatives_BNKD], dim=1)
    if config.name == "explicit":
        loss = contrastive.explicit_negatives(
            query_BKD[:, 0], own_BCKD[:, 0, 0], own_BCKD[:, 1:, 0], temperature=config.temperature
        )
    else:
        assert batch.scores is not None
        teacher_BC = torch.tensor(batch.scores, device=query_BKD.device)
        distil = {
            "margin_mse": distillation.margin_mse,
            "kl": partial(
                distillation.score_kl, temperature=config.temperature, teacher_temperature=config.teacher_temperature
            ),
        }[config.name]
        divisor = 1.0 if config.name == "kl" else config.temperature

        def loss_of(query_BKE: Tensor, own_BCKE: Tensor) -> Tensor:
            return distil(_own_scores(query_BKE, own_BCKE) / divisor, teacher_BC)

        loss = _over_prefixes(loss_of, (query_BKD, own_BCKD), config)
    scores_BC = _own_scores(F.normalize(query_BKD.detach(), dim=-1), F.normalize(own_BCKD.detach(), dim=-1))
    first_B = torch.zeros(count, dtype=torch.int64, device=scores_BC.device)
    return BatchLoss(loss, _measures(scores_BC, first_B, None, batch))


def _contextual(
    query_BD: Tensor, chunk_ND: Tensor, documents: Sequence[Laid], batch: Batch, config: LossConfig, share_done: float
) -> BatchLoss:
    """Chunks against chunks, and with a weight that rises over the run documents against documents.

    Source: the contextual stage of pplx-embed (arXiv:2602.11151). Deviates: its paper does not say how the weight of
    the documents' loss enters; here it is taken from that of the chunks.
    """
    device = query_BD.device
    counts = [text.num_vectors for text in documents]
    firsts = torch.tensor([0, *counts[:-1]], device=device).cumsum(0)
    positive_B = firsts + torch.tensor([text.own for text in documents], device=device)
    document_N = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))
    tokens_N = torch.cat([torch.from_numpy(text.rows[text.rows >= 0]).bincount() for text in documents]).to(device)
    # The mean of a document's tokens is that of its chunks, each as often as it has tokens.
    sums_BD = torch.zeros_like(query_BD).index_add(0, document_N, chunk_ND * tokens_N[:, None])
    own_B = torch.arange(len(query_BD), device=device)

    def loss_of(query_BE: Tensor, chunk_NE: Tensor, document_BE: Tensor) -> Tensor:
        near = contrastive.contextual(query_BE, chunk_NE, positive_B, document_N, temperature=config.temperature)
        whole = contrastive.info_nce(query_BE, document_BE, own_B, temperature=config.temperature)
        weight = contrastive.document_weight(share_done)
        return (1 - weight) * near + weight * whole

    loss = _over_prefixes(loss_of, (query_BD, chunk_ND, sums_BD), config)
    scores_BN = F.normalize(query_BD.detach(), dim=-1) @ F.normalize(chunk_ND.detach(), dim=-1).T
    return BatchLoss(loss, _measures(scores_BN, positive_B, None, batch))


def _vectors(vectors_VD: Tensor, query_BD: Tensor, candidate_PD: Tensor, batch: Batch, teacher_VE: Tensor) -> BatchLoss:
    dims = teacher_VE.shape[1]
    loss = distillation.vector_distance(F.normalize(vectors_VD[:, :dims], dim=-1), teacher_VE)
    return BatchLoss(loss, _facts(query_BD[:, None, :dims], candidate_PD[:, None, :dims], batch, None))


def _over_prefixes(loss_of: Callable[..., Tensor], rows: Sequence[Tensor], config: LossConfig) -> Tensor:
    width = rows[0].shape[-1]
    return contrastive.matryoshka(loss_of, rows, [*(dims for dims in config.matryoshka_dims if dims < width), width])


def _known(batch: Batch, num_candidates: int) -> Tensor:
    is_known_BP = torch.zeros(len(batch.queries), num_candidates, dtype=torch.bool)
    for query, known in enumerate(batch.known):
        is_known_BP[query, list(known)] = True
    return is_known_BP


def _own_scores(query_BKE: Tensor, own_BCKE: Tensor) -> Tensor:
    """(B, C) scores of a query with its own candidates: cosines, or as `contrastive.max_sim` has them."""
    return torch.einsum("bke,bcle->bckl", query_BKE, own_BCKE).amax(dim=3).mean(dim=2)


@torch.no_grad()
def _facts(query_BKD: Tensor, candidate_PKD: Tensor, batch: Batch, is_ignored_BP: Tensor | None) -> dict[str, float]:
    scores_BP = contrastive.max_sim(F.normalize(query_BKD, dim=-1), F.normalize(candidate_PKD, dim=-1))
    positive_B = torch.arange(len(query_BKD), device=query_BKD.device)
    return _measures(scores_BP, positive_B, is_ignored_BP, batch)


def _measures(scores_BP: Tensor, positive_B: Tensor, is_ignored_BP: Tensor | None, batch: Batch) -> dict[str, float]:
    positive, negative = contrastive.similarities(scores_BP, positive_B, is_ignored_BP)
    return {
        "accuracy": contrastive.accuracy(scores_BP, positive_B, is_ignored_BP),
        "positive": positive,
        "negative": negative,
        "pairs": len(scores_BP),
        "candidates": scores_BP.shape[1],
        "row": batch.group.row,
    }
