"""Tiny random checkpoints of each family, as its own code would save them, beside the class that computes the same.

Dream and LLaDA have no class in transformers 5: Dream is Qwen2 that looks both ways, LLaDA Llama under other names
(recipe: DreamLM/Dream and ML-GSAI/LLaDA, `modeling_*.py`).
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

VOCAB, POSITIONS = 60, 48
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}
# Family -> class of transformers, changes of the shape, changes of config.json once it is saved.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen3": ("Qwen3", {}, {}),
    "qwen2": ("Qwen2", {}, {}),
    "llama": ("Llama", {"rms_norm_eps": 1e-5}, {}),
    "mistral": ("Mistral", {"sliding_window": None}, {}),
    "Dream": ("Qwen2", {}, {"architectures": ["DreamModel"], "mask_token_id": 7, "use_mrope": False}),
    "bidirectional_pplx_qwen3": ("Qwen3", {}, {"architectures": ["PPLXQwen3Model"]}),
    "a2d-qwen3": ("Qwen3", {}, {"architectures": ["A2DQwen3LMHeadModel"]}),
    "a2d-qwen2": ("Qwen2", {}, {"architectures": ["A2DQwen2LMHeadModel"]}),
    "a2d-llama": ("Llama", {}, {"architectures": ["A2DLlamaLMHeadModel"]}),
    "llada": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0}, {}),
}
LOOKS_BOTH_WAYS = {"Dream", "bidirectional_pplx_qwen3", "a2d-qwen3", "a2d-qwen2", "a2d-llama", "llada"}
LLADA_RENAMES = (
    (r"^model\.embed_tokens\.", "model.transformer.wte."),
    (r"^model\.norm\.", "model.transformer.ln_f."),
    (r"^lm_head\.", "model.transformer.ff_out."),
    (r"^model\.layers\.", "model.transformer.blocks."),
    (r"\.self_attn\.o_proj\.", ".attn_out."),
    (r"\.self_attn\.", "."),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ff_norm."),
    (r"\.mlp\.gate_proj\.", ".ff_proj."),
    (r"\.mlp\.up_proj\.", ".up_proj."),
    (r"\.mlp\.down_proj\.", ".ff_out."),
)


def make(model_type: str, folder: Path, *, seed: int = 1, **changes: Any) -> Any:
    """Save a checkpoint of a family, and return the transformers model (with head) that has its weights.

    Args:
        model_type: As config.json has it.
        folder: Where the files go.
        seed: Of the weights.
        changes: Of the transformers configuration.
    """
    import transformers

    name, shape, edits = FAMILIES[model_type]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, "tie_word_embeddings": False, **shape, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # fresh biases are zero and fresh norms one, which would hide a lost one
        for each, parameter in model.named_parameters():
            wide = each.endswith(("norm.weight", ".bias"))
            parameter.normal_(0.4 if wide else 0.0, 0.3 if wide else 0.15)
    model.save_pretrained(folder)
    path = folder / "config.json"
    data = json.loads(path.read_text())
    if model_type == "llada":
        data = _llada_config(data)
        weights = load_file(folder / "model.safetensors")
        save_file({_llada_name(name): weight for name, weight in weights.items()}, folder / "model.safetensors")
    data = {**data, "model_type": model_type, **edits}
    path.write_text(json.dumps({key: value for key, value in data.items() if key != "is_causal"}))
    return model


def _llada_name(name: str) -> str:
    for pattern, replacement in LLADA_RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _llada_config(data: dict[str, Any]) -> dict[str, Any]:
    """The keys that LLaDA-8B's config.json has."""
    return {
        "architectures": ["LLaDAModelLM"],
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": data["hidden_size"],
        "embedding_size": data["vocab_size"],
        "include_bias": False,
        "include_qkv_bias": False,
        "layer_norm_type": "rms",
        "mask_token_id": 7,
        "max_sequence_length": data["max_position_embeddings"],
        "mlp_hidden_size": data["intermediate_size"],
        "n_heads": data["num_attention_heads"],
        "n_kv_heads": data["num_key_value_heads"],
        "n_layers": data["num_hidden_layers"],
        "rms_norm_eps": data["rms_norm_eps"],
        "rope": True,
        "rope_theta": data.get("rope_theta") or data["rope_parameters"]["rope_theta"],
        "vocab_size": data["vocab_size"],
        "weight_tying": False,
    }
