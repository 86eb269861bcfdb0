"""The backbone for inference: fewer and larger products, no autograd, buffers that are used again.

It computes what `Backbone.forward` computes. What differs is how:

- q, k and v are one product, gate and up another; the norms' learned weights are folded into them in fp32.
- A layer writes into the buffers of the one before it.
- The residual stream stays fp32 while the products run in the dtype of the weights.
- On a CPU, attention over short sequences is two batched products. torch 2.13's fused kernel takes three times as long
  in bf16 at 32-512 tokens. In bf16 the same is done for long ones, block by block.
- On a GPU, attention over all sequences of a batch is one call, without tiles or padding.

Shape letters: T packed tokens, D width, H query heads, G key/value heads, R = H / G, K head width, B sequences,
L length.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from diffembed.backbone.layers import Attention, Layer, RMSNorm, rotary_tables
from diffembed.backbone.packed import PackedBatch
from diffembed.backbone.tiles import Tile, Tiling, exact_tiles, padded_tiles, rounded_length, rounded_rows
from diffembed.backbone.transformer import Backbone
from diffembed.backbone.varlen import Kernel, PackedAttention, find_kernel, sequence_starts

# Longest sequence whose scores are held as a whole on a CPU (H x L x L of them); beyond it memory counts for more.
WHOLE_SCORES_MAX_LENGTH = 1024
# Longer ones: queries and keys of a block of scores, which stays in the cache.
BLOCK_QUERIES, BLOCK_KEYS = 256, 512
# 2**100 is far from overflow (2**127), and so is a sum of a billion such numbers.
EXP2_SAFE_BOUND = 100.0


class _Workspace:
    """Buffers by name for one batch: the layers share them, so the memory they touch stays in cache.

    Args:
        like: Of the dtype and on the device that they shall have.
        rotary: Cosine and sine of each position.
    """

    def __init__(self, like: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
        self.rotary = rotary
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor that is valid until the same name is taken again."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = self._like.new_empty(size)
        return buffer[:size].view(shape)


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """Weights of one layer, transposed for `x @ weight`."""

    qkv: Tensor
    """(D, G * (R + 2) * K): for each key head its R query heads, then the key, then the value. Where a kernel attends
    to packed tokens: all query heads, then all keys, then all values."""
    qkv_bias: Tensor | None
    """(G * (R + 2) * K,), in the same order."""
    o: Tensor
    gate_up: Tensor
    down: Tensor
    gains_RK: Tensor | None
    """(R + 1, K), or (H + G, K): learned weights of qk-norm in that order too, the softmax scale within those of the
    queries. Without qk-norm the scale is in the weights of the queries."""
    score_bound: float
    """No score can be larger: qk-norm leaves every query and key at most this long."""


class FusedBackbone:
    """Inference-only twin of a `Backbone`. It keeps copies, so later changes of the backbone do not reach it.

    Args:
        backbone: Where the weights come from, of any dtype.
        dtype: Of the products; that of the backbone when absent.
        device: Where it computes; that of the backbone when absent.
        kernel: Attention over packed tokens; when absent torch's, where it has one for this shape, dtype and device.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        table = backbone.embed_tokens.weight.detach()
        self.config = backbone.config
        self.dtype = dtype or table.dtype
        self.device = torch.device(device) if device is not None else table.device
        kernel = kernel or find_kernel(self.config, self.dtype, self.device)
        self._packed = PackedAttention(kernel, self.config.direction) if kernel is not None else None
        # The heads of qkv stand in blocks, each with the same number of queries, keys and values.
        self._num_blocks = 1 if self._packed else self.config.num_kv_heads
        # Without qk-norm scores may be large, and bf16 has too few digits for them outside torch's kernel.
        self._has_whole_scores = (
            self._packed is None
            and self.device.type == "cpu"
            and self.config.direction == "both"
            and self.config.qk_norm
        )
        self._table = self._copy(table)
        self._layers = [self._fuse(layer) for layer in backbone.layers]  # type: ignore[arg-type]
        self._final_gain = backbone.norm.weight.detach().to(self.device, torch.float32, copy=True)
        self._rotary: tuple[Tensor, Tensor] = (table.new_empty(0), table.new_empty(0))

    @property
    def is_batch_exact(self) -> bool:
        """Whether a sequence has the same states, bit for bit, whatever else is in its batch.

        In tiles it has: products of bf16 are summed in fp32, in an order that doesn't depend on the number of rows. It
        is what tests see, on the CPUs that we have, and nothing that a library promises.
        """
        is_tiled = self._has_whole_scores and self.config.max_positions <= WHOLE_SCORES_MAX_LENGTH
        return is_tiled and self.dtype == torch.bfloat16

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch) -> Tensor:
        """Compute the (T, D) fp32 states of a packed batch on this device, after the final norm.

        Raises:
            ValueError: A sequence is longer than the configuration's `max_positions`.
        """
        longest = batch.groups[-1].length
        if longest > self.config.max_positions:
            raise ValueError(f"a sequence of {longest} tokens exceeds max_positions = {self.config.max_positions}")
        # Tiles are rounded up, perhaps past the last position; the rows there are padding.
        workspace = _Workspace(self._table, self._rotary_up_to(rounded_length(longest)))
        if self._packed is not None:
            cos_T1K, sin_T1K = (table[batch.positions_T, None] for table in workspace.rotary)
            starts = sequence_starts(batch)
            attend = partial(self._attend_packed, cos_T1K=cos_T1K, sin_T1K=sin_T1K, starts=starts, longest=longest)
            num_rows = batch.num_tokens
        else:
            is_whole = self._has_whole_scores and longest <= WHOLE_SCORES_MAX_LENGTH
            tiling = padded_tiles(batch) if is_whole and self.dtype == torch.bfloat16 else exact_tiles(batch)
            attend = partial(self._attend_tiles, tiling=tiling, is_whole=is_whole)
            num_rows = rounded_rows(batch.num_tokens + 1)
        x_TD = torch.zeros(num_rows, self.config.width, device=self.device)
        x_TD[: batch.num_tokens] = F.embedding(batch.ids_T, self._table)
        for layer in self._layers:
            self._attention(x_TD, batch.num_tokens, layer, attend, workspace)
            self._mlp(x_TD, layer, workspace)
        x_TD = x_TD[: batch.num_tokens]
        return self._norm(x_TD, x_TD).mul_(self._final_gain)

    def _attention(
        self, x_TD: Tensor, num_tokens: int, layer: FusedLayer, attend: Callable[..., Tensor], workspace: _Workspace
    ) -> None:
        qkv_T = self._product("wide", self._normed(x_TD, workspace), layer.qkv, workspace)
        if layer.qkv_bias is not None:  # padding must stay zero: tiles take their keys and values from there
            qkv_T[:num_tokens].add_(layer.qkv_bias)
        if layer.gains_RK is not None:
            num_keys = self.config.num_kv_heads // self._num_blocks
            qk_TGRK = qkv_T.view(len(qkv_T), self._num_blocks, -1, self.config.head_width)[:, :, :-num_keys]
            qk_TGRK.mul_(_inverse_rms(qk_TGRK, self.config.norm_eps).to(self.dtype)).mul_(layer.gains_RK)
        self._add_product(x_TD, attend(qkv_T, layer, workspace), layer.o, workspace)

    def _attend_packed(
        self,
        qkv_T: Tensor,
        layer: FusedLayer,
        workspace: _Workspace,
        *,
        cos_T1K: Tensor,
        sin_T1K: Tensor,
        starts: Tensor,
        longest: int,
    ) -> Tensor:
        """All sequences in one call, (T, H * K)."""
        assert self._packed is not None
        config = self.config
        heads = (config.num_heads, config.num_kv_heads)
        qkv_THK = qkv_T.view(len(qkv_T), -1, config.head_width)
        qk_THK, v_TGK = qkv_THK.split((sum(heads), config.num_kv_heads), dim=1)
        rotated_THK = workspace.take("heads", *qk_THK.shape)
        _rotate(qk_THK, cos_T1K, sin_T1K, rotated_THK)
        q_THK, k_TGK = rotated_THK.split(heads, dim=1)
        return self._packed(q_THK, k_TGK, v_TGK, starts, longest).flatten(1)

    def _attend_tiles(
        self, qkv_T: Tensor, layer: FusedLayer, workspace: _Workspace, *, tiling: Tiling, is_whole: bool
    ) -> Tensor:
        """Tile by tile, (rows of qkv_T, H * K); rows beyond the tokens are zero."""
        config, num_tokens = self.config, len(tiling.targets_T)
        qkv_N = workspace.take("tiles", len(tiling.sources_N), qkv_T.shape[1])
        torch.index_select(qkv_T, 0, tiling.sources_N, out=qkv_N)
        out_N = workspace.take("values", len(qkv_N), config.num_heads * config.head_width)
        sizes = [tile.num_rows for tile in tiling.tiles]
        for tile, part_N, tile_out_N in zip(tiling.tiles, qkv_N.split(sizes), out_N.split(sizes), strict=True):
            shape = (tile.count, tile.length, config.num_kv_heads, -1, config.head_width)
            heads_BGRLK = self._rotated(part_N.view(shape).permute(0, 2, 3, 1, 4), workspace)
            out_BGRLK = tile_out_N.view(shape).permute(0, 2, 3, 1, 4)
            if is_whole:
                _whole_attention(heads_BGRLK, tile, layer.score_bound, out_BGRLK, workspace)
            elif self._has_whole_scores and self.dtype == torch.bfloat16 and layer.score_bound <= EXP2_SAFE_BOUND:
                _block_attention(heads_BGRLK, out_BGRLK, workspace)
            else:
                out_BGRLK.copy_(self._fused_attention(heads_BGRLK))
        out_T = workspace.take("narrow", len(qkv_T), out_N.shape[1])
        torch.index_select(out_N, 0, tiling.targets_T, out=out_T[:num_tokens])
        out_T[num_tokens:].zero_()
        return out_T

    def _fused_attention(self, heads_BGRLK: Tensor) -> Tensor:
        """torch's own kernel: causal directions, long sequences, fp32 on a GPU."""
        is_backward = self.config.direction == "backward"
        if is_backward:
            heads_BGRLK = heads_BGRLK.flip(3)
        count, num_groups, rows, length, width = heads_BGRLK.shape
        q_BHLK = heads_BGRLK[:, :, :-2].reshape(count, -1, length, width)
        k_BHLK, v_BHLK = heads_BGRLK[:, :, -2], heads_BGRLK[:, :, -1]
        if self.device.type != "cpu":
            # On a GPU, fp32 has no kernel for grouped heads but the one that holds all L x L scores.
            k_BHLK, v_BHLK = (x.repeat_interleave(rows - 2, dim=1) for x in (k_BHLK, v_BHLK))
        out_BHLK = F.scaled_dot_product_attention(
            q_BHLK,
            k_BHLK,
            v_BHLK,
            is_causal=self.config.direction != "both",
            scale=math.log(2.0),  # takes the base 2 back
            enable_gqa=k_BHLK.shape[1] < q_BHLK.shape[1],
        )
        out_BGRLK = out_BHLK.view(count, num_groups, rows - 2, length, width)
        return out_BGRLK.flip(3) if is_backward else out_BGRLK

    def _rotated(self, source_BGRLK: Tensor, workspace: _Workspace) -> Tensor:
        """Queries and keys turned by their positions' angles, and the values as they are: (B, G, R + 2, L, K)."""
        target_BGRLK = workspace.take("heads", *source_BGRLK.shape)
        cos, sin = (table[: source_BGRLK.shape[3]] for table in workspace.rotary)
        _rotate(source_BGRLK[:, :, :-1], cos, sin, target_BGRLK[:, :, :-1])
        target_BGRLK[:, :, -1].copy_(source_BGRLK[:, :, -1])
        return target_BGRLK

    def _mlp(self, x_TD: Tensor, layer: FusedLayer, workspace: _Workspace) -> None:
        gate_up = self._product("wide", self._normed(x_TD, workspace), layer.gate_up, workspace)
        gate, up = gate_up.chunk(2, dim=-1)
        self._add_product(x_TD, F.silu(gate, inplace=True).mul_(up), layer.down, workspace)

    def _normed(self, x_TD: Tensor, workspace: _Workspace) -> Tensor:
        return self._norm(x_TD, workspace.take("normed", *x_TD.shape))

    def _norm(self, x_TD: Tensor, out_TD: Tensor) -> Tensor:
        """Unit root mean square in fp32; the learned weights are folded into what comes next."""
        return torch.mul(x_TD, _inverse_rms(x_TD, self.config.norm_eps), out=out_TD)

    def _product(self, name: str, x: Tensor, weight: Tensor, workspace: _Workspace) -> Tensor:
        return torch.mm(x, weight, out=workspace.take(name, len(x), weight.shape[1]))

    def _add_product(self, x_TD: Tensor, y: Tensor, weight: Tensor, workspace: _Workspace) -> None:
        if self.dtype == torch.float32:
            x_TD.addmm_(y, weight)
        else:
            x_TD.add_(self._product("normed", y, weight, workspace))

    def _rotary_up_to(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of so many positions at least; grown when a longer sequence comes."""
        tables = self._rotary
        if len(tables[0]) < length:
            # Made in full, then put in place: threads share an engine.
            cos, sin = rotary_tables(self.config, 1 << (length - 1).bit_length())
            tables = self._rotary = (self._copy(cos), self._copy(sin))
        return tables

    def _fuse(self, layer: Layer) -> FusedLayer:
        config, attention, mlp = self.config, layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        heads = (self._num_blocks, -1, config.head_width)
        scale = config.head_width**-0.5 * math.log2(math.e)
        # Without qk-norm the softmax scale goes into the queries' weights.
        scales = (1.0 if config.qk_norm else scale, 1.0, 1.0)
        parts = zip(projections, scales, strict=True)
        qkv = torch.cat([(x.weight.detach().float() * by).view(*heads, config.width) for x, by in parts], 1)
        bias = None
        if config.qkv_bias:
            parts = zip(projections, scales, strict=True)
            bias = self._copy(torch.cat([(x.bias.detach().float() * by).view(heads) for x, by in parts], 1).flatten())
        gate_up = torch.cat([x.weight.detach().float() for x in (mlp.gate_proj, mlp.up_proj)])
        before_qkv, before_mlp = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        gains, bound = self._gains(attention, scale) if config.qk_norm else (None, math.inf)
        return FusedLayer(
            qkv=self._copy(qkv.flatten(0, 2) * before_qkv.detach().float()).t(),
            qkv_bias=bias,
            o=self._copy(attention.o_proj.weight.detach()).t(),
            gate_up=self._copy(gate_up * before_mlp.detach().float()).t(),
            down=self._copy(mlp.down_proj.weight.detach()).t(),
            gains_RK=gains,
            score_bound=bound,
        )

    def _gains(self, attention: Attention, scale: float) -> tuple[Tensor, float]:
        """Learned weights of qk-norm, and the largest score that they allow."""
        assert isinstance(attention.q_norm, RMSNorm) and isinstance(attention.k_norm, RMSNorm)
        q_gain, k_gain = attention.q_norm.weight.detach().float(), attention.k_norm.weight.detach().float()
        num_queries, num_keys = (n // self._num_blocks for n in (self.config.num_heads, self.config.num_kv_heads))
        gains = self._copy(torch.cat([(q_gain * scale).expand(num_queries, -1), k_gain.expand(num_keys, -1)]))
        # A vector of unit root mean square is sqrt(K) long, before the learned weights.
        return gains, float(q_gain.abs().max() * k_gain.abs().max()) * self.config.head_width * scale

    def _copy(self, x: Tensor) -> Tensor:
        return x.to(device=self.device, dtype=self.dtype, copy=True).contiguous()


def _whole_attention(
    heads_BGRLK: Tensor, tile: Tile, score_bound: float, out_BGRLK: Tensor, workspace: _Workspace
) -> None:
    """Full attention as two batched products; padding has keys and values of zero."""
    count, num_groups, rows, length, width = heads_BGRLK.shape
    repeats = rows - 2
    # The query heads that share a key head are stacked, so each product is one (R * L) x L matrix.
    stacked = heads_BGRLK.view(count * num_groups, rows * length, width)
    q, k, v = stacked.split((repeats * length, length, length), dim=1)
    scores = workspace.take("scores", len(stacked), repeats * length, length)
    torch.bmm(q, k.transpose(1, 2), out=scores)
    is_real = None
    if tile.is_real_BL is not None:
        is_real = tile.is_real_BL[:, None].expand(-1, num_groups, -1).reshape(len(stacked), length)
    if score_bound > EXP2_SAFE_BOUND:
        if is_real is not None:
            scores.masked_fill_(~is_real[:, None], -math.inf)
        scores.sub_(scores.amax(-1, keepdim=True))
    # The base-2 logarithm of e is in the gains: torch's 2**x is up to four times as fast as its e**x. Dividing the sums
    # of values instead of the weights saves a pass over the L x L scores.
    torch.exp2(scores, out=scores)
    sums = scores.sum(-1) if is_real is None else torch.bmm(scores, is_real[..., None].to(scores.dtype))
    values = torch.bmm(scores, v, out=workspace.take("sums", *q.shape))
    shape = (count, num_groups, repeats, length)
    torch.div(values.view(*shape, width), sums.view(*shape, 1), out=out_BGRLK)


def _block_attention(heads_BGRLK: Tensor, out_BGRLK: Tensor, workspace: _Workspace) -> None:
    """The same of long sequences, block by block: bounded scores need no maximum, so blocks just add up."""
    count, num_groups, rows, length, width = heads_BGRLK.shape
    repeats = rows - 2
    q, k, v = heads_BGRLK.view(count * num_groups, rows, length, width).split((repeats, 1, 1), dim=1)
    keys, values = k[:, 0].transpose(1, 2).split(BLOCK_KEYS, dim=2), v[:, 0].split(BLOCK_KEYS, dim=1)
    for q_block, out_block in zip(q.split(BLOCK_QUERIES, 2), out_BGRLK.split(BLOCK_QUERIES, 3), strict=True):
        stacked = q_block.flatten(1, 2)
        totals = torch.zeros(*stacked.shape, dtype=torch.float32)
        sums = torch.zeros(*stacked.shape[:2], dtype=torch.float32)
        for k_block, v_block in zip(keys, values, strict=True):
            scores = workspace.take("scores", *stacked.shape[:2], k_block.shape[2])
            torch.bmm(stacked, k_block, out=scores)
            torch.exp2(scores, out=scores)
            sums += scores.sum(-1)  # added up in fp32, rounded once a block: twice as fast as a result in fp32
            totals += torch.bmm(scores, v_block, out=workspace.take("sums", *stacked.shape))
        out_block.copy_(totals.div_(sums[..., None]).view(out_block.shape))


def _rotate(source: Tensor, cos: Tensor, sin: Tensor, target: Tensor) -> None:
    """Turn the feature pairs (i, i + K/2) of each head by its position's angle, from one tensor into another."""
    first, second = source.chunk(2, dim=-1)
    to_first, to_second = target.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean square + eps) over the last dimension, kept as a column, fp32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
