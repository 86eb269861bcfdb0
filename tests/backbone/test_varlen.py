"""Attention over packed tokens: on a CPU through a plain function that does what torch documents, on a GPU for real."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffembed.backbone import Backbone, pack
from diffembed.backbone.fused import FusedBackbone
from diffembed.backbone.varlen import PackedAttention, find_kernel, sequence_starts
from tests.backbone.test_fused import VOCAB, difference, make, sequences
from tests.examples import examples

DIRECTIONS = ["both", "forward", "backward"]
LENGTHS = [1, 7, 7, 16, 17, 40, 80, 3]


def attend_plainly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` as torch 2.11 documents it, one sequence after another."""
    if query.shape[1] != key.shape[1]:
        raise ValueError("query and key must have the same number of heads")
    assert return_aux is None and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert all(x.stride(-1) == 1 for x in (query, key, value))
    assert max_q == int(cu_seq_q.diff().max()) and max_k == int(cu_seq_k.diff().max())
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    left, right = (math.inf if size == -1 else size for size in window_size)
    out = torch.empty_like(query)
    bounds = zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True)
    for rows in (slice(*each) for each in bounds):
        q, k, v = (x[rows].transpose(0, 1).double() for x in (query, key, value))
        length = q.shape[1]
        ahead = torch.arange(length) - torch.arange(length)[:, None]  # from the query's place to the key's
        is_seen = (ahead <= right) & (-ahead <= left)
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~is_seen, -math.inf)
        out[rows] = (scores.softmax(-1) @ v).transpose(0, 1).to(out.dtype)
    return out


def attend_in_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *bounds: Any,
    enable_gqa: bool = False,
    num_splits: Any = None,
    **rest: Any,
) -> Tensor:
    """The same function since torch 2.12: grouped heads where asked for, and no hint but to flash attention 3."""
    if num_splits is not None:
        raise RuntimeError("num_splits requires FA3")
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    return attend_plainly(query, key, value, *bounds, **rest)


KERNELS = [attend_plainly, attend_in_groups]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
@pytest.mark.parametrize("parts", [dict(qk_norm=True), dict(qk_norm=False, qkv_bias=True), dict(qkv_bias=True)])
def test_equals_the_training_path(kernel, direction, num_kv_heads, parts) -> None:
    backbone = make(direction, num_kv_heads=num_kv_heads, **parts)
    assert difference(backbone, FusedBackbone(backbone, kernel=kernel), LENGTHS) < 1e-5


@examples(30)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=9))
def test_any_lengths(lengths) -> None:
    backbone = make("backward")
    assert difference(backbone, FusedBackbone(backbone, kernel=attend_in_groups), lengths) < 1e-5


def test_starts_are_those_of_the_packed_order() -> None:
    batch = pack(sequences([5, 2, 5, 9]))
    assert sequence_starts(batch).tolist() == [0, 2, 7, 12, 21]
    assert sequence_starts(batch)[:-1].tolist() == sorted(batch.starts)


def test_a_cpu_has_no_kernel() -> None:
    config = make().config
    assert find_kernel(config, torch.bfloat16, torch.device("cpu")) is None
    assert find_kernel(config, torch.float32, torch.device("cpu")) is None


def test_torch_has_a_function_with_these_arguments() -> None:
    """What the stand-ins here leave open: that torch's own takes what it is given. It refuses the CPU, and no more."""
    from torch.nn.attention.varlen import varlen_attn

    x_THK = torch.zeros(4, 2, 8, dtype=torch.bfloat16)
    starts = torch.tensor([0, 4], dtype=torch.int32)
    for groups in (1, 2):
        with pytest.raises(NotImplementedError, match="CPU"):
            PackedAttention(varlen_attn, "backward")(x_THK, x_THK[:, :groups], x_THK[:, :groups], starts, 4)


def gpu_backbone(direction: str, **changes) -> Backbone:
    shape = dict(width=256, num_heads=4, num_kv_heads=2, head_width=64, mlp_width=384, max_positions=4096)
    return make(direction, **(shape | changes))


