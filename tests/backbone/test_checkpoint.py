"""Backbones on disk: equal to transformers, and strict about what they read."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed.backbone import Backbone, load_backbone, pack, save_backbone
from diffembed.errors import CheckpointError
from tests.tiny_models import random_backbone, tiny

SEQUENCES = [[1, 2, 3], list(range(40)), [9], [4, 5, 6]]


@pytest.fixture
def folder(tmp_path):
    save_backbone(random_backbone(), tmp_path, pad_id=0, eos_id=1)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "drop"}))


@pytest.mark.extra
@pytest.mark.parametrize("direction", ["both", "forward"])
@pytest.mark.parametrize("config_read", ["is_causal from the file", "is_causal set"])
def test_equal_to_transformers(tmp_path, direction, config_read):
    transformers = pytest.importorskip("transformers")
    backbone = random_backbone(direction)
    save_backbone(backbone, tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    if config_read == "is_causal set":
        config.is_causal = direction == "forward"
    oracle = transformers.AutoModel.from_pretrained(tmp_path, config=config, dtype=torch.float32).eval()
    assert type(oracle).__name__ == "Qwen3Model"
    batch = pack(SEQUENCES)
    with torch.no_grad():
        for ids, states in zip(SEQUENCES, batch.split(backbone(batch)), strict=True):
            expected = oracle(torch.tensor([ids])).last_hidden_state[0]
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


@pytest.mark.extra
@pytest.mark.parametrize("is_causal", [True, False])
def test_reads_what_transformers_writes(tmp_path, is_causal):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, max_position_embeddings=40, tie_word_embeddings=True, is_causal=is_causal,
    )  # fmt: skip
    oracle = transformers.Qwen3ForCausalLM(config).eval()
    oracle.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert backbone.config.direction == ("forward" if is_causal else "both")
    with torch.no_grad():
        expected = oracle.model(torch.tensor([SEQUENCES[1]])).last_hidden_state[0]
        torch.testing.assert_close(backbone(pack([SEQUENCES[1]])), expected, atol=1e-5, rtol=0)


def test_save_and_load_are_bit_equal(folder):
    with torch.no_grad():
        batch = pack(SEQUENCES)
        assert torch.equal(load_backbone(folder)(batch), random_backbone()(batch))


def test_direction_can_be_overruled(folder):
    assert load_backbone(folder, direction="forward").config.direction == "forward"
    assert load_backbone(folder).config.direction == "both"


def test_backward_cannot_be_written(tmp_path):
    with pytest.raises(CheckpointError, match="looks only ahead"):
        save_backbone(Backbone(tiny("backward")), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, "bert"),
        ({"model_type": None}, "known families"),
        ({"hidden_size": "drop"}, "hidden_size"),
        ({"hidden_size": 64}, "shape"),
        ({"hidden_size": "wide"}, "no number"),
        ({"hidden_size": 32.5}, "fraction"),
        ({"num_hidden_layers": 3}, "lacks"),
        ({"num_hidden_layers": 1}, "no place for"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}}, "longrope"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "lacks factor"),
        ({"head_dim": 7}, "even"),
        ({"num_hidden_layers": 100}, "lacks"),
        ({"num_hidden_layers": 10**9}, "num_layers must be 1 to"),
        ({"num_hidden_layers": 10**6}, "config.json asks for 1000000 layers"),
        ({"max_position_embeddings": 10**9}, "max_positions must be 1 to"),
        ({"hidden_size": 10**400}, "width must be 1 to"),
        ({"hidden_size": 2**20, "head_dim": 2**20, "num_attention_heads": 2**20, "vocab_size": 2**20}, "shape"),
        ({"rms_norm_eps": 10**400}, "beyond all reason"),
        ({"rms_norm_eps": math.inf}, "norm_eps"),
        ({"rms_norm_eps": math.nan}, "norm_eps"),
        ({"rope_parameters": {"rope_theta": math.inf}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "beyond all reason"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": 0}, "rope_parameters"),
        ({"is_causal": "no"}, "is_causal = 'no'"),
        ({"use_bidirectional_attention": 1}, "use_bidirectional_attention = 1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, changes, words):
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_backbone(folder)
    assert "\n" not in caught.value.message


DEEP, LONG_NUMBER = "[" * 100_000, '{"hidden_size": ' + "1" * 5000 + "}"


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff\xfe", DEEP, LONG_NUMBER])
def test_a_damaged_config_is_refused(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError):
        load_backbone(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 2000])
def test_truncated_weights_are_refused(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        load_backbone(folder)


def test_foreign_weights_are_refused(folder):
    save_file({"something.else": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="lacks"):
        load_backbone(folder)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_real_numbers_are_refused(folder, kind):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["embed_tokens.weight"] = weights["embed_tokens.weight"].to(kind)
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is of kind"):
        load_backbone(folder)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_read(folder, kind):
    path = folder / "model.safetensors"
    save_file({name: tensor.to(kind) for name, tensor in load_file(path).items()}, path)
    expected = dict(random_backbone().named_parameters())
    for name, parameter in load_backbone(folder).named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter, expected[name], rtol=0.01, atol=0.001)


def test_an_untied_head_plays_no_part(folder):
    edit_config(folder, tie_word_embeddings=False)
    load_backbone(folder)


def test_missing_files_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model.safetensors"):
        load_backbone(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json"):
        load_backbone(folder)


def test_a_prefix_and_a_spare_head_are_accepted(folder):
    path = folder / "model.safetensors"
    weights = {f"model.{name}": tensor for name, tensor in load_file(path).items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, path)
    with torch.no_grad():
        batch = pack(SEQUENCES)
        assert torch.equal(load_backbone(folder)(batch), random_backbone()(batch))
