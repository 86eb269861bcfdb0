"""Schedule, corruption and loss of masked diffusion, against hand arithmetic and their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from diffembed.objectives.corruption import corrupt
from diffembed.objectives.cross_entropy import weighted_cross_entropy
from diffembed.objectives.pretraining import ScoringPlan, plan_masked_diffusion, plan_next_token, planned_loss
from diffembed.objectives.schedule import MIN_NOISE, LinearSchedule, draw_noise_levels

MASK = 99


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_linear_schedule_ends_and_weight():
    schedule = LinearSchedule()
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert schedule.keep_probability(t).tolist() == [1.0, 0.75, 0.0]
    # w(t) = -alpha'(t) / (1 - alpha(t)), alpha' by finite difference.
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    step = 1e-6
    slope = (schedule.keep_probability(t + step) - schedule.keep_probability(t - step)) / (2 * step)
    torch.testing.assert_close(schedule.loss_weight(t), -slope / (1 - schedule.keep_probability(t)), rtol=1e-6, atol=0)


@given(st.integers(1, 200), st.integers(0, 2**31))
def test_noise_levels_hit_every_stratum_once(count, seed):
    t = draw_noise_levels(count, generator(seed))
    u = (t.double() - MIN_NOISE) / (1 - MIN_NOISE)
    # 1e-5: fp32 rounding of t, relative to a stratum.
    strata = (u * count - 1e-5 * count).ceil().clamp(1, count).sort().values
    assert t.min() >= MIN_NOISE and t.max() <= 1
    assert (strata - torch.arange(1, count + 1)).abs().max() <= 1
    assert abs(float(u.mean()) - 0.5) <= 0.5 / count + 1e-6


def test_corruption_at_the_ends():
    ids = torch.arange(50)
    maskable = ids % 5 != 0
    settings = dict(mask_token_id=MASK, schedule=LinearSchedule())
    nothing = corrupt(ids, torch.zeros(50), maskable, **settings, generator=generator())
    assert torch.equal(nothing.ids_T, ids) and not nothing.is_masked_T.any()
    everything = corrupt(ids, torch.ones(50), maskable, **settings, generator=generator())
    assert torch.equal(everything.is_masked_T, maskable)
    assert torch.equal(everything.ids_T, torch.where(maskable, MASK, ids))
    assert torch.equal(ids, torch.arange(50)), "the clean ids were changed"


def test_corruption_masks_at_the_asked_rate():
    ids, t = torch.zeros(100_000, dtype=torch.int64), torch.full((100_000,), 0.3)
    done = corrupt(ids, t, ids == 0, mask_token_id=MASK, schedule=LinearSchedule(), generator=generator())
    assert float(done.is_masked_T.float().mean()) == pytest.approx(0.3, abs=0.005)  # 3.4 standard deviations


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_noise_outside_its_range_is_refused(t):
    ids = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        corrupt(
            ids, torch.full((3,), t), ids == 0, mask_token_id=MASK, schedule=LinearSchedule(), generator=generator()
        )


def plan(ids, t, maskable, seed=0, num_maskable=None, mask_token_id=MASK):
    return plan_masked_diffusion(
        ids,
        t,
        maskable,
        num_maskable=int(maskable.sum()) if num_maskable is None else num_maskable,
        mask_token_id=mask_token_id,
        schedule=LinearSchedule(),
        generator=generator(seed),
    )


def test_expected_weight_of_the_masked_tokens_is_the_length():
    """E over t of (masked count x 1/t) is the number of tokens: what makes the loss a bound per token."""
    ids = torch.zeros(40_000, dtype=torch.int64)
    t = draw_noise_levels(400, generator()).repeat_interleave(100)
    assert float(plan(ids, t, ids == 0).weights_N.sum()) == pytest.approx(1.0, abs=0.05)


def test_masked_diffusion_loss_by_hand():
    torch.manual_seed(0)
    ids = torch.tensor([4, 5, 6, 7, 8, 9])
    t = torch.tensor([0.4, 0.4, 0.4, 0.8, 0.8, 0.8])
    maskable = torch.tensor([True, True, False, True, True, True])
    made = plan(ids, t, maskable, seed=5, mask_token_id=3)
    states, table = torch.randn(6, 8), torch.randn(10, 8)
    expected = 0.0
    for position in range(6):
        if made.input_ids_T[position] == 3:
            assert maskable[position]
            log_probs = F.log_softmax(table @ states[position], dim=0)
            expected -= float(log_probs[ids[position]]) / float(t[position]) / 5
        else:
            assert made.input_ids_T[position] == ids[position]
    assert 0 < made.positions_N.numel() < 6
    assert float(planned_loss(made, states, table)) == pytest.approx(expected, rel=1e-5)


def test_parts_of_a_step_sum_to_the_step():
    """With the step's own normaliser, the losses of micro-batches add up, for both objectives."""
    torch.manual_seed(0)
    states, table = torch.randn(12, 8), torch.randn(10, 8)
    ids, segments = torch.randint(4, 10, (12,)), torch.arange(3).repeat_interleave(4)
    halves = [slice(0, 8), slice(8, 12)]
    whole = planned_loss(plan_next_token(ids, segments, num_predicted=9), states, table)
    parts = [
        planned_loss(plan_next_token(ids[cut], segments[cut], num_predicted=9), states[cut], table) for cut in halves
    ]
    torch.testing.assert_close(sum(parts), whole)
    everything = torch.ones(12)  # t = 1 masks every token, so that the draws do not matter
    whole = planned_loss(plan(ids, everything, ids > 0), states, table)
    parts = [
        planned_loss(plan(ids[cut], everything[cut], ids[cut] > 0, num_maskable=12), states[cut], table)
        for cut in halves
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_next_token_loss_is_ordinary_cross_entropy():
    torch.manual_seed(0)
    sequences = [[4, 5, 6], [7], [8, 9, 4, 5]]
    ids = torch.tensor(sum(sequences, []))
    segments = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    states, table = torch.randn(8, 8), torch.randn(10, 8)
    expected = F.cross_entropy((states @ table.T)[[0, 1, 4, 5, 6]], ids[[1, 2, 5, 6, 7]])
    made = plan_next_token(ids, segments, num_predicted=5)
    assert float(planned_loss(made, states, table)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("chunk_elements", [1, 64, 10**6])
def test_weighted_cross_entropy_equals_autograd(monkeypatch, chunk_elements):
    monkeypatch.setattr("diffembed.objectives.cross_entropy.CPU_CHUNK_LOGITS", chunk_elements)
    torch.manual_seed(0)
    states = torch.randn(13, 6, requires_grad=True)
    table = torch.randn(17, 6, requires_grad=True)
    targets, weights = torch.randint(0, 17, (13,)), torch.rand(13)
    loss = weighted_cross_entropy(states, table, targets, weights)
    expected = (F.cross_entropy(states @ table.T, targets, reduction="none") * weights).sum()
    torch.testing.assert_close(loss, expected)
    for got, wanted in zip(
        torch.autograd.grad(3 * loss, (states, table)), torch.autograd.grad(3 * expected, (states, table)), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_nothing_scored_gives_zero_and_zero_gradients():
    states, table = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    plan = ScoringPlan(torch.zeros(3, dtype=torch.int64), none, none, torch.zeros(0))
    loss = planned_loss(plan, states, table)
    loss.backward()
    assert float(loss.detach()) == 0 and not table.grad.any() and not states.grad.any()
