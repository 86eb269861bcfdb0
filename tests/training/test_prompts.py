"""What training reads of a text is what the embedder that is saved reads of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.data.batches import Batch
from diffembed.data.mix import Group, MixRow
from diffembed.errors import ConfigError, DataError
from diffembed.readout.spec import Readout, masks
from diffembed.training.gradcache import BatchLoss, Laid, loss_in_parts, read_out
from diffembed.training.prompts import Prompts
from tests.tiny_embedders import LIMIT, SENTENCE, TOKENIZER, WORDS, make, make_backbone

QUERIES, PASSAGES, NEGATIVE = ["quick fox", "日本"], [SENTENCE[:40], "a"], "seven wizards"
INSTRUCTION = "judge"
MIX = [MixRow(source="*", kind="*", weight=1.0, instruction=INSTRUCTION, passage_tokens=14)]
BATCH = Batch(Group(0, "toy", "k"), QUERIES, PASSAGES, [(NEGATIVE,), ()], [(), ()])


def prompts_of(embedder: Embedder, share: float, query_tokens: int = 12) -> Prompts:
    return Prompts(embedder._model, MIX, query_tokens=query_tokens, instruction_share=share)


def vectors_of(embedder: Embedder, texts: list[Laid]) -> np.ndarray:
    kept: list[torch.Tensor] = []

    def keep(means: torch.Tensor) -> BatchLoss:
        kept.append(means.detach())
        return BatchLoss(means.sum(), {})

    backbone = embedder._model.backbone.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    list(loss_in_parts(backbone, texts, keep, chunk_tokens=30, recompute=False, generator=generator))
    return torch.nn.functional.normalize(kept[0], dim=-1).numpy()


READOUTS = {
    "mean": Readout(),
    "with the prompt": Readout(counts_prompt=True),
    "last": Readout(pooling="last"),
    "one mask": masks(1, 1),
    "masks as one": masks(2, 3, multi=False),
    "masks": masks(2, 3),
}


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("template", ["{text}", "<|mask|>user\n{text}<|pad|>"])
@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_training_reads_texts_as_the_embedder_does(readout: Readout, template: str, shift: bool, share: float) -> None:
    plain = Embedder.from_backbone(make_backbone(logit_shift=shift), TOKENIZER, max_tokens=34, dtype="float32")
    embedder = plain.with_readout(readout, template=template)
    found = vectors_of(embedder, prompts_of(embedder, share).apply(BATCH, torch.Generator()))
    wanted = [
        embedder.encode_query(QUERIES, **({"instruction": INSTRUCTION} if share else {})),
        embedder.encode_document([*PASSAGES, NEGATIVE]),
    ]
    np.testing.assert_allclose(found, np.concatenate([each.reshape(-1, 32) for each in wanted]), atol=1e-5)


def test_an_instruction_of_the_data_comes_before_that_of_the_mix() -> None:
    embedder = make()
    batch = replace(BATCH, group=Group(0, "toy", "k", "seven"))
    found = vectors_of(embedder, prompts_of(embedder, 1.0).apply(batch, torch.Generator()))
    np.testing.assert_allclose(found[:2], embedder.encode_query(QUERIES, instruction="seven"), atol=1e-5)


def test_chunks_are_those_of_the_embedder() -> None:
    embedder = make()
    document = " ".join(WORDS[:14])
    chunks = embedder.embed_chunks(document, 8)
    assert len(chunks.spans) > 1
    pieces = [document[start:end] for start, end in chunks.spans]
    batch = Batch(Group(0, "toy", "k"), ["fox"], [pieces[1]], [()], [()], chunks=[tuple(pieces)])
    mix = [replace(MIX[0], passage_tokens=LIMIT)]
    prompts = Prompts(embedder._model, mix, query_tokens=12, instruction_share=0.0)
    texts = prompts.apply(batch, torch.Generator())
    assert texts[1].num_vectors == len(pieces) and texts[1].own == 1
    np.testing.assert_allclose(vectors_of(embedder, texts)[1:], chunks.vectors, atol=1e-5)


def test_a_long_document_keeps_the_chunk_that_answers() -> None:
    embedder = make()
    pieces = tuple(f"{word} " * 3 for word in WORDS[:10])
    batch = Batch(Group(0, "toy", "k"), ["fox"], [pieces[8]], [()], [()], chunks=[pieces])
    laid = prompts_of(embedder, 0.0).apply(batch, torch.Generator())[1]
    assert len(laid.ids) <= MIX[0].passage_tokens
    own = [token for token, row in zip(laid.ids, laid.rows, strict=True) if row == laid.own]
    # Its first word begins with the space at the end of the chunk before.
    assert TOKENIZER.decode(own) == " dog dog<|eos|>"
    lost = replace(batch, passages=[""], chunks=[("", *pieces)])
    with pytest.raises(DataError, match="has no token of its own"):
        prompts_of(embedder, 0.0).apply(lost, torch.Generator())


def test_an_instruction_that_leaves_no_room_is_refused() -> None:
    embedder = make()
    batch = replace(BATCH, group=Group(0, "toy", "k", SENTENCE))
    with pytest.raises(ConfigError, match="leaves no room for 12"):
        prompts_of(embedder, 1.0).apply(batch, torch.Generator())
    with pytest.raises(ConfigError, match="max_tokens is 24"):
        prompts_of(embedder, 1.0, query_tokens=24).check_fit()


def test_texts_are_read_without_a_way_back_in_the_order_they_came() -> None:
    embedder = make()
    texts = prompts_of(embedder, 0.0).lay_out([SENTENCE, "a", "quick fox"], "document")
    rows = read_out(embedder._model.backbone, texts, chunk_tokens=20)
    assert not rows.requires_grad
    found = torch.nn.functional.normalize(rows, dim=-1).numpy()
    np.testing.assert_allclose(found[1:], embedder.encode_document(["a", "quick fox"]), atol=1e-5)
