"""Recipes of `diffembed finetune`."""

from dataclasses import replace

from diffembed.data.mix import ANY, MixRow
from diffembed.recipes import pretrain
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.loop_config import LoopConfig
from diffembed.training.losses import LossConfig
from diffembed.training.optimizer import OptimizerConfig

# Source, kind, weight, passage tokens, instruction. Steps have about equal tokens whatever the row, so that short
# passages give more pairs; the long rows keep the trained context in use. The pairs of open_english_wordnet are very
# many and very short: its weights sum to a tenth.
MIX = tuple(
    MixRow(source=source, kind=kind, weight=weight, passage_tokens=passage_tokens, instruction=instruction)
    for source, kind, weight, passage_tokens, instruction in (
        (
            "wikipedia_en",
            "heading->passage",
            22.0,
            96,
            "Find the passage of the encyclopedia that stands under this heading",
        ),
        ("wikipedia_en", "sentence->passage", 24.0, 128, "Find the passage that this statement belongs to"),
        ("wikipedia_en", "lead->body", 3.0, 512, "Find the article that this introduction belongs to"),
        ("open_english_wordnet", "term->definition", 5.0, 128, "Find the definition of this term"),
        ("open_english_wordnet", "synset->hypernym synset", 2.0, 128, "Find the broader term"),
        ("open_english_wordnet", ANY, 2.0, 128, "Find a sentence that uses the word in this sense"),
        ("microsoft_docs", ANY, 6.0, 128, "Find the part of the documentation that deals with this"),
        ("tldr", ANY, 2.0, 128, "Find the command that does this"),
        (
            "openstax",
            "exercise->section text",
            4.0,
            192,
            "Find the section of the textbook that helps to solve this exercise",
        ),
        ("openstax", "summary->section text", 0.5, 512, "Find the section of the textbook that this summarises"),
        ("openstax", "exercise->solution", 1.5, 128, "Find the solution of this exercise"),
        ("openstax", ANY, 2.0, 128, "Find the part of the textbook that deals with this"),
        ("acl_anthology", ANY, 7.0, 192, "Find the abstract of the paper with this title"),
        ("medquad", ANY, 6.0, 128, "Find the answer to this question about health"),
        ("planetmath", ANY, 5.0, 192, "Find the encyclopedia entry for this mathematical notion"),
        ("gsm8k_train", ANY, 1.0, 128, "Find the solution of this problem"),
        ("python_docstrings", ANY, 1.0, 128, "Find the code that this describes"),
        (
            "reasonaug",
            "problem->definition",
            2.5,
            192,
            "Find the definition of the theorem or method that solves this problem",
        ),
        (
            "reasonaug",
            "problem->solved problem",
            1.5,
            384,
            "Find a problem that is solved by the same theorem or method",
        ),
        (ANY, ANY, 2.0, 128, ""),
    )
)


def smoke() -> FinetuneConfig:
    """`diffembed finetune smoke --out DIR`: every stage at toy size, on the docstrings of the running Python; 20 s."""
    return FinetuneConfig(
        init=None,
        backbone=replace(pretrain.TOY_SHAPE, max_positions=64),
        tokenizer_from=None,
        mix=(MixRow(source=ANY, kind=ANY, weight=1.0, passage_tokens=48, instruction="Find the docstring"),),
        batch_pairs=32,
        query_tokens=16,
        loss=LossConfig(temperature=0.05),
        instruction_share=0.5,
        optimizer=OptimizerConfig(peak_lr=5e-4, warmup_steps=10),
        loop=LoopConfig(num_steps=40),
        docstrings=True,
    )


def builtin() -> FinetuneConfig:
    """The embedder that ships in the wheel, from the model that `diffembed pretrain builtin` makes.

    `diffembed finetune builtin --data DIR --out DIR --set init=RUN/model`; some
    55 minutes on 2 quiet CPU cores with AVX512-BF16.
    """
    return FinetuneConfig(
        init=None,
        backbone=None,
        tokenizer_from=None,
        mix=MIX,
        batch_pairs=256,
        query_tokens=64,
        # No false_negative_margin: 0.1 hides more than half of a fresh model's loss, its worst mistakes.
        loss=LossConfig(temperature=0.05, symmetric=True),
        instruction_share=0.5,
        optimizer=OptimizerConfig(peak_lr=5e-4, warmup_steps=25, decay_share=0.5),
        loop=LoopConfig(num_steps=800),
    )


def builtin_gpu() -> FinetuneConfig:
    """`builtin` where a GPU is at hand, from what `diffembed pretrain builtin-gpu` makes: larger batches, longer."""
    small = builtin()
    return replace(small, batch_pairs=1024, chunk_tokens=65_536, loop=replace(small.loop, num_steps=3_000))


def builtin_scratch() -> FinetuneConfig:
    """`builtin` without its pre-training: same data, order, shape and steps from random weights.

    `diffembed finetune builtin-scratch --data DIR --out DIR --set tokenizer_from=RUN/tokenizer`, with the run of the
    pre-training that it is compared with.
    """
    return replace(builtin(), backbone=pretrain.BUILTIN_SHAPE, tokenizer_from="runs/pretrain/tokenizer")
