"""How many tokens go through the engine at a time, and what that takes in memory.

Shape letters: T packed tokens, D width, H query heads, G key/value heads, K head width.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffembed.backbone import BackboneConfig, PackedBatch, pack
from diffembed.backbone.fused import WHOLE_SCORES_MAX_LENGTH
from diffembed.backbone.packed import split_by_tokens
from diffembed.backbone.varlen import find_kernel
from diffembed.errors import ConfigError

# A CPU wants what stays in its caches (1,024 and 2,048 measured equal, 512 and 4,096 slower). Fixed: runs repeat.
CPU_BATCH_TOKENS = 2_048
# A GPU wants enough to be busy. This is taken as long as a call fits into one batch; longer ones look for the best.
GPU_BATCH_TOKENS = 32_768
PROBE_TOKENS = (2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072)
# A batch of twice the size must be so much faster per token, or the smaller one will do.
LEAST_GAIN = 1.05
# Of the free memory; the rest is for what the estimate doesn't know.
MEMORY_SHARE = 0.7


class Engine(Protocol):
    """What turns packed tokens into (T, D) fp32 states: a `FusedBackbone`."""

    config: BackboneConfig
    dtype: torch.dtype
    device: torch.device

    def __call__(self, batch: PackedBatch) -> Tensor: ...


class Budget:
    """The size of an engine's batches: fixed on a CPU, found on a GPU, lowered when memory runs out.

    Args:
        engine: What computes the batches.
        tokens: Of a batch; when absent the device's.
    """

    def __init__(self, engine: Engine, tokens: int | None = None) -> None:
        is_cpu = engine.device.type == "cpu"
        self._engine = engine
        self._tokens = tokens or (CPU_BATCH_TOKENS if is_cpu else GPU_BATCH_TOKENS)
        self._is_found = bool(tokens) or is_cpu
        # Set when memory ran out: also batches that were cut before must be no larger.
        self._most: int | None = None

    def tokens_for(self, lengths: Sequence[int]) -> int:
        """Most tokens of a batch; the first call on a GPU for which it matters looks for the best.

        Args:
            lengths: Of the sequences at hand.
        """
        if not self._is_found and sum(lengths) > self._tokens:
            self._is_found = True
            found = find_batch_tokens(
                self._engine, lengths, clock=self._clock, free_bytes=free_bytes(self._engine.device)
            )
            self._tokens = min(found, self._most or found)
        return self._tokens

    def states(self, sequences: Sequence[Sequence[int]]) -> Iterator[tuple[slice, Tensor]]:
        """Compute the states of a batch, in one part or, where memory is short, in several.

        Args:
            sequences: Sorted by length.

        Yields:
            Which of the batch's tokens, and their (tokens, D) states, in the order of the sequences.

        Raises:
            ConfigError: A single sequence doesn't fit into memory.
        """
        lengths = [len(sequence) for sequence in sequences]
        todo = [slice(0, len(sequences))]
        if self._most is not None:
            todo = list(split_by_tokens(lengths, self._most))[::-1]
        start = 0
        while todo:
            part = todo.pop()
            num_tokens = sum(lengths[part])
            states_TD = self._try(sequences[part])
            if states_TD is not None:
                yield slice(start, start + num_tokens), states_TD
                start += num_tokens
                del states_TD  # room for the next ones
                continue
            if part.stop - part.start == 1:
                raise ConfigError(
                    f"a sequence of {num_tokens} tokens does not fit into the memory of {self._engine.device}",
                    hint="free memory there, or use device='cpu'",
                )
            self._tokens = self._most = min(self._tokens, self._most or self._tokens, max(1, num_tokens // 2))
            middle = part.start + _middle(lengths[part])
            todo += [slice(middle, part.stop), slice(part.start, middle)]

    def _try(self, sequences: Sequence[Sequence[int]]) -> Tensor | None:
        """States, or None if memory ran out. What the engine had taken by then is free again when this returns."""
        try:
            return self._engine(pack(sequences, self._engine.device))
        except torch.OutOfMemoryError:
            pass
        if self._engine.device.type == "cuda":
            torch.cuda.empty_cache()  # blocks of other sizes stand in the way
        return None

    def _clock(self) -> float:
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize(self._engine.device)
        return time.perf_counter()


def find_batch_tokens(engine: Engine, lengths: Sequence[int], *, clock: Callable[[], float], free_bytes: float) -> int:
    """The smallest batch that is nearly as fast per token as any that fits.

    Batches of the lengths at hand are timed, each twice as large as the one before, until that no longer pays.

    Args:
        engine: What computes them.
        lengths: Of the sequences at hand.
        clock: Seconds, once the device has done its work.
        free_bytes: What a batch may take.
    """
    ordered, total = sorted(lengths), sum(lengths)
    best_tokens, best_rate = PROBE_TOKENS[0], 0.0
    for tokens in PROBE_TOKENS:
        if tokens > PROBE_TOKENS[0] and tokens > total:
            break  # there's no such batch
        count = max(1, len(ordered) * tokens // total)
        # Evenly over the sorted lengths, so that they are spread as all are.
        batch_lengths = [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]
        num_tokens = sum(batch_lengths)
        need = estimate(engine.config, num_tokens, batch_lengths[-1], dtype=engine.dtype, device=engine.device)
        if need.activations > MEMORY_SHARE * free_bytes:
            break
        try:
            rate = _rate(engine, pack([[0] * length for length in batch_lengths], engine.device), clock)
        except torch.OutOfMemoryError:
            break
        if rate < LEAST_GAIN * best_rate:
            break
        best_tokens, best_rate = max(tokens, num_tokens), rate
    return best_tokens


def _rate(engine: Engine, batch: PackedBatch, clock: Callable[[], float]) -> float:
    """Tokens per second: the better of two runs, after one that takes memory and picks kernels."""
    engine(batch)
    seconds = []
    for _ in range(2):
        started = clock()
        engine(batch)
        seconds.append(clock() - started)
    return batch.num_tokens / max(min(seconds), 1e-9)


def _middle(lengths: Sequence[int]) -> int:
    """Where to cut a list of two or more so that both parts have about as many tokens, and one sequence at least."""
    half, total = sum(lengths) / 2, 0
    for number, length in enumerate(lengths[:-1]):
        total += length
        if total >= half:
            return number + 1
    return len(lengths) - 1


def free_bytes(device: torch.device) -> float:
    """Memory of a GPU that a batch could take, what torch holds in reserve included; without end elsewhere."""
    if device.type != "cuda":
        return float("inf")
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserve


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that an engine takes; good to a factor of two."""

    weights: int
    """As long as it lives."""
    activations: int
    """At the peak of a batch, its states included."""

    @property
    def total(self) -> int:
        return self.weights + self.activations


