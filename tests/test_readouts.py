"""Readouts of an embedder: against loops over the backbone's own states, and through folders."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffembed import Embedder
from diffembed.backbone import Backbone, pack
from diffembed.errors import CheckpointError, ConfigError
from diffembed.readout.numbers import maxsim
from diffembed.readout.spec import Readout, masks
from tests.tiny_embedders import LIMIT, LONG, ODD, SENTENCE, TOKENIZER, make, make_backbone

TEXTS = [SENTENCE[:40], "a", "日本 \n x"]
TEMPLATE = "<|mask|>user\n{text}<|pad|>\n"


def states(embedder: Embedder, ids: list[int]) -> torch.Tensor:
    """(T, D) of the plain modules, which is what the engine must equal."""
    with torch.no_grad():
        return embedder._model.backbone(pack([ids]))


def unit(vector: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vector.float(), dim=-1).numpy()


def query_ids(text: str) -> tuple[list[int], list[int]]:
    return [TOKENIZER.query_id], [*TOKENIZER.encode([text])[0], TOKENIZER.eos_id]


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
def test_weighted_mean_counts_the_nth_token_n_times(direction) -> None:
    embedder = make(direction).with_readout(Readout(pooling="weighted_mean"))
    for text, vector in zip(TEXTS, embedder.encode_query(TEXTS), strict=True):
        before, own = query_ids(text)
        weights = torch.arange(1.0, len(own) + 2)[1:, None]  # the prompt is the first
        expected = (states(embedder, [*before, *own])[1:] * weights).sum(0)
        np.testing.assert_allclose(vector, unit(expected), atol=1e-5)


def test_last_reads_the_eos_and_the_mean_of_windows() -> None:
    embedder = make("forward").with_readout(Readout(pooling="last"))
    for text, vector in zip(TEXTS, embedder.encode_document(TEXTS), strict=True):
        _, own = query_ids(text)
        np.testing.assert_allclose(vector, unit(states(embedder, own)[-1]), atol=1e-5)
    from diffembed.text.windows import cut_windows

    ids = TOKENIZER.encode([LONG])[0]
    windows = cut_windows(len(ids), LIMIT - 1)
    lasts = [states(embedder, [*ids[w.start : w.stop], TOKENIZER.eos_id])[-1] for w in windows]
    np.testing.assert_allclose(embedder.encode([LONG])[0], unit(torch.stack(lasts).mean(0)), atol=1e-5)


def test_the_prompt_counts_if_asked() -> None:
    embedder = make().with_readout(Readout(counts_prompt=True), template=TEMPLATE)
    for text, vector in zip(TEXTS, embedder.encode_query(TEXTS), strict=True):
        ids = TOKENIZER.encode([f"<|mask|>user\n<|query|>{text}<|pad|>\n"])[0]
        expected = states(embedder, [*ids, TOKENIZER.eos_id]).mean(0)
        np.testing.assert_allclose(vector, unit(expected), atol=1e-5)


def test_a_template_is_read_and_not_counted() -> None:
    embedder = make().with_readout(template=TEMPLATE)
    [vector] = embedder.encode_document(["fox"])
    before, own, after = (TOKENIZER.encode([x])[0] for x in ("<|mask|>user\n", "fox", "<|pad|>\n"))
    found = states(embedder, [*before, *own, *after, TOKENIZER.eos_id])
    counted = [*range(len(before), len(before) + len(own)), len(found) - 1]
    np.testing.assert_allclose(vector, unit(found[counted].mean(0)), atol=1e-5)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("multi", [False, True])
def test_masks_are_read_where_they_are_predicted(shift, multi) -> None:
    """Under Dream's shift the head turns the state before a mask into that mask's logits: that is the one to read."""
    backbone = make_backbone(logit_shift=shift)
    embedder = Embedder.from_backbone(backbone, TOKENIZER, max_tokens=LIMIT, dtype="float32", device="cpu")
    embedder = embedder.with_readout(
        masks(2, 3, multi=multi), prompts={"query": 'Query: "{text}" is: "', "document": ""}
    )
    vectors = embedder.encode_query(["fox", ""])
    assert vectors.shape == ((2, 2, 32) if multi else (2, 32))
    assert embedder.encode_document(["fox"]).shape == ((1, 3, 32) if multi else (1, 32))
    ids = [*TOKENIZER.encode(['Query: "fox" is: "'])[0], *[TOKENIZER.mask_token_id] * 2, TOKENIZER.eos_id]
    batch = pack([ids])
    with torch.no_grad():
        own = backbone(batch)
        at_masks = backbone.predicting_states(own, batch)[-3:-1]
        # The same by logits: shifted as Dream's code shifts them, they belong to the states that were read.
        logits = backbone.logits(own)
        shifted = torch.cat([logits[:1], logits[:-1]]) if shift else logits
        torch.testing.assert_close(backbone.logits(at_masks), shifted[-3:-1])
    expected = unit(at_masks) if multi else unit(at_masks.mean(0))
    np.testing.assert_allclose(vectors[0], expected, atol=1e-5)


def test_masks_see_the_text() -> None:
    embedder = make().with_readout(masks(4, 4))
    one, two = embedder.encode_document([SENTENCE[:30], SENTENCE[10:40]])
    assert float((one @ two.T).max()) < 0.9999


def test_tanh_codes_are_pplx_embeds() -> None:
    embedder = make()
    codes = embedder.with_readout(Readout(codes="tanh"))
    for text in TEXTS:
        _, own = query_ids(text)
        mean = states(embedder, own).mean(0)
        expected = torch.clamp(torch.round(127 * torch.tanh(mean)), -127, 127)
        [int8] = codes.embed([text], precision="int8").vectors
        assert int8.dtype == np.int8
        assert np.abs(int8.astype(int) - expected.numpy()).max() <= 1  # a state may lie on an edge
        [floats] = codes.encode([text])
        np.testing.assert_allclose(floats, int8 / np.linalg.norm(int8.astype(float)), atol=1e-6)
        [bits] = codes.embed([text], precision="binary").vectors
        assert np.array_equal(bits, np.packbits(mean.numpy() >= 0))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.integers(4, 32))
def test_calibrated_codes_compare_by_products(texts, dims) -> None:
    embedder = CALIBRATED
    scale = embedder.readout.scale
    assert scale is not None
    scale *= math.sqrt(dims / embedder.dims)
    vectors = embedder.embed(texts, dims=dims).vectors
    codes = embedder.embed(texts, dims=dims, precision="int8").vectors
    small = np.abs(vectors) * scale < 127
    assert (np.abs(codes / scale - vectors)[small] <= 0.5001 / scale).all()
    assert (np.abs(codes[~small]) == 127).all()


def test_calibrated_codes_of_prefixes_keep_the_directions() -> None:
    for dims in (4, 8, 16, 32):
        vectors = CALIBRATED.embed(TEXTS, dims=dims).vectors
        codes = CALIBRATED.embed(TEXTS, dims=dims, precision="int8").vectors.astype(np.float32)
        assert ((vectors * codes).sum(1) / np.linalg.norm(codes, axis=1)).min() > 0.999
        assert (np.abs(codes) == 127).mean() < 0.1


CALIBRATED = make().calibrate(ODD + TEXTS)


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
def test_precisions_of_several_vectors(precision) -> None:
    embedder = make().with_readout(masks(2, 4))
    plain = embedder.encode_document(TEXTS, dims=16)
    small = embedder.encode_document(TEXTS, dims=16, precision=precision)
    assert small.shape == (3, 4, 2 if precision == "binary" else 16)
    assert np.array_equal(small[1], embedder.embed(TEXTS[1:2], dims=16, precision=precision).vectors[0])
    if precision == "float16":
        np.testing.assert_allclose(small, plain, atol=1e-3)
    assert embedder.embed([], dims=16, precision=precision).vectors.shape == (0, 4, 2 if precision == "binary" else 16)


READOUTS = [
    Readout(pooling="weighted_mean"),
    Readout(pooling="last"),
    Readout(counts_prompt=True),
    masks(2, 3),
    masks(2, 3, multi=False),
    Readout(codes="tanh"),
]


@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_a_folder_keeps_the_readout(tmp_path: Path, readout) -> None:
    embedder = make().with_readout(readout, template="{text}" if readout.is_mean else "<|pad|>{text}")
    embedder.save(tmp_path / "model")
    again = Embedder.load(tmp_path / "model", dtype="float32", device="cpu")
    assert again.readout == readout
    assert again._model.template == embedder._model.template
    assert np.array_equal(again.encode_query(ODD), embedder.encode_query(ODD))
    is_stock = (tmp_path / "model" / "modules.json").exists()
    assert is_stock == (readout.pooling != "masks" and readout.codes != "tanh" and "<" not in again._model.template)
    again.save(tmp_path / "model")  # what we wrote we may replace
    sidecar = json.loads((tmp_path / "model" / "diffembed.json").read_text())
    assert sidecar["format"] == 2
    sidecar["readout"] = {**sidecar.get("readout", {}), "pours": True}
    (tmp_path / "model" / "diffembed.json").write_text(json.dumps(sidecar))
    with pytest.raises(CheckpointError, match=r"(?s)readout.*hint: "):
        Embedder.load(tmp_path / "model")


def test_the_calibrated_scale_is_in_the_folder(tmp_path: Path) -> None:
    CALIBRATED.save(tmp_path / "model")
    again = Embedder.load(tmp_path / "model", dtype="float32", device="cpu")
    assert again.readout.scale == CALIBRATED.readout.scale
    assert np.array_equal(again.embed(ODD, precision="int8").vectors, CALIBRATED.embed(ODD, precision="int8").vectors)


@pytest.mark.parametrize("readout", [r for r in READOUTS if r.is_linear] + [Readout()], ids=str)
@pytest.mark.parametrize("text", [SENTENCE, LONG, ""], ids=["short", "windows", "empty"])
def test_shares_add_up_in_every_linear_readout(readout, text) -> None:
    embedder = make().with_readout(readout)
    explained = embedder.explain("quick fox", text)
    for tokens in (explained.query, explained.document):
        assert sum(token.share for token in tokens) == pytest.approx(explained.score, abs=1e-4)
    spans = [(token.start, token.end) for token in explained.document if not token.special]
    assert spans == TOKENIZER.encode_with_offsets([text])[0][1]
    assert not spans or max(end for _, end in spans) == len(text)


@pytest.mark.parametrize("readout", [r for r in READOUTS if not r.is_linear], ids=str)
def test_what_is_not_linear_is_not_explained(readout) -> None:
    with pytest.raises(ConfigError, match=r"(?s)splits over tokens.*hint: "):
        make().with_readout(readout).explain("a", "b")


@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_batches_do_not_matter(readout) -> None:
    embedder = make().with_readout(readout)
    texts = [*ODD, LONG, SENTENCE]
    alone = np.concatenate([embedder.encode_query([text]) for text in texts])
    np.testing.assert_allclose(embedder.encode_query(texts), alone, atol=1e-5)


def test_chunks_are_means(tmp_path: Path) -> None:
    weighted = make().with_readout(Readout(pooling="weighted_mean"))
    [only] = weighted.encode_chunks("one fox", 8)
    np.testing.assert_allclose(only.vector, weighted.encode_document(["one fox"])[0], atol=1e-6)
    counting = make().with_readout(Readout(counts_prompt=True), prompts={"document": "<|query|>"})
    [only] = counting.encode_chunks("one fox", 8)
    np.testing.assert_allclose(only.vector, counting.encode_document(["one fox"])[0], atol=1e-6)
    last = make().with_readout(Readout(pooling="last"))
    with pytest.raises(ConfigError, match=r"(?s)chunks are means.*contextual=False"):
        last.embed_chunks(LONG, 9)
    apart = last.embed_chunks(LONG, 9, contextual=False)
    np.testing.assert_allclose(apart.vectors, last.encode_document([LONG[a:b] for a, b in apart.spans]), atol=1e-6)
    with pytest.raises(ConfigError, match="several vectors"):
        make().with_readout(masks(2, 2)).embed_chunks(LONG, 9, contextual=False)


def test_maxsim_is_a_loop() -> None:
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(3, 2, 5)), rng.normal(size=(4, 6, 5))
    expected = [[np.mean([max(q @ p for p in document) for q in query]) for document in documents] for query in queries]
    np.testing.assert_allclose(maxsim(queries, documents), expected, atol=1e-5)
    np.testing.assert_allclose(maxsim(queries[:, 0], documents[:, 0]), queries[:, 0] @ documents[:, 0].T, atol=1e-5)
    with pytest.raises(ConfigError, match="5 dims, documents 4"):
        maxsim(queries, documents[..., :4])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"query_masks": 0}, "query_masks is 0"),
        ({"document_masks": True}, "document_masks is True"),
        ({"multi": True}, "multi is for masks"),
        ({"multi": 1}, "multi is 1"),
        ({"codes": "calibrated"}, "scale None"),
        ({"scale": 3.0}, "scale 3.0"),
        ({"codes": "calibrated", "scale": float("nan")}, "scale is nan"),
        ({"codes": "calibrated", "scale": "3"}, "scale is '3'"),
    ],
)
def test_readouts_that_there_are_none_of(change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(Readout(), **change)


def test_models_that_cannot_be_read_so() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)looks ahead only.*hint: "):
        make("backward").with_readout(Readout(pooling="last"))
    with pytest.raises(CheckpointError, match="template is 'x'"):
        make().with_readout(template="x")
    with pytest.raises(CheckpointError, match="more than once"):
        make().with_readout(prompts={"query": "{text}{text}"})
    with pytest.raises(CheckpointError, match=r"has \d+ tokens, max_tokens is 24"):
        make().with_readout(masks(30, 1))
    with pytest.raises(ConfigError, match="no vector to calibrate by"):
        make().calibrate([])
    with pytest.raises(ConfigError, match="codes by themselves"):
        make().with_readout(Readout(codes="tanh")).calibrate(["a"])


def test_an_instruction_goes_where_the_text_goes() -> None:
    embedder = make().with_readout(masks(1, 1), prompts={"query": 'Q: "{text}"'})
    [vector] = embedder.encode_query(["fox"], instruction="find<|query|>")
    ids = [*TOKENIZER.encode(['Q: "find<|query|><|query|>fox"'])[0], TOKENIZER.mask_token_id, TOKENIZER.eos_id]
    np.testing.assert_allclose(vector, unit(states(embedder, ids)[-2]), atol=1e-5)


def test_weights_are_shared() -> None:
    embedder = make()
    other = embedder.with_readout(Readout(pooling="last"))
    assert other._reader.engine is embedder._reader.engine
    assert embedder.readout == Readout()
    assert isinstance(other._model.backbone, Backbone)
