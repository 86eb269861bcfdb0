"""Pooling against loops, number formats against arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import ConfigError
from diffembed.readout.numbers import to_precision
from diffembed.readout.pooling import MeanPool, to_vectors
from diffembed.readout.spec import SKIPPED, check_output


@given(st.lists(st.lists(st.integers(SKIPPED, 4), max_size=12), max_size=4), st.integers(0, 2**31))
def test_means_over_batches_equal_a_loop_over_tokens(batches: list[list[int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pool = MeanPool(5, 3)
    tokens: dict[int, list[torch.Tensor]] = {row: [] for row in range(SKIPPED, 5)}
    for rows in batches:
        states = torch.randn(len(rows), 3, generator=generator)
        pool.add(states, torch.tensor(rows, dtype=torch.int64))
        for row, state in zip(rows, states, strict=True):
            tokens[row].append(state)
    for row, mean in enumerate(pool.means()):
        expected = torch.stack(tokens[row]).mean(0) if tokens[row] else torch.zeros(3)
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=0)


def test_bf16_states_are_summed_in_fp32() -> None:
    pool = MeanPool(1, 1)
    pool.add(torch.ones(1000, 1, dtype=torch.bfloat16), torch.zeros(1000, dtype=torch.int64))
    pool.add(torch.full((1, 1), 2.0, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64))
    assert pool.means().item() == pytest.approx(1002 / 1001, rel=1e-6)  # a bf16 sum stops growing at 256


def test_dims_are_cut_before_the_length_is_set() -> None:
    means = torch.tensor([[3.0, 4.0, 12.0]])
    np.testing.assert_allclose(to_vectors(means, 2), [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(to_vectors(means), [[3 / 13, 4 / 13, 12 / 13]], rtol=1e-6)


@given(st.integers(1, 300), st.integers(0, 2**31))
def test_int8_rows_give_the_vector_back_to_within_half_a_step(dims: int, seed: int) -> None:
    vectors = to_vectors(torch.randn(4, dims, generator=torch.Generator().manual_seed(seed))).numpy()
    small = to_precision(vectors, "int8")
    assert small.dtype == np.int8
    assert (np.abs(small.astype(int)).max(axis=1) == 127).all()
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(small * (largest / 127) - vectors) <= largest / 254 * 1.001).all()
    # The documented way back needs no scale.
    wide = small.astype(np.float32)
    back = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    assert (np.sum(back * vectors, axis=1) > 0.9998).all()


def test_binary_is_one_bit_per_dimension() -> None:
    vectors = np.array([[0.5, -0.1, 0.0, 0.2, -1, -1, -1, 0.1, 0.3]], dtype=np.float32)
    assert to_precision(vectors, "binary").tolist() == [[0b10010001, 0b10000000]]


@pytest.mark.parametrize("dims", [0, -1, 9, 2.0, True, "4"])
def test_dims_out_of_range(dims: object) -> None:
    with pytest.raises(ConfigError, match=r"(?s)dims is .*allowed: 1 to 8"):
        check_output(dims, "float32", width=8)  # type: ignore[arg-type]


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match=r"(?s)precision is 'int4'.*float32, float16, int8, binary"):
        check_output(None, "int4", width=8)
