"""What each family of checkpoints calls things and takes for granted: a row of facts for each, and no code of its own.

A family without an entry cannot be read. `config_files` turns a row into a configuration, `names` into weight names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffembed.backbone.config import Direction
from diffembed.errors import ConfigError

# Our field -> Hugging Face's key.
KEYS: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "mlp_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
}
LLADA_KEYS: Mapping[str, str] = {
    "vocab_size": "embedding_size",  # its vocab_size may be smaller than the table
    "width": "d_model",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "num_kv_heads": "n_kv_heads",
    "head_width": "head_dim",
    "mlp_width": "mlp_hidden_size",
    "max_positions": "max_sequence_length",
    "norm_eps": "rms_norm_eps",
}

# What we compute, whatever else these keys may ask for.
PLAIN: Mapping[str, Any] = {"hidden_act": "silu", "quantization_config": None}
NO_BIAS: Mapping[str, Any] = {**PLAIN, "attention_bias": False}
LLADA_PLAIN: Mapping[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "multi_query_attention": None,
    "quantization_config": None,
    "rope": True,
    "scale_logits": False,
}

# Our part of a weight's name -> LLaDA's (OLMo's); `layers` and the parts of a layer are among them.
LLADA_NAMES: Mapping[str, str] = {
    "embed_tokens": "wte",
    "layers": "blocks",
    "norm": "ln_f",
    "lm_head": "ff_out",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Facts that a family of checkpoints shares."""

    name: str
    title: str
    """What people call it."""
    model_types: tuple[str, ...]
    """`model_type` in config.json."""
    direction: Direction
    """Where its attention looks when the configuration does not say."""
    qk_norm: bool = False
    qkv_bias: bool = False
    logit_shift: bool = False
    mask_token: str | None = None
    """What stands for a hidden token where the family was trained by diffusion."""
    template: str | None = None
    """What its chat models put around a user's turn, up to its end: what the paper puts around every text. Models are
    read without it unless it is asked for."""
    trained_tokens: int | None = None
    """Longest sequence of the training, where config.json promises more."""
    keys: Mapping[str, str] = field(default_factory=lambda: KEYS)
    """Our field -> its key in config.json."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of keys that its files leave out."""
    supported: Mapping[str, Any] = field(default_factory=lambda: NO_BIAS)
    """Keys with the one value that we compute; absent keys have it."""
    tie_key: str = "tie_word_embeddings"
    names: Mapping[str, str] = field(default_factory=dict)
    """Our part of a weight's name -> its."""
    prefixes: tuple[str, ...] = ("", "model.")
    """What may stand before its weight names; the head has none."""
    class_prefix: str = ""
    """What stands before the names in the class that `AutoModel` makes of it, on which `peft` puts an adapter."""


# Chat templates, as the tokenizers of these models have them; BOS is the tokenizer's own to add.
CHATML = "<|im_start|>user\n{text}<|im_end|>"
LLAMA_CHAT = "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"

# What stands between two turns.
TURN_ENDS = {CHATML: "\n", LLAMA_CHAT: ""}

