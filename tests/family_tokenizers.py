"""Tokenizers as other families ship them, trained on a few words."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.tiny_embedders import LONG

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
VOCAB = 320


def train() -> Tokenizer:
    """Byte-level BPE without special tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator([LONG], trainer)
    return raw


def vocab_and_merges(folder: Path, trained: Tokenizer) -> dict[str, Any]:
    """As Dream ships: vocab.json, merges.txt, and the added tokens in tokenizer_config.json."""
    trained.model.save(str(folder))
    first = trained.get_vocab_size()
    config = {
        "tokenizer_class": "DreamTokenizer",
        "added_tokens_decoder": {
            str(first + number): {"content": token, "special": True, "normalized": False}
            for number, token in enumerate(SPECIAL)
        },
        "pad_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": {"content": "<|mask|>"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return config
