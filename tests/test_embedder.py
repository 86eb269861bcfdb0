"""Strings to vectors: the definition by hand, batches that don't matter, what is refused."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed import Embedder
from diffembed.backbone import pack
from diffembed.embedder import budget as budgets
from diffembed.embedder import layout
from diffembed.errors import CheckpointError, ConfigError, DataError
from diffembed.text.windows import cut_windows
from tests.examples import examples
from tests.tiny_embedders import LIMIT, LONG, ODD, TOKENIZER, WORDS, make, make_backbone


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return make()


def by_definition(text: str, prompt: str = "", limit: int = LIMIT) -> np.ndarray:
    """The vector with the training path, one window at a time, and loops."""
    backbone = make_backbone()
    prompt_ids, ids = TOKENIZER.encode([prompt, text])
    counted = []
    for window in cut_windows(len(ids), limit - len(prompt_ids) - 1):
        sequence = [*prompt_ids, *ids[window.start : window.stop], TOKENIZER.eos_id]
        with torch.no_grad():
            states = backbone(pack([sequence]))
        start = len(prompt_ids) - window.start
        counted.extend(states[start + token] for token in range(window.own_start, window.own_stop))
        if window.is_last:
            counted.append(states[-1])
    assert len(counted) == len(ids) + 1, "each token once, and one EOS"
    mean = torch.stack(counted).mean(0)
    return (mean / mean.norm()).numpy()


# What a vector is


@pytest.mark.parametrize("text", [*ODD, "the quick fox", LONG])
@pytest.mark.parametrize("role", ["query", "document", None, "instruction"])
def test_the_definition(embedder, text, role) -> None:
    prompts = {"query": "<|query|>", "document": "", None: "", "instruction": "find the dog: <|query|>"}
    if role == "instruction":
        (vector,) = embedder.encode_query([text], instruction="find the dog: ")
    else:
        (vector,) = embedder.embed([text], role).vectors
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, by_definition(text, prompts[role]), atol=1e-5)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_encode_methods_are_embed_with_a_role(embedder) -> None:
    texts = ["the quick fox", LONG, ""]
    for encoded, role in [
        (embedder.encode(texts), None),
        (embedder.encode_query(texts), "query"),
        (embedder.encode_document(texts), "document"),
    ]:
        assert np.array_equal(encoded, embedder.embed(texts, role).vectors)
    assert not np.allclose(embedder.encode_query(texts), embedder.encode_document(texts), atol=1e-3)


def test_the_empty_text_has_a_vector_of_its_own(embedder) -> None:
    empty, blank = embedder.encode(["", " "])
    assert np.linalg.norm(empty) == pytest.approx(1)
    assert np.abs(empty - blank).max() > 0.01


texts_lists = st.lists(
    st.one_of(st.text(max_size=12), st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)),
    min_size=1,
    max_size=12,
)


@examples(40)
@given(texts_lists, st.randoms(use_true_random=False), st.integers(1, 200))
def test_a_text_alone_in_any_batch_and_any_order(texts, random, budget) -> None:
    embedder = make()
    alone = np.concatenate([embedder.encode_document([text]) for text in texts])
    order = list(range(len(texts)))
    random.shuffle(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budgets, "CPU_BATCH_TOKENS", budget)
        patch.setattr(layout, "CHUNK_TEXTS", 1 + budget % 5)
        together = embedder.encode_document([texts[i] for i in order])
    np.testing.assert_allclose(together, alone[order], atol=1e-5)


def test_alone_and_in_a_batch_in_bf16() -> None:
    embedder = make(dtype="bfloat16")
    assert embedder.dtype == torch.bfloat16
    texts = [" ".join(WORDS[: n % 17 + 1] * (n % 4 + 1)) for n in range(60)] + ODD
    alone = np.concatenate([embedder.encode([text]) for text in texts])
    assert (alone * embedder.encode(texts)).sum(axis=1).min() >= 0.9999
    assert (alone * make().encode(texts)).sum(axis=1).min() >= 0.999


def test_direction_reaches_the_vectors() -> None:
    vectors = [make(direction).encode(["the quick brown fox"]) for direction in ("both", "forward", "backward")]
    assert all(np.abs(a - b).max() > 0.01 for a, b in zip(vectors, [*vectors[1:], vectors[0]], strict=True))


def test_a_copy_of_the_backbone_is_taken() -> None:
    backbone = make_backbone()
    embedder = Embedder.from_backbone(backbone, TOKENIZER, max_tokens=LIMIT, dtype="float32")
    before = embedder.encode(["the fox"])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
    assert np.array_equal(embedder.encode(["the fox"]), before)


# Options


def test_dims_and_precision(embedder) -> None:
    texts = ["the quick fox", "", LONG]
    full = embedder.encode(texts)
    cut = embedder.encode(texts, dims=5)
    np.testing.assert_allclose(cut, full[:, :5] / np.linalg.norm(full[:, :5], axis=1, keepdims=True), atol=1e-6)
    small = embedder.encode_document(texts, precision="int8").astype(np.float32)
    np.testing.assert_allclose(small / np.linalg.norm(small, axis=1, keepdims=True), full, atol=0.005)
    assert np.array_equal(embedder.encode(texts, precision="binary"), np.packbits(full > 0, axis=1))


@pytest.mark.parametrize(("precision", "shape"), [("float32", (0, 9)), ("int8", (0, 9)), ("binary", (0, 2))])
def test_no_texts(embedder, precision, shape) -> None:
    encoded = embedder.embed([], dims=9, precision=precision)
    assert encoded.vectors.shape == shape
    assert encoded.vectors.dtype == embedder.embed(["a"], precision=precision).vectors.dtype
    assert encoded.report.texts == encoded.report.tokens == 0


def test_texts_come_from_any_collection(embedder) -> None:
    texts = ["the quick fox", "dog", ""]
    expected = embedder.encode(texts)
    for same in (tuple(texts), iter(texts), np.array(texts), (text for text in texts)):
        assert np.array_equal(embedder.encode(same), expected)


# Overflow


def test_truncate_reads_the_beginning_and_warns_once() -> None:
    embedder = make()
    ids = TOKENIZER.encode([LONG])[0]
    for prompt, encode in (("", embedder.encode_document), ("<|query|>", embedder.encode_query)):
        kept = TOKENIZER.decode(ids[: LIMIT - 1 - bool(prompt)])
        assert TOKENIZER.encode([kept])[0] == ids[: LIMIT - 1 - bool(prompt)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            (vector,) = encode([LONG], overflow="truncate")
        assert len(caught) == (not prompt), "once per embedder"
        assert all("1 of 1 texts were cut to 24 tokens" in str(each.message) for each in caught)
        assert all(each.filename == __file__ for each in caught), "it points to the caller"
        assert embedder.last_report.truncated == 1
        np.testing.assert_allclose(vector, by_definition(kept, prompt), atol=1e-5)


def test_error_names_the_text_and_its_tokens(embedder) -> None:
    tokens = len(TOKENIZER.encode([LONG])[0]) + 1
    with pytest.raises(DataError, match=rf"text 1 has {tokens} tokens .* the limit is 24") as caught:
        embedder.encode(["short", LONG], overflow="error")
    assert caught.value.hint
    with pytest.raises(DataError, match="text 2 is empty"):
        embedder.encode(["short", "a", ""], overflow="error")
    fits = TOKENIZER.decode(TOKENIZER.encode([LONG])[0][: LIMIT - 1])
    assert np.array_equal(embedder.encode([fits], overflow="error"), embedder.encode([fits]))
    with pytest.raises(DataError, match="text 0 has 25 tokens"):  # the prompt counts
        embedder.encode_query([fits], overflow="error")


def test_numbers_of_texts_count_on_over_chunks(embedder, monkeypatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_TEXTS", 2)
    for bad, message in (
        (LONG, "text 5 has"),
        ("", "text 5 is empty"),
        ("\ud800", "text 5 holds half"),
        (5, "text 5 is int"),
    ):
        with pytest.raises(DataError, match=message):
            embedder.encode(["a"] * 5 + [bad], overflow="error")


def test_chunks_bound_texts_and_characters(monkeypatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_TEXTS", 3)
    monkeypatch.setattr(layout, "CHUNK_CHARACTERS", 10)
    chunks = list(layout.read_chunks(["a", "b", "c", "d" * 8, "e" * 3, "f" * 50, "g"]))
    assert chunks == [(0, ["a", "b", "c"]), (3, ["d" * 8]), (4, ["e" * 3]), (5, ["f" * 50]), (6, ["g"])]


def test_report(embedder) -> None:
    texts = ["", "the quick fox", LONG, "dog", LONG]
    counts = [len(ids) for ids in TOKENIZER.encode(texts)]
    windows = len(cut_windows(counts[2], LIMIT - 2))
    report = embedder.embed(texts, "query").report
    assert (report.texts, report.empty, report.truncated) == (5, 1, 0)
    assert (report.windowed, report.windows) == (2, 2 * windows)
    assert report.tokens == sum(counts) + 2 * 5  # prompt and EOS of each
    assert report.seconds > 0
    cut = embedder.embed(texts[:2] + ["dog"], overflow="truncate").report
    assert (cut.tokens, cut.truncated, cut.windows) == (sum(counts[:2]) + counts[3] + 3, 0, 0)


# Bad input


@pytest.mark.parametrize(
    "texts", ["a bare string", b"bytes", None, 3, {"a": 1}, {"a"}, ["a", None], ["a", b"b"], [["a"]], np.array("a")]
)
def test_what_is_no_list_of_strings(embedder, texts) -> None:
    with pytest.raises(DataError, match="string") as caught:
        embedder.encode(texts)
    assert caught.value.hint == "pass a list of strings, [text] for one text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "passage"}, "role is 'passage'"),
        ({"overflow": "cut"}, "overflow is 'cut'"),
        ({"precision": "float8"}, "precision is 'float8'"),
        ({"dims": 33}, "dims is 33"),
        ({"role": "document", "instruction": "x"}, "belongs to queries"),
        ({"role": "query", "instruction": "\ud800"}, "the instruction holds half a surrogate pair"),
        ({"role": "query", "instruction": 7}, "must be a string, got int"),
        ({"role": "query", "instruction": LONG}, "leaves no room"),
    ],
)
def test_options_that_there_are_none_of(embedder, options, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        embedder.embed(["a"], **options)
    assert caught.value.hint or "instruction must be" in message or "got int" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 41}, "max_tokens is 41"),
        ({"max_tokens": 2}, "max_tokens is 2"),
        ({"prompts": {"passage": "<|query|>"}}, "no role passage"),
        ({"prompts": {"query": "query: "}}, "no special token"),
        ({"prompts": {"query": "<|query|> "}}, "no special token"),
        ({"prompts": {"query": LONG + "<|query|>"}}, "prompt of role query has"),
        ({"prompts": {"query": 3}}, "prompt of role query is 3"),
    ],
)
def test_parts_that_do_not_fit(options, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        make(**options)


def test_a_tokenizer_of_another_model() -> None:
    with pytest.raises(CheckpointError, match="the tokenizer has 320 tokens, the embedding table 300"):
        Embedder.from_backbone(make_backbone(vocab_size=300), TOKENIZER, max_tokens=LIMIT)


def test_threads_share_an_embedder(embedder) -> None:
    jobs = [[" ".join(WORDS[: n + 1])] * 3 + [LONG] for n in range(12)]
    expected = [embedder.embed(texts).vectors for texts in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda texts: embedder.embed(texts).vectors, jobs))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
