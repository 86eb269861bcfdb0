"""Adapters against `peft`: merged they give its states, saved they reload, and what it forgets is kept."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.backbone import load_backbone, pack
from diffembed.backbone.adapter import read_adapter, save_adapter
from diffembed.errors import CheckpointError
from tests import family_checkpoints
from tests.family_tokenizers import VOCAB, vocab_and_merges

# peft asks transformers by a name that is going away.
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLADA_LAYERS = ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj"]
TEXTS = ["a short text", "wizards quietly judge", "1"]


def adapt(oracle: Any, folder: Path, **options: Any) -> Any:
    """Put a random adapter on a transformers model and save it, as `peft` does."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LAYERS, **options})
    model = peft.get_peft_model(oracle, config)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"], "r": 1}])
@pytest.mark.parametrize("model_type", ["qwen2", "Dream", "qwen3"])
def test_merged_it_gives_the_states_of_peft(tmp_path: Path, model_type: str, options: dict[str, Any]) -> None:
    oracle = family_checkpoints.make(model_type, tmp_path / "base")
    adapted = adapt(oracle, tmp_path / "adapter", **options)
    backbone = load_backbone(tmp_path / "base", direction="both")
    weights = read_adapter(tmp_path / "adapter").merged(backbone.state_dict())
    backbone.load_state_dict(weights)
    adapted.config.is_causal = oracle.config.is_causal = False
    ids = [3, 1, 4, 1, 5, 9]
    with torch.no_grad():
        wanted = adapted.base_model.model.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(backbone(pack([ids])), wanted, atol=1e-5, rtol=0)


def test_written_anew_peft_reads_it(tmp_path: Path) -> None:
    oracle = family_checkpoints.make("qwen2", tmp_path / "base")
    adapt(oracle, tmp_path / "adapter")
    read = read_adapter(tmp_path / "adapter")
    save_adapter(replace(read, modules={}), tmp_path / "again")  # as for an adapter that was trained here
    import transformers

    base = transformers.AutoModel.from_pretrained(tmp_path / "base", dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "again")
    found = {name: tensor for name, tensor in loaded.state_dict().items() if "lora_A" in name}
    assert len(found) == len(read.pairs)
    for name, tensor in found.items():
        ours = name.split("base_model.model.")[1].replace(".lora_A.default.weight", ".weight")
        assert torch.equal(tensor, read.pairs[ours][0])


def test_written_anew_peft_adapts_the_class_that_it_was_trained_on(tmp_path: Path) -> None:
    """Modules of a class with a head have another name than those of the bare backbone."""
    import transformers

    adapted = adapt(family_checkpoints.make("qwen2", tmp_path / "base"), tmp_path / "adapter")
    save_adapter(read_adapter(tmp_path / "adapter"), tmp_path / "again")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        plain, wanted = base(ids).logits, adapted(ids).logits
        found = peft.PeftModel.from_pretrained(base, tmp_path / "again")(ids).logits
    assert (wanted - plain).abs().max() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float64])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file, save_file

    adapt(family_checkpoints.make("qwen2", tmp_path / "base"), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match="is of kind"):
        read_adapter(tmp_path / "adapter")


def test_saved_with_what_peft_forgets(tmp_path: Path, trained: Any) -> None:
    oracle = family_checkpoints.make("qwen2", tmp_path / "base", vocab_size=VOCAB)
    vocab_and_merges(tmp_path / "base", trained)
    adapt(oracle, tmp_path / "theirs")
    plain = Embedder.load(tmp_path / "base", dtype="float32", direction="both")
    embedder = Embedder.load(tmp_path / "base", dtype="float32", direction="both", adapter=tmp_path / "theirs")
    vectors = embedder.encode(TEXTS)
    assert (vectors * plain.encode(TEXTS)).sum(1).max() < 0.999
    embedder.save_adapter(tmp_path / "ours")
    again = Embedder.load(tmp_path / "base", dtype="float32", adapter=tmp_path / "ours")
    assert again.direction == "both"  # the base looks back only
    assert (again.encode(TEXTS) * vectors).sum(1).min() >= 0.99999
    # The adapter's own folder finds its base by the name that peft gave it.
    config = tmp_path / "ours" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    np.testing.assert_allclose(Embedder.load(tmp_path / "ours", dtype="float32").encode(TEXTS), vectors, atol=1e-6)
    with pytest.raises(CheckpointError, match="another vector than it was saved with"):
        family_checkpoints.make("qwen2", tmp_path / "other", seed=5, vocab_size=VOCAB)
        vocab_and_merges(tmp_path / "other", trained)
        Embedder.load(tmp_path / "other", dtype="float32", adapter=tmp_path / "ours")


@pytest.mark.parametrize(
    ("key", "value"), [("direction", None), ("direction", "up"), ("prompts", [1]), ("golden", {}), ("dims", "32")]
)
def test_a_damaged_sidecar_of_an_adapter(tmp_path: Path, trained: Any, key: str, value: Any) -> None:
    oracle = family_checkpoints.make("qwen2", tmp_path / "base", vocab_size=VOCAB)
    vocab_and_merges(tmp_path / "base", trained)
    adapt(oracle, tmp_path / "theirs")
    Embedder.load(tmp_path / "base", dtype="float32", adapter=tmp_path / "theirs").save_adapter(tmp_path / "ours")
    path = tmp_path / "ours" / "diffembed.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=key):
        Embedder.load(tmp_path / "base", adapter=tmp_path / "ours")


def test_names_of_llada(tmp_path: Path) -> None:
    family_checkpoints.make("llada", tmp_path / "base")
    backbone = load_backbone(tmp_path / "base")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    tensors = {}
    for layer in LLADA_LAYERS:
        outputs, inputs = (48, 32) if layer in ("ff_proj", "up_proj") else (32, 32)
        module = f"base_model.model.model.transformer.blocks.1.{layer}"
        tensors[f"{module}.lora_A.weight"] = torch.randn(2, inputs)
        tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, 2)
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    before = backbone.state_dict()
    after = read_adapter(tmp_path / "adapter").merged(before)
    save_adapter(read_adapter(tmp_path / "adapter"), tmp_path / "again")
    assert load_file(tmp_path / "again" / "adapter_model.safetensors").keys() == tensors.keys()
    written = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(LLADA_LAYERS)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        *(f"layers.1.self_attn.{part}_proj.weight" for part in "qkvo"),
        "layers.1.mlp.gate_proj.weight",
        "layers.1.mlp.up_proj.weight",
    }
    a, b = (tensors[f"base_model.model.model.transformer.blocks.1.attn_out.lora_{half}.weight"] for half in "AB")
    name = "layers.1.self_attn.o_proj.weight"
    torch.testing.assert_close(after[name], before[name] + 2 * b @ a)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": 3}, "the rank 3"),
        ({"r": "four"}, "r 'four'"),
        ({"lora_alpha": 0}, "positive"),
        ({"lora_alpha": 10**400}, "cannot be used"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    adapt(family_checkpoints.make("qwen2", tmp_path / "base"), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=words):
        read_adapter(tmp_path / "adapter")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    adapt(family_checkpoints.make("qwen2", tmp_path / "base"), tmp_path / "adapter")
    family_checkpoints.make("qwen2", tmp_path / "wide", intermediate_size=64)
    with pytest.raises(CheckpointError, match="trained on"):
        read_adapter(tmp_path / "adapter").merged(load_backbone(tmp_path / "wide").state_dict())
