"""The backbone in numpy, for a few short texts: done before torch would be imported.

It computes what `Backbone.forward` computes, in fp32.

Shape letters: T packed tokens, L tokens of one sequence, D width, H query heads, G key/value heads, R = H / G, K head
width.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from diffembed.backbone.config import BackboneConfig, Direction
from diffembed.backbone.config_files import from_hugging_face
from diffembed.backbone.rotary import rotary_frequencies
from diffembed.configs import read_json
from diffembed.errors import DiffembedError

# Named once more, because the modules that write these files import torch.
CONFIG_FILE, WEIGHTS_FILE, COMPACT_FILE = "config.json", "model.safetensors", "model.int8.safetensors"
SCALE_SUFFIX = ".scale"
TABLE = "embed_tokens.weight"
# Larger weights are read and multiplied so much faster by torch that its import is soon earned.
MOST_WEIGHT_BYTES = 200_000_000

Floats = NDArray[Any]
"""fp32. numpy 2.4's stubs take products of fp32 arrays for fp64, so that the type cannot say it."""


class Unsupported(Exception):
    """What the numpy engine leaves to torch: take `Embedder`, which can do it or says what is wrong."""


class QuickBackbone:
    """A backbone for inference, with its layers in memory and its embedding table on disk.

    Use `open` to make one.

    Args:
        config: Shape and direction.
        path: The safetensors file.
        is_packed: Its matrices are int8 with a scale for each row.
    """

    def __init__(self, config: BackboneConfig, path: Path, *, is_packed: bool) -> None:
        self.config = config
        self._is_packed = is_packed
        self._file: Any = safe_open(path, framework="numpy")
        _check_weights(self._file, config, is_packed)
        self._scales = self._file.get_tensor(TABLE + SCALE_SUFFIX) if is_packed else None
        self._final_gain = self._read("norm.weight")
        names = _layer_shapes(config)
        self._layers = [
            {name: self._read(f"layers.{number}.{name}") for name in names} for number in range(config.num_layers)
        ]

    @classmethod
    def open(cls, folder: Path) -> "QuickBackbone":
        """Read config.json and the weights that lie beside it, fp32 or our int8.

        Raises:
            Unsupported: A file is missing, damaged, foreign or large, or its numbers are of another kind.
        """
        is_packed = not (folder / WEIGHTS_FILE).is_file() and (folder / COMPACT_FILE).is_file()
        path = folder / (COMPACT_FILE if is_packed else WEIGHTS_FILE)
        try:
            family, config = from_hugging_face(read_json(folder / CONFIG_FILE))
            if family.names:
                raise Unsupported(f"{path} has {family.title}'s names")
            if path.stat().st_size > MOST_WEIGHT_BYTES:
                raise Unsupported(f"{path} is larger than {MOST_WEIGHT_BYTES:,} bytes")
            return cls(config, path, is_packed=is_packed)
        except (DiffembedError, SafetensorError, OSError) as error:
            raise Unsupported(f"{path} and {CONFIG_FILE} cannot be used: {error}") from None

    @property
    def weights_file(self) -> str:
        """Name of the file that the weights are read from."""
        return COMPACT_FILE if self._is_packed else WEIGHTS_FILE

    def look(self, direction: Direction) -> None:
        """Look another way from now on."""
        self.config = replace(self.config, direction=direction)

    def __call__(self, sequences: Sequence[Sequence[int]]) -> Floats:
        """Compute the (T, D) states of sequences laid end to end, after the final norm.

        Args:
            sequences: Token ids of each; none may be empty or longer than the configuration's `max_positions`.
        """
        stops = np.cumsum([len(each) for each in sequences]).tolist()
        spans = [slice(stop - len(each), stop) for each, stop in zip(sequences, stops, strict=True)]
        positions_T = np.concatenate([np.arange(len(each)) for each in sequences])
        # Damaged weights overflow; whoever takes the states looks whether they are numbers.
        with np.errstate(all="ignore"):
            cos_T1K, sin_T1K = self._rotary(positions_T)
            x_TD = self._rows(np.concatenate([np.asarray(each, dtype=np.int64) for each in sequences]))
            for layer in self._layers:
                x_TD = x_TD + self._attention(x_TD, layer, cos_T1K, sin_T1K, spans)
                x_TD = x_TD + self._mlp(x_TD, layer)
            return self._norm(x_TD, self._final_gain)

    def _attention(
        self, x_TD: Floats, layer: dict[str, Floats], cos_T1K: Floats, sin_T1K: Floats, spans: Sequence[slice]
    ) -> Floats:
        normed_TD = self._norm(x_TD, layer["input_layernorm.weight"])
        q, k, v = (normed_TD @ layer[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        if self.config.qkv_bias:
            q, k, v = (x + layer[f"self_attn.{name}_proj.bias"] for x, name in zip((q, k, v), "qkv", strict=True))
        q_THK, k_TGK, v_TGK = (each.reshape(len(each), -1, self.config.head_width) for each in (q, k, v))
        if self.config.qk_norm:
            q_THK = self._norm(q_THK, layer["self_attn.q_norm.weight"])
            k_TGK = self._norm(k_TGK, layer["self_attn.k_norm.weight"])
        q_THK, k_TGK = _rotate(q_THK, cos_T1K, sin_T1K), _rotate(k_TGK, cos_T1K, sin_T1K)
        parts = [_attend(q_THK[span], k_TGK[span], v_TGK[span], self.config.direction) for span in spans]
        return np.concatenate(parts) @ layer["self_attn.o_proj.weight"].T

    def _mlp(self, x_TD: Floats, layer: dict[str, Floats]) -> Floats:
        normed_TD = self._norm(x_TD, layer["post_attention_layernorm.weight"])
        gate = normed_TD @ layer["mlp.gate_proj.weight"].T
        up = normed_TD @ layer["mlp.up_proj.weight"].T
        return (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.down_proj.weight"].T

    def _norm(self, x: Floats, gain: Floats) -> Floats:
        mean_squares = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
        return gain * (x / np.sqrt(mean_squares + np.float32(self.config.norm_eps)))

    def _rotary(self, positions_T: NDArray[np.int64]) -> tuple[Floats, Floats]:
        config = self.config
        frequencies, factor = rotary_frequencies(config.head_width, config.rope_theta, config.rope_scaling)
        angles_T1K = np.multiply.outer(positions_T.astype(np.float32), frequencies)[:, None]
        return np.cos(angles_T1K) * np.float32(factor), np.sin(angles_T1K) * np.float32(factor)

    def _rows(self, ids_T: NDArray[np.int64]) -> Floats:
        """Rows of the embedding table; no other is read or unpacked."""
        unique, back_T = np.unique(ids_T, return_inverse=True)
        table = self._file.get_slice(TABLE)
        rows = np.concatenate([table[number : number + 1] for number in unique.tolist()])
        return (rows if self._scales is None else rows * self._scales[unique])[back_T]

    def _read(self, name: str) -> Floats:
        weight = self._file.get_tensor(name)
        return weight * self._file.get_tensor(name + SCALE_SUFFIX) if weight.dtype == np.int8 else weight


def weight_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of each weight of a backbone."""
    layer = _layer_shapes(config)
    layers = {f"layers.{number}.{name}": shape for number in range(config.num_layers) for name, shape in layer.items()}
    return {TABLE: (config.vocab_size, config.width), **layers, "norm.weight": (config.width,)}


def _layer_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    width, head_width, mlp_width = config.width, config.head_width, config.mlp_width
    queries, keys = config.num_heads * head_width, config.num_kv_heads * head_width
    biases = {"self_attn.q_proj.bias": (queries,), "self_attn.k_proj.bias": (keys,), "self_attn.v_proj.bias": (keys,)}
    norms = {"self_attn.q_norm.weight": (head_width,), "self_attn.k_norm.weight": (head_width,)}
    return {
        "input_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (queries, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, queries),
        **(biases if config.qkv_bias else {}),
        **(norms if config.qk_norm else {}),
        "post_attention_layernorm.weight": (width,),
        "mlp.gate_proj.weight": (mlp_width, width),
        "mlp.up_proj.weight": (mlp_width, width),
        "mlp.down_proj.weight": (width, mlp_width),
    }


def _check_weights(file: Any, config: BackboneConfig, is_packed: bool) -> None:
    """See that a file holds the weights that a configuration asks for, in the one kind that we read, and no others."""
    headers = {name: file.get_slice(name) for name in set(file.keys())}
    found = {name: (header.get_dtype(), tuple(header.get_shape())) for name, header in headers.items()}
    if config.num_layers > len(found):  # a depth that is not believed: a million layers would take minutes to name
        raise Unsupported(f"{config.num_layers} layers are not in the file")
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in weight_shapes(config).items():
        is_int8 = is_packed and len(shape) == 2
        wanted[name] = ("I8" if is_int8 else "F32", shape)
        if is_int8:
            wanted[name + SCALE_SUFFIX] = ("F32", (shape[0], 1))
    if found != wanted:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise Unsupported(f"{len(wrong)} weights are missing, spare or of another kind, {wrong[0]} among them")


def _rotate(x_THK: Floats, cos_T1K: Floats, sin_T1K: Floats) -> Floats:
    first, second = np.split(x_THK, 2, axis=-1)
    return np.concatenate((first * cos_T1K - second * sin_T1K, second * cos_T1K + first * sin_T1K), axis=-1)


def _attend(q_LHK: Floats, k_LGK: Floats, v_LGK: Floats, direction: Direction) -> Floats:
    """Attention inside one sequence, (L, H * K)."""
    length, num_kv_heads, head_width = k_LGK.shape
    q_GRLK = q_LHK.reshape(length, num_kv_heads, -1, head_width).transpose(1, 2, 0, 3)
    scores_GRLL: Floats = (q_GRLK * np.float32(head_width**-0.5)) @ k_LGK.transpose(1, 2, 0)[:, None]
    if direction != "both":
        hidden = np.full((length, length), -np.inf, dtype=np.float32)
        scores_GRLL += np.triu(hidden, 1) if direction == "forward" else np.tril(hidden, -1)
    scores_GRLL -= scores_GRLL.max(axis=-1, keepdims=True)
    np.exp(scores_GRLL, out=scores_GRLL)
    scores_GRLL /= scores_GRLL.sum(axis=-1, keepdims=True)
    out_GRLK = scores_GRLL @ v_LGK.transpose(1, 0, 2)[:, None]
    return out_GRLK.transpose(2, 0, 1, 3).reshape(length, -1)
