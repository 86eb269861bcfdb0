"""The contrastive loss against loops and hand arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffembed.objectives.contrastive import (
    accuracy,
    contextual,
    document_weight,
    explicit_negatives,
    info_nce,
    matryoshka,
    max_sim,
    pick_own,
    similarities,
)
from diffembed.readout.numbers import maxsim


def unit_rows(count: int, width: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=1)


def naive(query: Tensor, passage: Tensor, positive: list[int], temperature: float, margin: float | None) -> Tensor:
    """One query and one candidate at a time, from the definition."""
    losses = []
    for q, own in zip(query, positive, strict=True):
        scores = [torch.dot(q, p) for p in passage]
        kept = [
            s for i, s in enumerate(scores) if i == own or margin is None or s.item() <= scores[own].item() + margin
        ]
        losses.append(-scores[own] / temperature + torch.stack(kept).div(temperature).exp().sum().log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("margin", [None, 0.0, 0.1, 2.0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_value_and_gradient_equal_the_definition(margin: float | None, symmetric: bool) -> None:
    positive = [3, 0, 5, 1]
    query, passage = unit_rows(4).requires_grad_(), unit_rows(7, seed=1).requires_grad_()
    loss = info_nce(
        query,
        passage,
        torch.tensor(positive),
        temperature=0.1,
        false_negative_margin=margin,
        symmetric=symmetric,
    )
    expected = naive(query, passage, positive, 0.1, margin)
    if symmetric:
        expected = (expected + naive(passage[positive], query, [0, 1, 2, 3], 0.1, margin)) / 2
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    for found, wanted in zip(
        torch.autograd.grad(loss, (query, passage)), torch.autograd.grad(expected, (query, passage)), strict=True
    ):
        assert (found - wanted).abs().max() < 1e-12


def test_two_candidates_by_hand() -> None:
    query = torch.tensor([[1.0, 0.0]])
    passage = torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    loss = info_nce(query, passage, torch.tensor([0]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp((0.8 - 0.6) / 0.5)), abs=1e-6)


def test_the_margin_drops_only_what_exceeds_it() -> None:
    query = torch.tensor([[1.0, 0.0]])
    passage = torch.tensor([[0.6, 0.8], [0.8, -0.6]])  # cosines 0.6 (its own) and 0.8
    kept = info_nce(query, passage, torch.tensor([0]), temperature=0.5, false_negative_margin=0.25)
    assert kept == info_nce(query, passage, torch.tensor([0]), temperature=0.5)
    dropped = info_nce(query, passage, torch.tensor([0]), temperature=0.5, false_negative_margin=0.15)
    assert dropped.item() == pytest.approx(0.0, abs=1e-7)


def test_accuracy_counts_the_first_rank_and_no_tie() -> None:
    query = torch.eye(3)
    passage = torch.stack([query[0], query[2], query[2]])
    assert accuracy(query @ passage.T, torch.tensor([0, 1, 2])) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("query", "passage", "positive", "settings", "complaint"),
    [
        (unit_rows(2) * 2, unit_rows(2), [0, 1], {}, "unit length"),
        (unit_rows(2), unit_rows(2, 5), [0, 1], {}, "8 features, passages 5"),
        (unit_rows(2), unit_rows(2), [0, 2], {}, r"in \[0, 2\)"),
        (unit_rows(2), unit_rows(2), [0], {}, "int64 of shape"),
        (unit_rows(2).half(), unit_rows(2), [0, 1], {}, "must be float32"),
        (unit_rows(2)[:0], unit_rows(2), [], {}, "at least one row"),
        (unit_rows(2), unit_rows(2), [0, 1], {"temperature": 0.0}, "temperature must be positive, got 0.0"),
        (unit_rows(2), unit_rows(2), [0, 1], {"false_negative_margin": -1.0}, "must not be negative"),
        (unit_rows(2), unit_rows(2), [1, 1], {"symmetric": True}, "a passage of its own"),
    ],
)
def test_what_makes_no_sense_is_refused(
    query: Tensor, passage: Tensor, positive: list[int], settings: dict, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        info_nce(query, passage, torch.tensor(positive), **{"temperature": 0.05, **settings})


def test_ignored_candidates_are_as_if_they_were_not_there() -> None:
    query, passage = unit_rows(3).requires_grad_(), unit_rows(5, seed=1).requires_grad_()
    positive = torch.tensor([0, 1, 2])
    is_ignored = torch.zeros(3, 5, dtype=torch.bool)
    is_ignored[:, 3] = True
    loss = info_nce(query, passage, positive, temperature=0.1, is_ignored_BP=is_ignored)
    kept = passage[[0, 1, 2, 4]]
    assert loss.item() == pytest.approx(naive(query, kept, [0, 1, 2], 0.1, None).item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, passage)
    assert not gradient[3].any() and gradient[4].any()
    assert accuracy(query @ torch.cat([query[[1, 2, 0]], query]).T, positive + 3) == 0
    same = torch.zeros(3, 6, dtype=torch.bool)
    same[torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])] = True
    assert accuracy(query @ torch.cat([query[[1, 2, 0]], query]).T, positive + 3, same) == 1
    is_ignored[1, 1] = True
    with pytest.raises(ValueError, match="own passage cannot be ignored"):
        info_nce(query, passage, positive, temperature=0.1, is_ignored_BP=is_ignored)
    with pytest.raises(ValueError, match="is_ignored must be bool"):
        info_nce(query, passage, positive, temperature=0.1, is_ignored_BP=is_ignored[:, :4])


@pytest.mark.parametrize("margin", [None, 0.1])
def test_other_queries_as_candidates(margin: float | None) -> None:
    query, passage = unit_rows(4), unit_rows(4, seed=1)
    found = info_nce(
        query, passage, torch.arange(4), temperature=0.1, include_queries=True, false_negative_margin=margin
    )
    rows = []
    for number in range(4):
        others = torch.cat([passage, query[[each for each in range(4) if each != number]]])
        rows.append(naive(query[number : number + 1], others, [number], 0.1, margin))
    assert found.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-12)


def test_known_answers_are_left_out_of_both_directions() -> None:
    query, passage = unit_rows(3), unit_rows(3, seed=1)
    is_ignored = torch.tensor([[False, True, False], [False] * 3, [False] * 3])
    both = info_nce(query, passage, torch.arange(3), temperature=0.1, symmetric=True, is_ignored_BP=is_ignored)
    there = pick_own(query @ passage.T, torch.arange(3), temperature=0.1, is_ignored_BP=is_ignored)
    back = pick_own(passage @ query.T, torch.arange(3), temperature=0.1, is_ignored_BP=is_ignored.T)
    assert both.item() == pytest.approx(((there + back) / 2).item(), abs=1e-12)


def test_scale_50_is_temperature_002() -> None:
    """HardNegativeNLLLoss on numbers: two queries, their passages, their hard negatives."""
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    passage = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.28, 0.96], [-0.6, 0.8]], dtype=torch.float64)
    rows = [[0.6, 0.8, 0.28, -0.6], [0.8, 0.6, 0.96, 0.8]]
    losses = [math.log(sum(math.exp(50 * (each - row[own])) for each in row)) for own, row in enumerate(rows)]
    found = info_nce(query, passage, torch.tensor([0, 1]), temperature=1 / 50)
    assert found.item() == pytest.approx(sum(losses) / 2, abs=1e-9)


def test_explicit_negatives_by_hand() -> None:
    """RepLLaMA as DiffEmbed scales it: products of states divided by their width, own candidates only."""
    query = torch.tensor([[2.0, 0.0, 4.0, 0.0]])
    passage = torch.tensor([[1.0, 5.0, 2.0, 0.0]])  # product 10, score 2.5
    negatives = torch.tensor([[[4.0, 0.0, 0.0, 9.0], [0.0, 0.0, 3.0, 0.0]]])  # 8 -> 2, 12 -> 3
    wanted = math.log(1 + math.exp(2 - 2.5) + math.exp(3 - 2.5))
    assert explicit_negatives(query, passage, negatives).item() == pytest.approx(wanted, abs=1e-6)
    kept = explicit_negatives(query, passage, negatives, is_ignored_BN=torch.tensor([[True, False]]))
    assert kept.item() == pytest.approx(math.log(1 + math.exp(3 - 2.5)), abs=1e-6)
    cooler = explicit_negatives(query, passage, negatives, temperature=0.5)
    assert cooler.item() == pytest.approx(math.log(1 + math.exp(-1) + math.exp(1)), abs=1e-6)
    with pytest.raises(ValueError, match="got"):
        explicit_negatives(query, passage, negatives[:, :0])


def test_max_sim_is_that_of_the_readout() -> None:
    query, passage = unit_rows(3 * 2).view(3, 2, 8).float(), unit_rows(4 * 5, seed=2).view(4, 5, 8).float()
    found = max_sim(query, passage)
    torch.testing.assert_close(found, torch.from_numpy(maxsim(query.numpy(), passage.numpy())))
    single = max_sim(query[:, :1], passage[:, :1])
    torch.testing.assert_close(single, query[:, 0] @ passage[:, 0].T)


def test_matryoshka_is_the_sum_over_prefixes() -> None:
    query, passage = (3 * unit_rows(4)).requires_grad_(), unit_rows(4, seed=1)

    def loss_of(q: Tensor, p: Tensor) -> Tensor:
        return info_nce(q, p, torch.arange(4), temperature=0.1)

    parts = [loss_of(F.normalize(query[:, :d], dim=1), F.normalize(passage[:, :d], dim=1)) for d in (2, 8)]
    found = matryoshka(loss_of, (query, passage), (2, 8))
    assert found.item() == pytest.approx(sum(part.item() for part in parts), abs=1e-12)
    weighted = matryoshka(loss_of, (query, passage), (2, 8), weights=(0.5, 2.0))
    assert weighted.item() == pytest.approx(0.5 * parts[0].item() + 2 * parts[1].item(), abs=1e-12)
    assert matryoshka(loss_of, (query, passage), (8,)).item() == pytest.approx(parts[1].item(), abs=1e-12)
    assert torch.autograd.gradcheck(lambda each: matryoshka(loss_of, (each, passage), (2, 8)), query)
    for dims in ((), (9,), (0, 8)):
        with pytest.raises(ValueError, match="do not fit"):
            matryoshka(loss_of, (query, passage), dims)


def test_chunks_of_one_document_and_of_all() -> None:
    query, chunk = unit_rows(2), unit_rows(5, seed=3)
    document, positive = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 3])
    within = (naive(query[:1], chunk[:3], [1], 0.1, None) + naive(query[1:], chunk[3:], [0], 0.1, None)) / 2
    wanted = 0.2 * within + 0.8 * naive(query, chunk, [1, 3], 0.1, None)
    found = contextual(query, chunk, positive, document, temperature=0.1)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    alone = contextual(query, chunk[:2], torch.tensor([0, 1]), torch.tensor([0, 1]), temperature=0.1, own_share=1.0)
    assert alone.item() == 0
    with pytest.raises(ValueError, match="own_share"):
        contextual(query, chunk, positive, document, temperature=0.1, own_share=1.5)


def test_similarities_by_hand() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    passage = torch.tensor([[0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
    own, other = similarities(query @ passage.T, torch.tensor([0, 1]))
    assert own == pytest.approx(0.6) and other == pytest.approx((0.8 + 1.0 + 0.8 + 0.0) / 4)
    is_ignored = torch.tensor([[False, False, True], [False, False, False]])
    _, other = similarities(query @ passage.T, torch.tensor([0, 1]), is_ignored)
    assert other == pytest.approx((0.8 + 0.8 + 0.0) / 3)


def test_the_weight_of_documents_rises_along_half_a_cosine() -> None:
    found = [document_weight(share) for share in (0, 0.25, 0.5, 1)]
    assert found == pytest.approx([0.2, 0.2 + 0.3 * (1 - math.sqrt(0.5)) / 2, 0.35, 0.5])
