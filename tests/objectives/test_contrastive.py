"""The contrastive loss against loops and hand arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffembed.objectives.contrastive import in_batch_accuracy, info_nce


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
    assert in_batch_accuracy(query, passage, torch.tensor([0, 1, 2])) == pytest.approx(1 / 3)


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
