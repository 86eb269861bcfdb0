"""An embedder small enough for tests, and texts that strain it."""

import torch

from diffembed import Embedder
from diffembed.backbone import Backbone, BackboneConfig
from diffembed.text.tokenizer import Tokenizer

LIMIT = 24
SENTENCE = "the quick brown fox jumps over a lazy dog while seven wizards quietly judge my boxes"
WORDS = SENTENCE.split()
LONG = " ".join(WORDS * 6)
ODD = [
    "",
    "a",
    " ",
    "new\nline\r\n\ttab",
    "12345 67",
    "🙂👩‍👩‍👧",
    "日本語",
    "e\u0301 \u0301x",
    "<|query|> in a text",
    "\x00",
]


def make_backbone(direction="both", vocab_size=320, **changes) -> Backbone:
    shape = dict(width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_width=8, mlp_width=48, max_positions=40)
    backbone = Backbone(BackboneConfig(**(shape | changes), vocab_size=vocab_size, direction=direction))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.2, generator=generator)
    return backbone.eval()


TOKENIZER = Tokenizer.train([LONG], 320)


def make(direction="both", dtype="float32", **options) -> Embedder:
    return Embedder.from_backbone(
        make_backbone(direction), TOKENIZER, **({"max_tokens": LIMIT, "dtype": dtype, "device": "cpu"} | options)
    )
