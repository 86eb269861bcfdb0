"""Distillation against hand arithmetic, and gradients by finite differences."""

import math

import pytest
import torch

from diffembed.objectives.distillation import margin_mse, score_kl, vector_distance
from diffembed.objectives.straight_through import straight_through

SCORES = torch.tensor([[2.0, 1.0, -1.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[5.0, 3.0, 1.0], [1.0, 0.0, 2.0]], dtype=torch.float64)


def test_margins_by_hand() -> None:
    squares = [(1 - 2) ** 2, (3 - 4) ** 2, (0 - 1) ** 2, (0.5 - -1) ** 2]
    assert float(margin_mse(SCORES, TEACHER)) == pytest.approx(sum(squares) / 4)
    assert float(margin_mse(SCORES, SCORES + 7)) == 0  # only margins count


def test_divergence_by_hand() -> None:
    total = 0.0
    for scores, teacher in zip(SCORES.tolist(), TEACHER.tolist(), strict=True):
        q = [math.exp(each / 0.5) for each in scores]
        p = [math.exp(each / 2) for each in teacher]
        q, p = [each / sum(q) for each in q], [each / sum(p) for each in p]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = score_kl(SCORES, TEACHER, temperature=0.5, teacher_temperature=2)
    assert float(found) == pytest.approx(total / 2, abs=1e-12)
    assert float(score_kl(SCORES, SCORES, temperature=1)) == pytest.approx(0, abs=1e-12)


def test_a_candidate_without_a_score_is_not_wanted() -> None:
    teacher = TEACHER.clone()
    teacher[:, 2] = -torch.inf
    scores = SCORES.clone().requires_grad_()
    loss = score_kl(scores, teacher, temperature=1)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert math.isfinite(loss.item()) and (gradient[:, 2] > 0).all()  # it is pushed down


def test_distance_by_hand() -> None:
    vectors, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    assert float(vector_distance(vectors, teacher)) == pytest.approx((2.4**2 + 3.2**2 + 2) / 2)


def test_gradients() -> None:
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: margin_mse(each, TEACHER), scores)
    assert torch.autograd.gradcheck(lambda each: score_kl(each, TEACHER, temperature=0.7), scores)
    assert torch.autograd.gradcheck(lambda each: vector_distance(each, TEACHER), scores)


def test_what_does_not_fit_is_refused() -> None:
    for loss in (margin_mse, lambda a, b: score_kl(a, b, temperature=1)):
        with pytest.raises(ValueError, match="of the teacher"):
            loss(SCORES, TEACHER[:, :2])
        with pytest.raises(ValueError, match="of the teacher"):
            loss(SCORES[:, :1], TEACHER[:, :1])
    with pytest.raises(ValueError, match="temperatures must be positive"):
        score_kl(SCORES, TEACHER, temperature=0)
    with pytest.raises(ValueError, match="of the teacher"):
        vector_distance(SCORES, TEACHER[:1])


def test_codes_have_the_gradient_of_what_was_rounded() -> None:
    states = torch.tensor([[0.3, -1.2, 4.0]], dtype=torch.float64, requires_grad=True)
    smooth = 127 * torch.tanh(states)
    codes = straight_through(smooth.round(), smooth)
    assert codes.tolist() == [[37.0, -106.0, 127.0]]
    (gradient,) = torch.autograd.grad(codes.sum(), states)
    torch.testing.assert_close(gradient, 127 * (1 - torch.tanh(states.detach()) ** 2))
