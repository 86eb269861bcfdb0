"""Chunks of a document as vectors: means by hand, what reaches which chunk, the same bits for the same document."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed import Embedder
from diffembed.backbone import pack
from diffembed.embedder import budget as budgets
from diffembed.errors import CheckpointError, ConfigError, DataError
from diffembed.text.windows import cut_windows
from tests.examples import examples
from tests.tiny_embedders import LIMIT, LONG, ODD, SENTENCE, TOKENIZER, WORDS, make, make_backbone

PARTS = [
    "A fox.\n\n",
    "<|eos|>",
    "<|query|>",
    "🙂👩‍👩‍👧",
    "日本語。",
    "e\u0301\u0323",
    "\U0001d160",
    "\ufb2c",
    "\x00",
    " \n ",
    *WORDS,
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return make()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def by_hand(document: str, spans, *, limit: int, prompt: str = "", direction="both") -> np.ndarray:
    """Each window through the training path, and a loop over its tokens."""
    backbone = make_backbone(direction)
    (prompt_ids,) = TOKENIZER.encode([prompt])
    ids, offsets = TOKENIZER.encode_with_offsets([document])[0]
    counted = [[] for _ in spans]
    for window in cut_windows(len(ids), limit - len(prompt_ids) - 1):
        sequence = [*prompt_ids, *ids[window.start : window.stop], TOKENIZER.eos_id]
        with torch.no_grad():
            states = backbone(pack([sequence])).numpy()
        for token in range(window.own_start, window.own_stop):
            (chunk,) = [number for number, (start, end) in enumerate(spans) if start <= offsets[token][0] < end]
            counted[chunk].append(states[len(prompt_ids) + token - window.start])
        if window.is_last:
            counted[-1].append(states[-1])
    assert sum(len(states) for states in counted) == len(ids) + 1, "each token once, and one EOS"
    return unit(np.stack([np.mean(states, axis=0) for states in counted]))


# What a chunk's vector is


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
@pytest.mark.parametrize("prompt", ["", "<|query|>"])
@pytest.mark.parametrize(
    ("document", "limit"), [(SENTENCE, 40), (LONG, LIMIT), ("日本語 🙂 <|eos|> e\u0301 " * 5, LIMIT)]
)
def test_a_chunk_is_the_mean_of_its_own_tokens(document, limit, prompt, direction) -> None:
    embedder = make(direction, max_tokens=limit, prompts={"document": prompt})
    chunks = embedder.embed_chunks(document, 8)
    assert len(chunks.spans) > 1
    assert (len(TOKENIZER.encode([document])[0]) + 2 <= limit) == (chunks.report.windowed == 0)
    expected = by_hand(document, chunks.spans, limit=limit, prompt=prompt, direction=direction)
    np.testing.assert_allclose(chunks.vectors, expected, atol=1e-5)


@pytest.mark.parametrize("prompt", ["", "<|query|>"])
def test_a_single_chunk_has_the_vector_of_the_document(prompt) -> None:
    embedder = make(prompts={"document": prompt})
    for document in [*ODD[1:], "the quick brown fox"]:
        expected = embedder.embed([document]).vectors
        for contextual in (True, False):
            chunks = embedder.embed_chunks(document, LIMIT - 2, contextual=contextual)
            assert chunks.spans == [(0, len(document))]
            assert np.array_equal(chunks.vectors, expected)


def test_plain_chunks_are_texts_of_their_own(embedder) -> None:
    chunks = embedder.embed_chunks(LONG, 12, contextual=False)
    texts = [LONG[start:end] for start, end in chunks.spans]
    assert "".join(texts) == LONG
    assert np.array_equal(chunks.vectors, embedder.embed(texts).vectors)
    assert chunks.report.texts == len(texts)


@pytest.mark.parametrize(("direction", "reaches_back"), [("both", True), ("backward", True), ("forward", False)])
def test_a_late_word_moves_the_first_chunk_in_context_alone(direction, reaches_back) -> None:
    embedder = make(direction, max_tokens=40)
    other = SENTENCE.removesuffix("boxes") + "wizards"
    assert len(TOKENIZER.encode([other])[0]) == len(TOKENIZER.encode([SENTENCE])[0])

    def moved(contextual: bool) -> list[bool]:
        first, second = (embedder.embed_chunks(text, 8, contextual=contextual) for text in (SENTENCE, other))
        assert len(first.spans) > 1
        assert [start for start, _ in first.spans] == [start for start, _ in second.spans]
        return [bool(each) for each in np.abs(first.vectors - second.vectors).max(axis=1)[[0, -1]] > 1e-4]

    assert moved(contextual=True) == [reaches_back, True]
    assert moved(contextual=False) == [False, True]


def test_context_changes_every_chunk(embedder) -> None:
    contextual, plain = (embedder.embed_chunks(LONG, 8, contextual=each) for each in (True, False))
    assert contextual.spans == plain.spans
    assert np.abs(contextual.vectors - plain.vectors).max(axis=1).min() > 1e-3


# Any text


@examples(50)
@given(
    st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PARTS), max_size=40).map("".join)),
    st.integers(8, LIMIT - 1),
    st.booleans(),
)
def test_odd_texts(document, size, contextual) -> None:
    chunks = make().embed_chunks(document, size, contextual=contextual)
    assert [start for start, _ in chunks.spans] + [len(document)] == [0] + [end for _, end in chunks.spans]
    starts = [start for start, _ in TOKENIZER.encode_with_offsets([document])[0][1]]
    for start, end in chunks.spans:
        inside = [each for each in starts if start <= each < end]
        assert 0 < len(inside) <= size or len(set(inside)) == 1, "only a single character may have more tokens"
    assert chunks.vectors.dtype == np.float32
    assert chunks.vectors.shape == (len(chunks.spans), 32)
    np.testing.assert_allclose(np.linalg.norm(chunks.vectors, axis=1), 1, atol=1e-5)
    if contextual and document:
        np.testing.assert_allclose(chunks.vectors, by_hand(document, chunks.spans, limit=LIMIT), atol=1e-5)


@pytest.mark.parametrize("contextual", [True, False])
def test_no_text_and_nothing_but_white_space(embedder, contextual) -> None:
    empty = embedder.embed_chunks("", 8, contextual=contextual, dims=5)
    assert (empty.spans, empty.vectors.shape, empty.vectors.dtype) == ([], (0, 5), np.float32)
    assert (empty.report.texts, empty.report.empty, empty.report.tokens) == (1, 1, 0)
    blank = " \n" * 20
    chunks = embedder.embed_chunks(blank, 8, contextual=contextual)
    assert "".join(blank[start:end] for start, end in chunks.spans) == blank
    np.testing.assert_allclose(np.linalg.norm(chunks.vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("contextual", [True, False])
def test_the_same_document_has_the_same_bits(dtype, contextual) -> None:
    used = make(dtype=dtype)
    documents = [LONG * 8, SENTENCE, LONG, "日本語 " * 40]
    first = [used.embed_chunks(each, 9, contextual=contextual) for each in documents]
    for document, chunks in reversed(list(zip(documents, first, strict=True))):
        for embedder in (used, make(dtype=dtype)):
            again = embedder.embed_chunks(document, 9, contextual=contextual)
            assert again.spans == chunks.spans
            assert again.vectors.tobytes() == chunks.vectors.tobytes()


@pytest.mark.parametrize("budget", [1, LIMIT, 5 * LIMIT + 3])
def test_batches_do_not_matter(embedder, monkeypatch, budget) -> None:
    expected = embedder.embed_chunks(LONG, 9).vectors
    monkeypatch.setattr(budgets, "CPU_BATCH_TOKENS", budget)
    np.testing.assert_allclose(embedder.embed_chunks(LONG, 9).vectors, expected, atol=1e-6)


# Options


def test_headings_begin_chunks(embedder) -> None:
    heading = LONG.index("lazy")
    spans = embedder.embed_chunks(LONG, LIMIT - 1, headings=[heading]).spans
    # The space before a word belongs to the word's token.
    assert heading - 1 in [start for start, _ in spans]
    assert heading - 1 not in [start for start, _ in embedder.embed_chunks(LONG, LIMIT - 1).spans]


def test_dims(embedder) -> None:
    full = embedder.embed_chunks(LONG, 8).vectors
    for contextual in (True, False):
        full = embedder.embed_chunks(LONG, 8, contextual=contextual).vectors
        cut = embedder.embed_chunks(LONG, 8, contextual=contextual, dims=5).vectors
        np.testing.assert_allclose(cut, unit(full[:, :5]), atol=1e-6)


def test_encode_chunks_lists_them(embedder) -> None:
    chunks = embedder.embed_chunks(LONG, 10)
    listed = embedder.encode_chunks(LONG, 10)
    assert [(each.start, each.end) for each in listed] == chunks.spans
    assert np.array_equal(np.stack([each.vector for each in listed]), chunks.vectors)
    assert embedder.last_report.tokens == chunks.report.tokens
    assert embedder.encode_chunks("", 10) == []


def test_report(embedder) -> None:
    tokens = len(TOKENIZER.encode([LONG])[0])
    report = embedder.embed_chunks(LONG, 8).report
    assert (report.texts, report.windowed, report.truncated, report.empty) == (1, 1, 0, 0)
    assert (report.tokens, report.windows) == (tokens + 1, len(cut_windows(tokens, LIMIT - 1)))
    assert report.seconds > 0
    expected = embedder.embed([LONG]).report
    assert (report.tokens, report.windows) == (expected.tokens, expected.windows), "it is read as `embed` reads it"
    short = embedder.embed_chunks("the fox", 8).report
    assert (short.windowed, short.windows) == (0, 0)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_tokens": 7}, "chunk_tokens is 7"),
        ({"chunk_tokens": LIMIT}, f"chunk_tokens is {LIMIT}"),
        ({"chunk_tokens": 8.0}, r"chunk_tokens is 8\.0"),
        ({"dims": 33}, "dims is 33"),
        ({"headings": [2, 1]}, "headings"),
        ({"headings": [99]}, "headings"),
    ],
)
@pytest.mark.parametrize("contextual", [True, False])
def test_options_that_there_are_none_of(embedder, options, message, contextual) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        embedder.embed_chunks("the fox", **({"chunk_tokens": 8, "contextual": contextual} | options))
    assert caught.value.hint


def test_the_hint_counts_prompt_and_eos() -> None:
    for prompt, most in (("", LIMIT - 1), ("<|query|>", LIMIT - 2)):
        embedder = make(prompts={"document": prompt})
        with pytest.raises(ConfigError) as caught:
            embedder.encode_chunks("the fox", most + 1)
        assert f"to {most}" in caught.value.hint
        assert len(embedder.encode_chunks("the fox", most)) == 1


@pytest.mark.parametrize(
    ("document", "message"), [(["a"], "got list"), (None, "NoneType"), (b"a", "bytes"), ("a\ud800", "half a surrogate")]
)
def test_what_is_no_document(embedder, document, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        embedder.encode_chunks(document, 8)
    assert caught.value.hint


def test_no_vector_comes_of_damaged_weights() -> None:
    backbone = make_backbone()
    with torch.no_grad():
        backbone.embed_tokens.weight[TOKENIZER.eos_id] = float("nan")
    embedder = Embedder.from_backbone(backbone, TOKENIZER, max_tokens=LIMIT, dtype="float32", device="cpu")
    with pytest.raises(CheckpointError, match="direction for chunk 0"):
        embedder.embed_chunks("the fox", 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("contextual", [True, False])
def test_several_documents_have_the_bits_that_each_has_alone(dtype: str, contextual: bool) -> None:
    embedder = Embedder.load(dtype=dtype)
    texts = ["", *ODD, LONG, LONG * 20, *(" ".join(WORDS[:count]) for count in range(1, len(WORDS)))]
    documents = [(text, ()) for text in texts]
    together = embedder.embed_documents(documents, 64, contextual=contextual)
    backwards = embedder.embed_documents(documents[::-1], 64, contextual=contextual)[::-1]
    assert any(len(chunks.spans) > 5 for chunks in together)
    for text, chunks, other in zip(texts, together, backwards, strict=True):
        alone = embedder.embed_chunks(text, 64, contextual=contextual)
        assert alone.spans == chunks.spans == other.spans
        assert alone.vectors.tobytes() == chunks.vectors.tobytes() == other.vectors.tobytes()
        assert replace(alone.report, seconds=0.0) == replace(chunks.report, seconds=0.0)
    assert embedder.embed_documents([], 64) == []
