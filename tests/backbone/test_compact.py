"""int8 weights: how far they may move, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed.backbone import Backbone, pack
from diffembed.backbone.compact import (
    COMPACT_FILE,
    SCALE_SUFFIX,
    load_compact,
    pack_weights,
    save_compact,
    unpack_weights,
)
from diffembed.errors import CheckpointError
from tests.tiny_models import random_backbone, tiny


def test_no_weight_moves_by_more_than_half_a_step_of_its_row() -> None:
    weights = {"matrix": torch.randn(50, 70) * torch.logspace(-6, 3, 50)[:, None], "norm": torch.randn(70)}
    weights["matrix"][3] = 0
    back = unpack_weights(pack_weights(weights))
    step = weights["matrix"].abs().amax(dim=1, keepdim=True) / 127
    assert ((back["matrix"] - weights["matrix"]).abs() <= step * 0.5001).all()
    assert torch.equal(back["norm"], weights["norm"])


def test_saved_and_loaded(tmp_path) -> None:
    backbone = random_backbone()
    save_compact(backbone, tmp_path)
    loaded = load_compact(tmp_path)
    assert loaded.config == backbone.config
    expected = unpack_weights(pack_weights(dict(backbone.named_parameters())))
    assert all(torch.equal(parameter, expected[name]) for name, parameter in loaded.named_parameters())
    batch = pack([[1, 2, 3], list(range(20))])
    with torch.no_grad():
        states = torch.nn.functional.cosine_similarity(loaded(batch), backbone(batch))
    assert 0.99 < states.min() < 1 - 1e-7


def test_a_quarter_of_the_space(tmp_path) -> None:
    backbone = Backbone(tiny(width=256, mlp_width=512, vocab_size=2000))
    backbone.init_weights(torch.Generator().manual_seed(0))
    save_compact(backbone, tmp_path)
    size = sum(p.numel() for p in backbone.parameters())
    assert (tmp_path / COMPACT_FILE).stat().st_size < 1.05 * size


def cut_short(folder) -> None:
    path = folder / COMPACT_FILE
    path.write_bytes(path.read_bytes()[:-100])


def no_safetensors(folder) -> None:
    (folder / COMPACT_FILE).write_bytes(b"PK\x03\x04 not at all")


def without_a_scale(folder) -> None:
    tensors = load_file(folder / COMPACT_FILE)
    del tensors["embed_tokens.weight" + SCALE_SUFFIX]
    save_file(tensors, folder / COMPACT_FILE)


def without_a_weight(folder) -> None:
    tensors = load_file(folder / COMPACT_FILE)
    del tensors["norm.weight"]
    save_file(tensors, folder / COMPACT_FILE)


def all_integers(folder) -> None:
    tensors = {name: tensor.to(torch.int64) for name, tensor in load_file(folder / COMPACT_FILE).items()}
    save_file(tensors, folder / COMPACT_FILE)


def integer_scales(folder) -> None:
    tensors = load_file(folder / COMPACT_FILE)
    tensors |= {name: tensor.int() for name, tensor in tensors.items() if name.endswith(SCALE_SUFFIX)}
    save_file(tensors, folder / COMPACT_FILE)


def a_scalar(folder) -> None:
    tensors = load_file(folder / COMPACT_FILE) | {"norm.weight": torch.tensor(1, dtype=torch.int8)}
    save_file(tensors, folder / COMPACT_FILE)


def a_million_layers(folder) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 10**6}
    (folder / "config.json").write_text(json.dumps(config))


def of_another_shape(folder) -> None:
    save_file(pack_weights(dict(random_backbone(mlp_width=16).named_parameters())), folder / COMPACT_FILE)


@pytest.mark.parametrize(
    "damage",
    [
        *(cut_short, no_safetensors, without_a_scale, without_a_weight, of_another_shape),
        *(all_integers, integer_scales, a_scalar, a_million_layers),
    ],
)
def test_a_damaged_file_is_refused(damage, tmp_path) -> None:
    save_compact(random_backbone(), tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_compact(tmp_path)
    assert caught.value.hint