def estimate(
    config: BackboneConfig, num_tokens: int, longest: int, *, dtype: torch.dtype, device: torch.device | str
) -> Estimate:
    """Predict an engine's memory from the sizes of its buffers.

    Args:
        config: Of the backbone.
        num_tokens: T of the batch.
        longest: Tokens of its longest sequence.
        dtype: Of the products.
        device: Where it computes.
    """
    device, size = torch.device(device), dtype.itemsize
    width, mlp = config.width, config.mlp_width
    queries, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    qkv = queries + 2 * keys
    per_layer = width * (qkv + queries + 3 * mlp)
    weights = size * (config.vocab_size * width + config.num_layers * per_layer)
    # The residual stream and the norms' columns are fp32; normed states and the widest product share two buffers.
    per_token = 4 * (width + 2 * config.num_heads) + size * (width + max(qkv, 2 * mlp))
    if device.type == "cpu" and dtype != torch.float32:
        per_token += 4 * width  # there, torch casts between number formats by way of a copy
    if find_kernel(config, dtype, device) is not None:
        # Rotated heads, repeated keys and values (torch 2.11), output and its logarithms of sums, angles.
        per_token += size * (queries + keys + 2 * queries + queries + config.head_width) + 4 * config.num_heads
    else:
        # Tiles, their rotated heads, outputs in the order of the tiles and in that of the tokens.
        per_token += size * (2 * qkv + 2 * queries)
        is_whole = device.type == "cpu" and config.direction == "both" and config.qk_norm
        if is_whole and longest <= WHOLE_SCORES_MAX_LENGTH:
            per_token += size * (queries + config.num_heads * longest)  # sums of values, scores
        else:
            per_token += size * 2 * queries  # queries and output as torch's kernel has them
            per_token += 0 if device.type == "cpu" else size * 2 * queries  # repeated keys and values
    return Estimate(weights=weights, activations=num_tokens * per_token)
