"""Texts for benchmarks, out of the docstrings of the running Python, and a model of random weights to encode them."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

KINDS = {"short": (5, 32), "mixed": (5, 512), "long": (5, 8192)}
"""Fewest and most tokens of a text. Long texts are joined from docstrings until no further one fits."""
NUM_CALIBRATION = 300  # as many as nncf.quantize looks at by default


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """Texts of each round, no docstring twice."""

    texts: list[list[str]]
    tokens: list[int]
    """Of each round, with EOS."""
    calibration: list[str]
    """Docstrings of no round, for engines that quantise activations beforehand."""


def fresh_texts(folder: Path, kind: str, rounds: int, count: int, seed: int) -> Rounds:
    """Draw texts of a kind for a model.

    Raises:
        DataError: There are not enough docstrings.
    """
    from diffembed.data.docstrings import read_docstrings
    from diffembed.embedder.folder import read_model
    from diffembed.errors import DataError

    model = read_model(folder)
    shortest, longest = KINDS[kind][0], min(KINDS[kind][1], model.max_tokens)
    passages = [passage.text for passage in read_docstrings()]
    random.Random(seed).shuffle(passages)
    calibration, passages = passages[:NUM_CALIBRATION], passages[NUM_CALIBRATION:]
    pool = _measured(passages, model.tokenizer)
    if kind == "long":
        pool = _measured(_joined(pool, longest), model.tokenizer)
    pool = [(text, n) for text, n in pool if shortest <= n <= longest]
    if len(pool) < rounds * count:
        raise DataError(
            f"{rounds} rounds of {count} texts need {rounds * count}; this Python has {len(pool)} of the right length",
            hint="fewer rounds or texts",
        )
    parts = [pool[i * count : (i + 1) * count] for i in range(rounds)]
    return Rounds(
        texts=[[text for text, _ in part] for part in parts],
        tokens=[sum(n for _, n in part) for part in parts],
        calibration=calibration,
    )


def _measured(texts: Iterable[str], tokenizer) -> list[tuple[str, int]]:
    texts = list(texts)
    return [(text, len(ids) + 1) for text, ids in zip(texts, tokenizer.encode(texts), strict=True)]


def _joined(pool: list[tuple[str, int]], longest: int) -> Iterator[str]:
    parts: list[str] = []
    total = 1
    for text, n in pool:
        if n > longest // 8:
            continue  # so that every text is nearly full
        if total + n + 1 > longest:  # an empty line is at most two tokens; n counts one too many
            yield "\n\n".join(parts)
            parts, total = [], 1
        parts.append(text)
        total += n + 1


def make_model(folder: Path, kind: str, seed: int) -> Path:
    """The shape of the built-in model with random weights: speed does not depend on their values."""
    import torch

    from diffembed import Embedder
    from diffembed.backbone import Backbone
    from diffembed.data.docstrings import read_docstrings
    from diffembed.recipes.pretrain import BUILTIN_SHAPE
    from diffembed.text.tokenizer import Tokenizer

    config = replace(BUILTIN_SHAPE, max_positions=max(BUILTIN_SHAPE.max_positions, KINDS[kind][1]))
    tokenizer = Tokenizer.train((passage.text for passage in read_docstrings()), config.vocab_size)
    backbone = Backbone(config)
    backbone.init_weights(torch.Generator().manual_seed(seed))
    embedder = Embedder.from_backbone(backbone, tokenizer, max_tokens=config.max_positions, dtype="float32")
    embedder.save(folder)
    return folder
