"""pplx-embed (arXiv:2602.11151): a diffusion-pretrained model in three contrastive stages, and the mean of two of them.

1. `pplx-pairs` from a diffusion-pretrained model;
2. `pplx-contextual` from 1: chunks that know their document. This is `pplx-embed-context`;
3. `pplx-triplets` from 1: hard negatives;
4. `diffembed merge CONTEXTUAL/model TRIPLETS/model --out DIR`, along the arc between them: `pplx-embed`.

All stages train all weights on tanh codes (int8 with a straight-through gradient), without instructions and prompts,
with prefixes of the vectors besides. The paper tells neither temperature nor batch size, learning rate or the number of
hard negatives; the ones here are usual for the loss and not tuned. Its diffusion-pretrained checkpoints are not
published: begin with a model of your own (`diffembed pretrain adapt`), or one of dllm's.
"""

from dataclasses import replace

from diffembed.data.mix import ANY, MixRow
from diffembed.readout.spec import Readout
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.loop_config import LoopConfig
from diffembed.training.losses import LossConfig
from diffembed.training.optimizer import OptimizerConfig

# dllm's conversion of Qwen3-0.6B: the nearest public model to what the paper begins with.
MODEL = "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1"
DIMS = (64, 128, 256, 512)


def pplx_pairs() -> FinetuneConfig:
    """Stage 1: each query finds its document among those of the batch and the other queries.

    `diffembed finetune pplx-pairs --data PAIRS --out RUN --set init=DIFFUSION/model`.

    A candidate that beats the own document by more than 0.1 in cosine counts as a false negative and is left out.
    Hardware: one 80 GB card; time and score are not known: the paper's data are not public.
    Departs: one phase; the paper has three, English, with cross-lingual pairs, then all languages. (Run it three times,
    each `init` the one before.)
    """
    return FinetuneConfig(
        init=MODEL,
        backbone=None,
        tokenizer_from=None,
        direction="both",
        readout=Readout(codes="tanh"),
        query_prompt="",
        document_prompt="",
        max_tokens=1024,
        mix=(MixRow(source=ANY, kind=ANY, weight=1.0, instruction="", passage_tokens=512),),
        batch_pairs=1024,
        query_tokens=128,
        loss=LossConfig(temperature=0.02, false_negative_margin=0.1, include_queries=True, matryoshka_dims=DIMS),
        instruction_share=0.0,
        optimizer=OptimizerConfig(peak_lr=2e-5, warmup_steps=500, weight_decay=0.01),
        loop=LoopConfig(num_steps=10_000),
        chunk_tokens=32_768,
        recompute=True,
        checkpoint_layers=True,
        dtype="bfloat16",
    )


def pplx_contextual() -> FinetuneConfig:
    """Stage 2: a document is read once, and each chunk is the mean of its own tokens.

    `diffembed finetune pplx-contextual --data CHUNKED --out RUN --set init=PAIRS/model`, with rows that have `chunks`.

    0.2 of the loss is among the chunks of one document, 0.8 among all of the batch; beside it whole documents, with a
    weight that rises from 0.2 to 0.5.
    Hardware: as stage 1. The paper's data: ConTEB's training sets, and made queries on MLDR.
    """
    pairs = pplx_pairs()
    return replace(
        pairs,
        max_tokens=4096,
        mix=(replace(pairs.mix[0], passage_tokens=3968),),
        batch_pairs=64,
        loss=LossConfig(name="contextual", temperature=0.02, matryoshka_dims=DIMS),
        loop=LoopConfig(num_steps=2_000),
    )


def pplx_triplets() -> FinetuneConfig:
    """Stage 3: hard negatives beside those of the batch.

    `diffembed finetune pplx-triplets --data TRIPLETS --out RUN --set init=PAIRS/model`; `diffembed mine` finds hard
    negatives for pairs.

    Hardware: as stage 1. The paper's data: 12 sets, 92% English.
    """
    pairs = pplx_pairs()
    return replace(
        pairs,
        batch_pairs=128,
        negatives=7,
        loss=LossConfig(temperature=0.02, matryoshka_dims=DIMS),
        loop=LoopConfig(num_steps=5_000),
    )
