"""The inference path against the training path."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from diffembed.backbone import Backbone, BackboneConfig, pack
from diffembed.backbone import fused as fused_module
from diffembed.backbone.fused import EXP2_SAFE_BOUND, WHOLE_SCORES_MAX_LENGTH, FusedBackbone
from diffembed.backbone.tiles import exact_tiles, padded_tiles, rounded_length, rounded_rows
from tests.examples import examples

VOCAB = 60
lengths_lists = st.lists(st.integers(1, 70), min_size=1, max_size=9)


def make(direction="both", *, gain: float = 1.0, **changes) -> Backbone:
    shape = dict(
        vocab_size=VOCAB,
        width=32,
        num_layers=2,
        num_heads=6,
        num_kv_heads=2,
        head_width=8,
        mlp_width=48,
        max_positions=80,
    )
    backbone = Backbone(BackboneConfig(**(shape | changes), direction=direction))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5 * gain, 1.5 * gain, generator=generator)
            else:
                parameter.normal_(0.0, 0.15, generator=generator)
    return backbone.eval()


def sequences(lengths: list[int]) -> list[list[int]]:
    return [torch.randint(VOCAB, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in lengths]


def difference(backbone: Backbone, engine: FusedBackbone, lengths: list[int]) -> float:
    batch = pack(sequences(lengths))
    with torch.no_grad():
        return (backbone(batch) - engine(batch)).abs().max().item()


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_equals_the_training_path(direction, num_kv_heads) -> None:
    backbone = make(direction, num_kv_heads=num_kv_heads)
    assert difference(backbone, FusedBackbone(backbone), [1, 7, 7, 16, 17, 40, 80, 3]) < 1e-5


@examples(30)
@given(lengths_lists)
def test_padded_tiles_change_nothing(lengths) -> None:
    backbone = make()
    engine = FusedBackbone(backbone)
    with pytest.MonkeyPatch.context() as patch:  # tiles are padded for bf16 alone, where 1e-5 can't be seen
        patch.setattr(fused_module, "exact_tiles", padded_tiles)
        assert difference(backbone, engine, lengths) < 1e-5


@pytest.mark.parametrize("tiles", [exact_tiles, padded_tiles])
def test_scores_too_large_for_a_plain_exponential(tiles, monkeypatch) -> None:
    backbone = make(gain=12.0)
    engine = FusedBackbone(backbone)
    assert engine._layers[0].score_bound > 3 * EXP2_SAFE_BOUND
    monkeypatch.setattr(fused_module, "exact_tiles", tiles)
    batch = pack(sequences([1, 5, 30, 64]))
    with torch.no_grad():
        expected, found = backbone(batch), engine(batch)
    # Scores of hundreds are known to 1e-4 in fp32, whoever computes them.
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_the_bound_holds() -> None:
    backbone = make(gain=3.0)
    attention = backbone.layers[0].self_attn
    states = torch.randn(500, 32)
    q = attention.q_norm(attention.q_proj(states).unflatten(-1, (-1, 8)))
    k = attention.k_norm(attention.k_proj(states).unflatten(-1, (-1, 8)))
    largest = (q.flatten(0, 1) @ k.flatten(0, 1).T).abs().max().item() * 8**-0.5 / torch.log(torch.tensor(2.0)).item()
    assert 0.5 * FusedBackbone(backbone)._layers[0].score_bound < largest
    assert largest <= FusedBackbone(backbone)._layers[0].score_bound


def test_long_sequences_take_the_fused_kernel() -> None:
    longest = WHOLE_SCORES_MAX_LENGTH + 20
    backbone = make(max_positions=longest, num_layers=1)
    assert difference(backbone, FusedBackbone(backbone), [3, longest]) < 1e-5


def block_attention(heads_BGRLK: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(heads_BGRLK[:, :, :-2])
    fused_module._block_attention(heads_BGRLK, out, fused_module._Workspace(heads_BGRLK, (out, out)))
    return out


@pytest.mark.parametrize("length", [1, 255, 512, 513, 1300])
@pytest.mark.parametrize(("groups", "repeats"), [(1, 1), (2, 3)])
def test_blocks_add_up_to_attention(length, groups, repeats) -> None:
    heads = torch.randn(2, groups, repeats + 2, length, 8)
    q, k, v = heads.split((repeats, 1, 1), dim=2)
    expected = (q @ k.transpose(-1, -2) * torch.log(torch.tensor(2.0))).softmax(-1) @ v
    torch.testing.assert_close(block_attention(heads), expected, atol=1e-5, rtol=1e-4)


def test_blocks_in_bf16_are_as_exact_as_torchs_kernel(monkeypatch) -> None:
    length = WHOLE_SCORES_MAX_LENGTH + 300
    backbone = make(max_positions=length, num_layers=4)
    engine = FusedBackbone(backbone, dtype=torch.bfloat16)
    batch = pack(sequences([length]))
    with torch.no_grad():
        exact = backbone(batch)
        loss = 1 - F.cosine_similarity(exact, engine(batch)).mean()
        monkeypatch.setattr(fused_module, "EXP2_SAFE_BOUND", -1.0)  # scores that might overflow are left to the kernel
        kernel_loss = 1 - F.cosine_similarity(exact, engine(batch)).mean()
    assert loss != kernel_loss
    assert loss < 1.2 * kernel_loss < 1e-3


def test_bf16_is_close_and_at_least_as_exact_as_the_training_path() -> None:
    backbone = make(num_layers=4)
    batch = pack(sequences([1, 2, 9, 9, 33, 70, 80]))
    with torch.no_grad():
        exact = backbone(batch)
        engine = FusedBackbone(backbone, dtype=torch.bfloat16)(batch)
        plain = Backbone.from_weights(
            backbone.config, {name: p.detach().bfloat16() for name, p in backbone.named_parameters()}
        )(batch)
    assert engine.dtype == torch.float32
    loss = 1 - F.cosine_similarity(exact, engine).mean()
    assert loss < 1e-3
    assert loss < 1.2 * (1 - F.cosine_similarity(exact, plain.float()).mean())


def test_later_training_does_not_reach_it() -> None:
    backbone = make()
    engine = FusedBackbone(backbone)
    batch = pack(sequences([5, 9]))
    before = engine(batch)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert torch.equal(engine(batch), before)


def test_too_long() -> None:
    backbone = make()
    with pytest.raises(ValueError, match="81 tokens exceeds max_positions = 80"):
        FusedBackbone(backbone)(pack([[0] * 81]))


@given(st.lists(st.integers(1, 900), min_size=1, max_size=40))
def test_tiles_hold_each_token_once_in_few_shapes(lengths) -> None:
    batch = pack([[0] * n for n in lengths])
    tiling = padded_tiles(batch)
    sources = tiling.sources_N
    assert sources[tiling.targets_T].tolist() == list(range(batch.num_tokens))
    assert sum(tile.num_rows for tile in tiling.tiles) == len(sources)
    start = 0
    for tile in tiling.tiles:
        assert tile.count.bit_count() == 1
        assert tile.length == rounded_length(tile.length)
        rows = sources[start : start + tile.num_rows].view(tile.count, tile.length)
        is_real = rows < batch.num_tokens
        assert is_real.all() if tile.is_real_BL is None else torch.equal(is_real, tile.is_real_BL)
        for row, real in zip(rows, is_real, strict=True):
            tokens = row[real]
            assert batch.positions_T[tokens].tolist() == list(range(len(tokens))), "one whole sequence, from its start"
        start += tile.num_rows


def test_few_lengths_and_little_padding() -> None:
    assert len({rounded_length(n) for n in range(1, 1025)}) == 32
    assert all(n <= rounded_length(n) <= max(n + 15, 1.15 * n) for n in range(1, 1025))
    assert all(n <= rounded_rows(n) <= max(n + 15, 1.25 * n) for n in range(1, 4000))


def test_a_tile_may_be_rounded_up_past_the_last_position() -> None:
    """In bf16 lengths are rounded up; the longest sequence that the model takes must still fit."""
    backbone = make(max_positions=70)
    assert rounded_length(70) > 70
    batch = pack(sequences([70, 69]))
    states = FusedBackbone(backbone, dtype=torch.bfloat16)(batch)
    with torch.no_grad():
        assert F.cosine_similarity(states, backbone(batch)).min() > 0.99