@pytest.mark.gpu
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("parts", [dict(), dict(num_kv_heads=4), dict(qk_norm=False, qkv_bias=True, head_width=128)])
def test_on_a_gpu_bf16_is_close_to_fp32(direction, parts) -> None:
    backbone = gpu_backbone(direction, **parts)
    texts = sequences([1, 2, 9, 9, 200, 1000])
    assert find_kernel(backbone.config, torch.bfloat16, torch.device("cuda")) is not None
    with torch.no_grad():
        exact = backbone(pack(texts))
        found = FusedBackbone(backbone, dtype=torch.bfloat16, device="cuda")(pack(texts, "cuda")).cpu()
        plain = FusedBackbone(backbone, dtype=torch.bfloat16)(pack(texts))
    loss = 1 - F.cosine_similarity(exact, found)
    assert loss.mean() < 1e-3 and loss.max() < 0.02
    assert loss.mean() < 1.2 * (1 - F.cosine_similarity(exact, plain)).mean()


@pytest.mark.gpu
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("changes", [dict(), dict(head_width=36), dict(num_kv_heads=4)])
def test_on_a_gpu_fp32_equals_the_training_path(direction, changes) -> None:
    backbone = gpu_backbone(direction, **changes)
    texts = sequences([1, 7, 7, 300, 1500])
    with torch.no_grad():
        exact = backbone(pack(texts))
        found = FusedBackbone(backbone, dtype=torch.float32, device="cuda")(pack(texts, "cuda")).cpu()
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_on_a_gpu_a_width_that_the_kernel_refuses_takes_the_other_path() -> None:
    backbone = gpu_backbone("both", head_width=36)
    assert find_kernel(backbone.config, torch.bfloat16, torch.device("cuda")) is None
    texts = sequences([3, 50])
    with torch.no_grad():
        exact = backbone(pack(texts))
        found = FusedBackbone(backbone, dtype=torch.bfloat16, device="cuda")(pack(texts, "cuda")).cpu()
    assert F.cosine_similarity(exact, found).min() > 0.98


@pytest.mark.gpu
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_on_a_gpu_attention_gives_the_same_bits_in_any_batch(direction) -> None:
    lengths = [1, 5, 64, 200, 3000]
    kernel = find_kernel(gpu_backbone(direction).config, torch.bfloat16, torch.device("cuda"))
    assert kernel is not None
    attend = PackedAttention(kernel, direction)
    generator = torch.Generator("cuda").manual_seed(0)
    parts = [
        torch.randn(n, 8, 64, generator=generator, device="cuda", dtype=torch.bfloat16).split((4, 2, 2), 1)
        for n in lengths
    ]
    together = attend(*(torch.cat(x) for x in zip(*parts, strict=True)), starts_of(lengths), max(lengths))
    for n, part, out in zip(lengths, parts, together.split(lengths), strict=True):
        assert torch.equal(attend(*part, starts_of([n]), n), out)


def starts_of(lengths: list[int]) -> Tensor:
    return sequence_starts(pack([[0] * n for n in lengths], "cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_on_a_gpu_a_text_hardly_depends_on_its_batch(direction) -> None:
    """The products' order of summation may change with the number of rows, so bits are not promised."""
    engine = FusedBackbone(gpu_backbone(direction), dtype=torch.bfloat16, device="cuda")
    texts = sequences([4, 300, 1000])
    batch = pack(texts, "cuda")
    for text, states in zip(texts, batch.split(engine(batch)), strict=True):
        assert F.cosine_similarity(engine(pack([text], "cuda")), states).min() > 0.999


@pytest.mark.gpu
@pytest.mark.parametrize(("direction", "first", "last"), [("both", 1, 1), ("forward", 0, 1), ("backward", 1, 0)])
def test_on_a_gpu_who_sees_whom(direction, first, last) -> None:
    engine = FusedBackbone(gpu_backbone(direction), dtype=torch.bfloat16, device="cuda")
    [text] = sequences([500])
    base = engine(pack([text], "cuda"))
    ahead = engine(pack([[*text[:-1], (text[-1] + 1) % VOCAB]], "cuda"))
    behind = engine(pack([[(text[0] + 1) % VOCAB, *text[1:]]], "cuda"))
    assert bool((ahead[:-1] != base[:-1]).any()) == bool(first)
    assert bool((behind[1:] != base[1:]).any()) == bool(last)
