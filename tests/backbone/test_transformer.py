"""The backbone against its promises: neighbours do not matter, direction does, gradients are right."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed.backbone import pack
from diffembed.backbone.attention import _KeptWeightsAttention, attend
from diffembed.backbone.packed import LengthGroup
from diffembed.errors import ConfigError
from tests.examples import examples
from tests.tiny_models import VOCAB, random_backbone, tiny


@examples(20)
@given(st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40), min_size=1, max_size=6))
def test_states_do_not_depend_on_neighbours(sequences):
    backbone = random_backbone()
    with torch.no_grad():
        batch = pack(sequences)
        together = batch.split(backbone(batch))
        for ids, states in zip(sequences, together, strict=True):
            torch.testing.assert_close(states, backbone(pack([ids])), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("direction", "first_moves", "last_moves"),
    [("both", True, True), ("forward", False, True), ("backward", True, False)],
)
def test_direction_decides_who_sees_whom(direction, first_moves, last_moves):
    backbone = random_backbone(direction)
    ids = list(range(12))
    with torch.no_grad():
        before = backbone(pack([ids]))
        after_last_changed = backbone(pack([[*ids[:-1], 40]]))
        after_first_changed = backbone(pack([[40, *ids[1:]]]))
    assert bool((before[0] - after_last_changed[0]).abs().max() > 1e-4) is first_moves
    assert bool((before[-1] - after_first_changed[-1]).abs().max() > 1e-4) is last_moves


def test_backward_is_forward_over_the_reversed_sequence():
    # Rotary positions are relative, so the mirror image needs mirrored positions; compare attention alone.
    torch.manual_seed(0)
    groups = (LengthGroup(1, 9),)
    q, k, v = (torch.randn(9, heads, 8) for heads in (4, 2, 2))
    flipped = attend(q.flip(0), k.flip(0), v.flip(0), groups, "forward").flip(0)
    torch.testing.assert_close(attend(q, k, v, groups, "backward"), flipped)


def test_kept_weights_attention_has_the_gradients_of_the_fused_kernel():
    torch.manual_seed(0)
    groups = (LengthGroup(2, 5), LengthGroup(3, 7))
    inputs = [torch.randn(31, heads, 8, dtype=torch.float64, requires_grad=True) for heads in (6, 2, 2)]
    weight = torch.randn(31, 48, dtype=torch.float64)
    kept = attend(*inputs, groups, "both")
    assert "KeptWeights" in type(kept.grad_fn.next_functions[0][0]).__name__
    kept_grads = torch.autograd.grad((kept * weight).sum(), inputs)

    def plain(q, k, v):
        outs, start = [], 0
        for group in groups:
            for _ in range(group.count):
                cut = slice(start, start + group.length)
                keys, values = (x[cut].repeat_interleave(3, dim=1) for x in (k, v))
                scores = torch.einsum("qhk,thk->hqt", q[cut], keys) * 8**-0.5
                outs.append(torch.einsum("hqt,thk->qhk", scores.softmax(-1), values).flatten(1))
                start += group.length
        return torch.cat(outs)

    expected = plain(*inputs)
    torch.testing.assert_close(kept, expected)
    for got, wanted in zip(kept_grads, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(got, wanted)


def test_kept_weights_attention_passes_gradcheck():
    torch.manual_seed(0)
    inputs = [torch.randn(6, heads, 4, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1)]
    assert torch.autograd.gradcheck(lambda q, k, v: _KeptWeightsAttention.apply(q, k, v, (2, 3)), inputs)


def test_training_and_inference_paths_agree():
    backbone = random_backbone()
    batch = pack([[1, 2, 3], list(range(20)), [7, 8, 9]])
    with torch.no_grad():
        inference = backbone(batch)
    torch.testing.assert_close(backbone(batch), inference, atol=1e-5, rtol=0)


def test_pack_remembers_the_order_it_was_given():
    sequences = [[5] * 3, [6], [7] * 3, [8, 8]]
    batch = pack(sequences)
    assert [ids.tolist() for ids in batch.split(batch.ids_T)] == sequences
    assert [(group.count, group.length) for group in batch.groups] == [(1, 1), (1, 2), (2, 3)]
    by_segment = [batch.ids_T[batch.sequence_numbers() == i].tolist() for i in range(4)]
    assert by_segment == sequences


@pytest.mark.parametrize("sequences", [[], [[]], [[1], []]])
def test_pack_refuses_emptiness(sequences):
    with pytest.raises(ValueError, match="at least one"):
        pack(sequences)


def test_a_sequence_past_max_positions_is_refused():
    with pytest.raises(ValueError, match="max_positions = 40"):
        random_backbone()(pack([[1] * 41]))


@pytest.mark.parametrize(
    "change", [{"width": 0}, {"num_kv_heads": 3}, {"head_width": 7}, {"norm_eps": 0.0}, {"max_positions": 0}]
)
def test_impossible_shapes_are_refused(change):
    with pytest.raises(ConfigError):
        tiny(**change)


def test_unknown_direction_is_refused():
    with pytest.raises(ConfigError, match="sideways"):
        tiny("sideways")