QWEN3 = Family(name="qwen3", title="Qwen3", model_types=("qwen3",), direction="forward", qk_norm=True, template=CHATML)
QWEN2 = Family(
    name="qwen2",
    title="Qwen2, Qwen2.5",
    model_types=("qwen2",),
    direction="forward",
    qkv_bias=True,
    template=CHATML,
    supported=PLAIN,
)
LLAMA = Family(
    name="llama",
    title="Llama 3, DiffuLLaMA",
    model_types=("llama",),
    direction="forward",
    template=LLAMA_CHAT,
    supported={**NO_BIAS, "mlp_bias": False, "pretraining_tp": 1},
)
MISTRAL = Family(
    name="mistral",
    title="Mistral",
    model_types=("mistral",),
    direction="forward",
    template="[INST] {text} [/INST]",
    supported=PLAIN,
)
DREAM = Family(
    name="dream",
    title="Dream, Dream-Coder, DiffuCoder",
    model_types=("Dream",),
    direction="both",
    qkv_bias=True,
    logit_shift=True,
    mask_token="<|mask|>",
    template=CHATML,
    class_prefix="model.",  # its AutoModel has a head
    trained_tokens=2_048,  # the README; config.json says 131,072, which is Qwen2.5's
    supported={**PLAIN, "use_mrope": False},
)
LLADA = Family(
    name="llada",
    title="LLaDA, LLaDA-1.5",
    model_types=("llada",),
    direction="both",
    mask_token="<|mdm_mask|>",
    template=LLAMA_CHAT,
    keys=LLADA_KEYS,
    supported=LLADA_PLAIN,
    tie_key="weight_tying",
    names=LLADA_NAMES,
    prefixes=("model.transformer.", "transformer."),
    class_prefix="model.transformer.",
)
PPLX = Family(
    name="pplx",
    title="pplx-embed",
    model_types=("bidirectional_pplx_qwen3",),
    direction="both",
    qk_norm=True,
    logit_shift=True,  # kept from the autoregressive parent; the published embedders have no head to use it with
)
# dllm's conversions of autoregressive models (its `pipelines/a2d`): no shift, a mask token added to the tokenizer.
A2D_QWEN3 = Family(
    name="a2d-qwen3",
    title="Qwen3 diffusion (dllm)",
    model_types=("a2d-qwen3",),
    direction="both",
    qk_norm=True,
    mask_token="<|mask|>",
    trained_tokens=1_024,
)
A2D_QWEN2 = Family(
    name="a2d-qwen2",
    title="Qwen2.5 diffusion (dllm)",
    model_types=("a2d-qwen2",),
    direction="both",
    qkv_bias=True,
    mask_token="<|mask|>",
    trained_tokens=1_024,
    supported=PLAIN,
)
A2D_LLAMA = Family(
    name="a2d-llama",
    title="Llama diffusion (dllm)",
    model_types=("a2d-llama",),
    direction="both",
    mask_token="<|mask|>",
    trained_tokens=1_024,
    supported=LLAMA.supported,
)

FAMILIES: tuple[Family, ...] = (
    DREAM,
    LLADA,
    PPLX,
    A2D_QWEN3,
    A2D_QWEN2,
    A2D_LLAMA,
    QWEN3,
    QWEN2,
    LLAMA,
    MISTRAL,
)
BY_MODEL_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}

# What DiffRetriever (arXiv:2605.07210) asks for, word by word as its published adapters were trained (its repository,
# `prompts/default`): one word where a mask is appended, a few where there are several.
_SYSTEM = "You are an AI assistant that can understand human language."
_ASKED = (
    '{title}: "{text}". Use {many} to represent the {name} in a retrieval task. Make sure your {words} in lowercase.'
)
_ONE = {"many": "one word", "words": "word is"}
_FEW = {"many": "a few words", "words": "words are"}


def mask_prompts(family: Family, *, several: bool = True) -> dict[str, str]:
    """Prompts by role for the readout `masks`, in the chat template of a family, up to where the masks begin.

    Args:
        family: One with a chat template, `DREAM` or `LLADA`.
        several: Whether several masks are appended; otherwise one.

    Raises:
        ConfigError: The family has no template with turns.
    """
    if family.template not in TURN_ENDS:
        raise ConfigError(f"{family.title} has no chat template with turns", hint="use DREAM or LLADA")
    turn, end, words = family.template, TURN_ENDS[family.template], _FEW if several else _ONE

    def say(role: str, text: str) -> str:
        return turn.replace("user", role).replace("{text}", text) + end

    opened = turn.replace("user", "assistant").partition("{text}")[0]
    prompts = {}
    for role, name in (("query", "query"), ("document", "passage")):
        asked = _ASKED.format(title=name.capitalize(), name=name, text="{text}", **words)
        prompts[role] = f'{say("system", _SYSTEM)}{say("user", asked)}{opened}The {words["words"]}: "'
    return prompts
