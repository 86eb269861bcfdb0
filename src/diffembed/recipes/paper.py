"""The paper's system: LoRA on a bidirectional 7B model, on three kinds of data, and its autoregressive comparators.

Source: "Diffusion vs. Autoregressive Language Models: A Text Embedding Perspective" (arXiv:2505.15045, appendix D) and
its code (siyue-zhang/DiffEmbed, `train_configs/supervised`). One set of numbers serves every base, as in the paper:
full attention, the mean over all tokens of a text with its instruction, AdamW without weight decay, a rate that falls
in a line, seed 42. `BASES` names the bases; the same with `--set adapter=RUN/adapter` of an `llm2vec-mntp` is the
paper's "+LLM2Vec".

Where all of them depart from the code:

- Padding is never attended to; the code lets Dream see it. (Texts are packed here: there is none.)
- Texts are laid out the same way in training and afterwards, without a chat template; the code trains Dream without
  one and evaluates it with one (`--set template=...` trains with it).
- Query and instruction are joined by a space; the code trains with `; ` and evaluates with a space.
- Texts are cut to 4,032 tokens rather than 4,096, which leaves room for instruction and BOS in LLaDA's 4,096 positions.
- Documents that are known to answer a query, and equal texts, are not counted as wrong.
- Optimizer state and the masters of the adapter's weights are fp32.
- The order of the batches is drawn anew from the seed; the code's is that of a sampler of its own.
"""

from dataclasses import replace
from typing import Literal

from diffembed.data.mix import ANY, MixRow
from diffembed.readout.spec import Readout
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.loop_config import LoopConfig
from diffembed.training.lora import LoraConfig
from diffembed.training.losses import LossConfig
from diffembed.training.optimizer import OptimizerConfig

Base = Literal["dream", "llada", "qwen2.5", "llama3", "mistral"]
BASES: dict[Base, str] = {
    "dream": "Dream-org/Dream-v0-Instruct-7B",
    "llada": "GSAI-ML/LLaDA-8B-Instruct",
    "qwen2.5": "Qwen/Qwen2.5-7B-Instruct",
    "llama3": "meta-llama/Meta-Llama-3-8B-Instruct",
    "mistral": "mistralai/Mistral-7B-Instruct-v0.2",
}
MAX_TOKENS = 4096
# What instruction, BOS and EOS leave of them.
TEXT_TOKENS = 4032
# HardNegativeNLLLoss as the training script calls it, with a scale of 50; the class alone would have 20.
SCALE = 50


def diffembed_long(base: Base = "dream") -> FinetuneConfig:
    """Long documents and general retrieval: 16,000 triplets of Public E5, a hard negative each.

    `diffembed finetune diffembed-long --data echo-data --out RUN`, with the twelve files of the echo-embeddings
    collection in a folder; `diffembed-long-llada`, `-qwen2.5`, `-llama3` and `-mistral` for the other bases.

    Hardware: the paper's is 4 x A6000 (48 GB); its log of a longer run has 9.1 samples a second for Dream, half an hour
    for these 16,000. One 80 GB card holds the batch (not measured here yet).
    Score in the paper: LongEmbed 62.2 (mean of its eight columns; 66.1 as LongEmbed counts), MTEB's 15 tasks 65.0.
    Departs further: lr 1e-4 as in the paper's text; the checked-in configuration has 5e-5, and 64,000 samples of which
    the paper's table shows the first 16,000.
    """
    return _common(base, num_steps=1_000, batch_pairs=16, warmup_steps=100, negatives=1, loss=_hard_negatives())


def diffembed_reason(base: Base = "dream") -> FinetuneConfig:
    """Reasoning-intensive retrieval: 10,880 triplets of ReasonAug, a hard negative each, in one pass.

    `diffembed finetune diffembed-reason --data ReasonAug.jsonl --out RUN`, or with the other bases as for
    `diffembed-long`. The data: the published set, or what `diffembed` will make of a list of concepts.

    Hardware: as `diffembed-long`; texts of some 700 tokens a pair, about 20 minutes on the paper's 4 x A6000.
    Score in the paper: nDCG@10 of 38.9 TheoremQA theorems, 48.3 questions, 15.4 AoPS, 30.0 LeetCode.
    """
    config = _common(base, num_steps=680, batch_pairs=16, warmup_steps=100, negatives=1, loss=_hard_negatives())
    return replace(config, query_tokens=TEXT_TOKENS)


def diffembed_instruct(base: Base = "dream") -> FinetuneConfig:
    """Retrieval that follows instructions: 16,000 queries of MS MARCO with instructions, 15 negatives of their own.

    `diffembed finetune diffembed-instruct --data msmarco-w-instructions --out RUN`, or with the other bases as for
    `diffembed-long`.

    The loss is RepLLaMA's: over a query's own 16 passages alone, by the product of mean states divided by their width,
    without a temperature. The vectors are compared by cosine afterwards, as in the paper.

    Hardware: as `diffembed-long`; 2,176 texts a step in chunks, so that any card with room for the weights will do.
    Score in the paper: FollowIR 20.9 (MAP and nDCG), p-MRR +5.1.
    Departs further: negatives are a row's first 15 (instruction negatives, then others in order); the code samples.
    """
    config = _common(
        base,
        num_steps=125,
        batch_pairs=128,
        warmup_steps=20,
        negatives=15,
        loss=LossConfig(name="explicit", temperature=1.0),
    )
    return replace(
        config,
        mix=(_row(196, "Retrieve text based on user query"),),
        query_tokens=304,
        lora=LoraConfig(rank=32, alpha=64.0, dropout=0.05),
        recompute=True,
    )


def _hard_negatives() -> LossConfig:
    return LossConfig(temperature=1 / SCALE)


def _row(passage_tokens: int, instruction: str) -> MixRow:
    return MixRow(source=ANY, kind=ANY, weight=1.0, instruction=instruction, passage_tokens=passage_tokens)


def _common(
    base: Base, *, num_steps: int, batch_pairs: int, warmup_steps: int, negatives: int, loss: LossConfig
) -> FinetuneConfig:
    return FinetuneConfig(
        init=BASES[base],
        backbone=None,
        tokenizer_from=None,
        direction="both",
        readout=Readout(counts_prompt=True),
        max_tokens=MAX_TOKENS,
        mix=(_row(TEXT_TOKENS, ""),),  # each set of the data brings its own instruction
        batch_pairs=batch_pairs,
        query_tokens=512,
        negatives=negatives,
        loss=loss,
        instruction_share=1.0,
        optimizer=OptimizerConfig(
            peak_lr=1e-4,
            warmup_steps=warmup_steps,
            decay_share=1 - warmup_steps / num_steps,
            weight_decay=0.0,
            beta2=0.999,
        ),
        loop=LoopConfig(num_steps=num_steps, seed=42),
        lora=LoraConfig(rank=16, alpha=32.0, dropout=0.05),
        chunk_tokens=16_384,
        checkpoint_layers=True,
        dtype="bfloat16",
    )
