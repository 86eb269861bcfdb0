"""LLM2Vec (arXiv:2404.05961): an autoregressive model made an embedder in three steps. The paper's strongest baselines.

1. masked next-token prediction, `diffembed pretrain llm2vec-mntp`: full attention, an adapter;
2. optionally SimCSE, `diffembed finetune llm2vec-simcse`, on plain sentences;
3. supervised, `diffembed finetune llm2vec-supervised`, on Public E5.

Each step begins with `--set init=MODEL --set adapter=RUN/adapter` of the step before, whose adapter is merged first.
"""

from dataclasses import replace

from diffembed.data.mix import ANY, MixRow
from diffembed.readout.spec import Readout
from diffembed.recipes.paper import BASES, SCALE, Base
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.loop_config import LoopConfig
from diffembed.training.lora import LoraConfig
from diffembed.training.losses import LossConfig
from diffembed.training.optimizer import OptimizerConfig

TOKENS = 512


def llm2vec_supervised(base: Base = "llama3") -> FinetuneConfig:
    """Step 3: hard and in-batch negatives on Public E5, on top of the adapter of step 1 or 2.

    `diffembed finetune llm2vec-supervised --data echo-data --out RUN --set adapter=MNTP/adapter`;
    `llm2vec-supervised-mistral` and `-qwen2.5` for the other bases.

    Hardware: LLM2Vec's is 8 x A100 with 64 pairs each; the 512 pairs go through one card in chunks here.
    Score in its paper: MTEB (56 tasks) 65.01 for Llama 3, 64.80 for Mistral. Instructions are not pooled.
    Departs: Dropout, optimizer and order of the batches as in `diffembed.recipes.paper`.
    """
    return FinetuneConfig(
        init=BASES[base],
        backbone=None,
        tokenizer_from=None,
        direction="both",
        readout=Readout(),
        max_tokens=2 * TOKENS,  # room for instructions; texts are cut to half of it
        mix=(MixRow(source=ANY, kind=ANY, weight=1.0, instruction="", passage_tokens=TOKENS),),
        batch_pairs=512,
        query_tokens=TOKENS,
        negatives=1,
        loss=LossConfig(temperature=1 / SCALE),
        instruction_share=1.0,
        optimizer=OptimizerConfig(peak_lr=2e-4, warmup_steps=300, decay_share=0.7, weight_decay=0.0, beta2=0.999),
        loop=LoopConfig(num_steps=1_000, seed=42),
        lora=LoraConfig(rank=16, alpha=32.0, dropout=0.05),
        chunk_tokens=16_384,
        recompute=True,
        checkpoint_layers=True,
        dtype="bfloat16",
    )


def llm2vec_simcse(base: Base = "llama3") -> FinetuneConfig:
    """Step 2: a sentence must find itself among others, read twice with other dropout (SimCSE, arXiv:2104.08821).

    `diffembed finetune llm2vec-simcse --data sentences.txt --out RUN --set adapter=MNTP/adapter`, with a sentence a
    line; `llm2vec-simcse-mistral` and `-qwen2.5` for the other bases.

    Hardware: LLM2Vec's is one A100 (80 GB), 3 hours. Score in its paper, without step 3: MTEB 56.23 for Llama 3.
    Departs: its dropout of 0.3 is that of attention, as here; the adapter's stays at 0.05.
    """
    return replace(
        llm2vec_supervised(base),
        mix=(MixRow(source=ANY, kind=ANY, weight=1.0, instruction="", passage_tokens=128),),
        batch_pairs=128,
        query_tokens=128,
        negatives=0,
        loss=LossConfig(temperature=1 / 20),
        instruction_share=0.0,
        optimizer=OptimizerConfig(peak_lr=3e-5, warmup_steps=0, decay_share=1.0, weight_decay=0.0, beta2=0.999),
        attention_dropout=0.3,
        layout="sentences",
    )
