"""Attention over packed tokens in one call: torch's kernel for sequences of different lengths, on GPUs.

Shape letters: T packed tokens, H query heads, G key/value heads, K head width, B sequences.
"""

import inspect
import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.packed import PackedBatch

# A function with the arguments of torch.nn.attention.varlen.varlen_attn.
Kernel = Callable[..., Any]
# Tokens to the left and to the right that a token sees; -1 is all of them.
WINDOWS: dict[Direction, tuple[int, int]] = {"both": (-1, -1), "forward": (-1, 0), "backward": (0, -1)}
# What torch's kernel takes (flash attention 2).
MAX_HEAD_WIDTH, HEAD_WIDTH_STEP = 256, 8
LEAST_CAPABILITY = (8, 0)


def find_kernel(config: BackboneConfig, dtype: torch.dtype, device: torch.device) -> Kernel | None:
    """torch's own function, where it can compute this; else None."""
    width = config.head_width
    if device.type != "cuda" or dtype != torch.bfloat16 or width > MAX_HEAD_WIDTH or width % HEAD_WIDTH_STEP:
        return None
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return None
    if not torch.backends.cuda.is_flash_attention_available():
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch calls it a prototype: it may move
        return None
    return varlen_attn


class PackedAttention:
    """Attention in which no sequence of a packed batch sees another one.

    With flash attention 2, torch's own, a sequence has the same output, bit for bit, whatever else is in its batch.

    Args:
        kernel: torch's function, of any version since 2.11, or one that does the same.
        direction: Where a token may look.
    """

    def __init__(self, kernel: Kernel, direction: Direction) -> None:
        known = inspect.signature(kernel).parameters
        self._kernel = kernel
        self._has_groups = "enable_gqa" in known  # since 2.12
        # Scores are in base 2, and the kernel raises e to them.
        self._options: dict[str, Any] = {"scale": math.log(2.0), "window_size": WINDOWS[direction]}
        # Flash attention 3 splits the keys by what else is in the batch. Version 2 doesn't split packed keys, and in
        # torch 2.12 it refuses to be told so.
        if "num_splits" in known and _implementation() == "FA3":
            self._options["num_splits"] = 1

    def __call__(self, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Compute (T, H, K) sums of values.

        Args:
            q_THK: Queries, rotated, scaled for scores in base 2.
            k_TGK: Keys, rotated; G divides H.
            v_TGK: Values.
            starts: Of `sequence_starts`.
            longest: Tokens of the longest sequence.
        """
        repeats = q_THK.shape[1] // k_TGK.shape[1]
        options = self._options
        if repeats > 1 and self._has_groups:
            options = options | {"enable_gqa": True}
        elif repeats > 1:
            k_TGK, v_TGK = (x.repeat_interleave(repeats, dim=1) for x in (k_TGK, v_TGK))
        return self._kernel(q_THK, k_TGK, v_TGK, starts, starts, longest, longest, **options)


def sequence_starts(batch: PackedBatch) -> Tensor:
    """Where each sequence begins in packed order, and where the last one ends: int32, (B + 1,)."""
    lengths = (group.length for group in batch.groups for _ in range(group.count))
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=batch.ids_T.device)


def _implementation() -> str | None:
    """Of flash attention, where the process chose one in place of torch's own."""
    try:
        from torch.nn.attention import current_flash_attention_impl
    except ImportError:
        return None
    return current_flash_attention_impl()
