"""Recipes of `diffembed pretrain`."""

from dataclasses import replace

from diffembed.backbone.config import BackboneConfig
from diffembed.recipes.paper import BASES, Base
from diffembed.training.loop_config import LoopConfig
from diffembed.training.lora import LoraConfig
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.pretrain_config import PretrainConfig

TOY_SHAPE = BackboneConfig(
    vocab_size=1024,
    width=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_width=32,
    mlp_width=128,
    max_positions=128,
)
BUILTIN_SHAPE = BackboneConfig(
    vocab_size=16_384,
    width=384,
    num_layers=4,
    num_heads=6,
    num_kv_heads=2,
    head_width=64,
    mlp_width=1024,
    max_positions=512,
)


def smoke() -> PretrainConfig:
    """`diffembed pretrain smoke --out DIR`: every stage at toy size, on the docstrings of the running Python; 20 s."""
    return PretrainConfig(
        backbone=TOY_SHAPE,
        objective="masked_diffusion",
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=5),
        loop=LoopConfig(num_steps=40),
        tokens_per_step=1024,
        tokens_per_micro_batch=512,
        segment_lengths=(32, 128),
        segment_shares=(0.5, 0.5),
        tokenizer_chars=300_000,
        docstrings=True,
    )


def builtin() -> PretrainConfig:
    """The model that ships in the wheel: 12.6M parameters, context 512, 52M tokens of masked diffusion.

    `diffembed pretrain builtin --data DIR --out DIR`; about 2.4 hours on 2 quiet CPU cores with AVX512-BF16.
    """
    return PretrainConfig(
        backbone=BUILTIN_SHAPE,
        objective="masked_diffusion",
        optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=100, muon=True),
        loop=LoopConfig(num_steps=3_200, log_every=5),
        tokens_per_step=16_384,
        tokens_per_micro_batch=4_096,
        segment_lengths=(128, 512),
        segment_shares=(0.75, 0.25),
        tokenizer_chars=40_000_000,
    )


def builtin_gpu() -> PretrainConfig:
    """`builtin` where a GPU is at hand: twice the layers (18.9M parameters, still 20 MB in int8), 1.05B tokens."""
    small = builtin()
    return replace(
        small,
        backbone=replace(BUILTIN_SHAPE, num_layers=8),
        loop=replace(small.loop, num_steps=8_000, log_every=20),
        tokens_per_step=131_072,
        tokens_per_micro_batch=65_536,
    )


def builtin_ar() -> PretrainConfig:
    """The autoregressive twin of `builtin`: same data, order, size and steps; next token, looking only back."""
    diffusion = builtin()
    return replace(diffusion, objective="next_token", backbone=replace(BUILTIN_SHAPE, direction="forward"))


def adapt() -> PretrainConfig:
    """An autoregressive model becomes a diffusion model: masked diffusion from its weights, its shift and head kept.

    `diffembed pretrain adapt --data DIR --out RUN --set init=MODEL --set mask_token=TOKEN`, with a token of the model
    that texts do not hold; `--set weighting=cart` for Dream's weights, `--set anneal_steps=10000` to open attention
    slowly.

    Source: DiffuLLaMA (arXiv:2410.17891) and pplx-embed (arXiv:2602.11151), which open attention fully at once: at 7B
    the first did, and the second saw no gain from opening it slowly at 0.6B and 4B. Numbers are those of DiffuLLaMA's
    7B run: lr 1.5e-5, length 2,048, 20,000 steps.
    Hardware: for 0.6B parameters one 80 GB card; 7B takes several with `--set loop.shard=true`. No time or score is
    told: what it gives depends on data and steps (pplx-embed's 250B tokens gained 0.7 nDCG over the model without).
    Departs: segments are packed, not padded; noise levels are spread evenly over a batch; the loss is the bound, where
    DiffuLLaMA divides by the masked tokens (`--set normalizer=masked`); batches of 262,144 tokens.
    """
    return PretrainConfig(
        backbone=None,
        init="Qwen/Qwen3-0.6B-Base",
        mask_token="<|fim_pad|>",  # in the vocabulary, and in no text
        objective="masked_diffusion",
        optimizer=OptimizerConfig(peak_lr=1.5e-5, warmup_steps=2_000, decay_share=0.3, weight_decay=0.1),
        loop=LoopConfig(num_steps=20_000, log_every=10),
        tokens_per_step=262_144,
        tokens_per_micro_batch=16_384,
        segment_lengths=(2_048,),
        segment_shares=(1.0,),
        tokenizer_chars=0,
        checkpoint_layers=True,
        dtype="bfloat16",
    )


def llm2vec_mntp(base: Base = "llama3") -> PretrainConfig:
    """LLM2Vec's first step: masked next-token prediction with an adapter, so that attention both ways is of use.

    `diffembed pretrain llm2vec-mntp --data DIR --out RUN`, on text like wikitext-103's; `llm2vec-mntp-mistral` and
    `-qwen2.5` for the other bases. `RUN/adapter` goes into the next step (`diffembed.recipes.llm2vec`).

    Source: LLM2Vec (arXiv:2404.05961) and its configurations: 512 tokens, 32 segments a step, 1,000 steps, 20% of the
    tokens hidden BERT's way; for Mistral 80%, by masks alone. DiffEmbed's authors trained Qwen2.5's with 4,000 steps of
    16. The mask is a token for an underscore.
    Hardware: one 80 GB card, as in the paper; 16M tokens, well under an hour on it (not measured here yet). Score with
    no further step: MTEB 48.84 for Llama 3, 49.43 for Mistral.
    Departs: a step is so many tokens, not segments; texts are packed. The learning rate, 5e-5 in a line to 0, is
    transformers' default, which the configurations leave alone.
    """
    steps, segments = (4_000, 16) if base == "qwen2.5" else (1_000, 32)
    return PretrainConfig(
        backbone=None,
        init=BASES[base],
        mask_token="_",
        objective="masked_next_token",
        mask_share=0.8 if base == "mistral" else 0.2,
        only_masks=base == "mistral",
        lora=LoraConfig(rank=16, alpha=32.0, dropout=0.05, merge=False),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=0, decay_share=1.0, weight_decay=0.0, beta2=0.999),
        loop=LoopConfig(num_steps=steps, seed=42),
        tokens_per_step=segments * 512,
        tokens_per_micro_batch=8_192,
        segment_lengths=(512,),
        segment_shares=(1.0,),
        tokenizer_chars=0,
        checkpoint_layers=True,
        dtype="bfloat16",
    )
