"""Masked next-token prediction and Dream's weights: against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed.objectives.cross_entropy import weighted_cross_entropy
from diffembed.objectives.pretraining import (
    cart_weights,
    normalized,
    plan_masked_diffusion,
    plan_masked_next_token,
    plan_next_token,
    planned_loss,
)
from diffembed.objectives.schedule import LinearSchedule
from tests.tiny_models import VOCAB, random_backbone

MASK = 49


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(0, 2**20)), min_size=1, max_size=4))
def test_weights_by_a_loop_over_all_pairs(sequences: list[tuple[int, int]]) -> None:
    masks = [torch.rand(length, generator=generator(seed)) < 0.5 for length, seed in sequences]
    numbers = torch.arange(len(masks)).repeat_interleave(torch.tensor([len(mask) for mask in masks]))
    found = cart_weights(torch.cat(masks), numbers)
    wanted = []
    for mask in masks:
        for n in range(len(mask)):
            clean = (i for i in range(len(mask)) if i != n and not mask[i])
            wanted.append(sum(0.5 * 0.3 * 0.7 ** (abs(n - i) - 1) for i in clean))
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32), atol=1e-6, rtol=1e-5)


def test_the_plan_takes_those_weights_in_place_of_the_bound() -> None:
    ids, numbers = torch.arange(20), torch.arange(2).repeat_interleave(10)
    settings = dict(num_maskable=4, mask_token_id=MASK, schedule=LinearSchedule())
    t, maskable = torch.full((20,), 0.5), torch.ones(20, dtype=torch.bool)
    plan = plan_masked_diffusion(ids, t, maskable, **settings, generator=generator(), cart_T=numbers)
    is_masked = plan.input_ids_T == MASK
    torch.testing.assert_close(plan.weights_N, cart_weights(is_masked, numbers)[is_masked] / 4)
    bound = plan_masked_diffusion(ids, t, maskable, **settings, generator=generator())
    assert torch.equal(bound.input_ids_T, plan.input_ids_T) and set(bound.weights_N.tolist()) == {0.5}


@pytest.mark.parametrize("only_masks", [False, True])
def test_what_is_shown_in_place_of_hidden_tokens(only_masks: bool) -> None:
    ids = torch.full((100_000,), 7)
    maskable = torch.arange(100_000) % 2 == 0
    settings = dict(share=0.2, only_masks=only_masks, mask_token_id=MASK, vocab_size=40)
    plan = plan_masked_next_token(ids, maskable, **settings, generator=generator())
    shown = plan.input_ids_T[plan.positions_N]
    assert len(plan.positions_N) == pytest.approx(10_000, abs=400) and maskable[plan.positions_N].all()
    assert (plan.targets_N == 7).all() and (plan.weights_N == 1).all()
    others = torch.ones_like(maskable).index_fill(0, plan.positions_N, False)
    assert (plan.input_ids_T[others] == 7).all()
    share = {kind: float((shown == kind).float().mean()) for kind in (MASK, 7)}
    assert share[MASK] == pytest.approx(1.0 if only_masks else 0.8, abs=0.02)
    # A tenth stays, and a fortieth of the random tenth is the token itself.
    assert share[7] == pytest.approx(0.0 if only_masks else 0.1 + 0.1 / 40, abs=0.02)


def test_a_model_that_looks_back_scores_as_next_token_does() -> None:
    """Nothing masked visibly, all hidden ones kept: the shift alone, and it is plain next-token prediction."""
    backbone = random_backbone("forward", logit_shift=True)
    from diffembed.backbone import pack

    batch = pack([[3, 1, 4, 1, 5], [9, 2, 6]])
    states = backbone(batch)
    numbers = batch.sequence_numbers()
    plain = plan_next_token(batch.ids_T, numbers, num_predicted=6)
    wanted = planned_loss(plain, states, backbone.embed_tokens.weight)
    hidden = plan_masked_next_token(
        batch.ids_T,
        batch.positions_T > 0,
        share=1.0,
        only_masks=True,
        mask_token_id=MASK,
        vocab_size=VOCAB,
        generator=generator(),
    )
    shifted = backbone.predicting_states(states, batch)
    found = planned_loss(normalized(hidden, 6), shifted, backbone.embed_tokens.weight)
    torch.testing.assert_close(found, wanted)


def test_a_frozen_head_gets_no_gradient_and_states_the_same() -> None:
    states, table = torch.randn(5, 8, generator=generator()), torch.randn(11, 8, generator=generator(1))
    targets, weights = torch.arange(5), torch.ones(5)
    gradients = []
    for is_frozen in (False, True):
        own, head = states.clone().requires_grad_(), table.clone().requires_grad_(not is_frozen)
        weighted_cross_entropy(own, head, targets, weights).backward()
        assert (head.grad is None) == is_frozen
        gradients.append(own.grad)
    assert torch.equal(gradients[0], gradients[1])
