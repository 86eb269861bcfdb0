"""A score split over tokens: by hand, sums, spans; what words and other tokenizers make of it; what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import processors

from diffembed import Embedder
from diffembed.backbone import pack
from diffembed.embedder.explain import BLANK, END, TokenShare, by_word
from diffembed.errors import ConfigError, DataError
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.windows import cut_windows
from tests.examples import examples
from tests.tiny_embedders import LIMIT, LONG, ODD, SENTENCE, TOKENIZER, WORDS, make, make_backbone

TEXTS = [*ODD, SENTENCE, LONG]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return make()


def states_by_hand(text: str, prompt: str, direction="both") -> np.ndarray:
    """The state of each token that counts, with the training path, one window at a time."""
    backbone = make_backbone(direction)
    prompt_ids, ids = TOKENIZER.encode([prompt, text])
    counted = []
    for window in cut_windows(len(ids), LIMIT - len(prompt_ids) - 1):
        with torch.no_grad():
            states = backbone(pack([[*prompt_ids, *ids[window.start : window.stop], TOKENIZER.eos_id]]))
        start = len(prompt_ids) - window.start
        counted += [states[start + token] for token in range(window.own_start, window.own_stop)]
        if window.is_last:
            counted.append(states[-1])
    return torch.stack(counted).double().numpy()


def shares_by_hand(own: np.ndarray, other: np.ndarray) -> list[float]:
    mean, unit = own.mean(0), other.mean(0) / np.linalg.norm(other.mean(0))
    return [float(state @ unit) / (len(own) * np.linalg.norm(mean)) for state in own]


def shares(tokens: list[TokenShare]) -> list[float]:
    return [token.share for token in tokens]


# The arithmetic


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("instruction", "prompt"), [(None, "<|query|>"), ("find the dog: ", "find the dog: <|query|>")]
)
def test_the_definition(embedder: Embedder, text: str, instruction: str | None, prompt: str) -> None:
    explanation = embedder.explain("lazy wizards", text, instruction=instruction)
    query, document = states_by_hand("lazy wizards", prompt), states_by_hand(text, "")
    assert shares(explanation.query) == pytest.approx(shares_by_hand(query, document), abs=1e-5)
    assert shares(explanation.document) == pytest.approx(shares_by_hand(document, query), abs=1e-5)


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(TEXTS),
    st.lists(st.sampled_from([*WORDS, "🙂", "日本語", "e\u0301\u0323", "<|eos|>", "\n"]), max_size=60).map(" ".join),
)


@examples(60)
@given(query=texts, document=texts)
def test_each_side_adds_up_to_the_score_and_names_its_characters(embedder: Embedder, query: str, document: str) -> None:
    explanation = embedder.explain(query, document)
    cosine = float(embedder.encode_query([query])[0] @ embedder.encode_document([document])[0])
    assert explanation.score == pytest.approx(cosine, abs=1e-6)
    for text, tokens in ((query, explanation.query), (document, explanation.document)):
        assert sum(shares(tokens)) == pytest.approx(cosine, abs=1e-4)
        assert [token.special for token in tokens] == [False] * (len(tokens) - 1) + [True]
        assert (tokens[-1].start, tokens[-1].end) == (len(text), len(text))
        assert all(text[token.start : token.end] == token.text for token in tokens)
        assert len(tokens) == len(TOKENIZER.encode([text])[0]) + 1  # a long text's tokens once each, in order
        assert [token.start for token in tokens] == sorted(token.start for token in tokens)
        words = by_word(text, tokens)
        assert sum(word.share for word in words) == pytest.approx(cosine, abs=1e-4)
        assert [word.share for word in words] == sorted((word.share for word in words), reverse=True)


@pytest.mark.parametrize("document", ["", SENTENCE, LONG])
def test_centred_shares_add_up_to_nothing_and_keep_their_distances(embedder: Embedder, document: str) -> None:
    plain, centred = (embedder.explain("lazy wizards", document, centred=centred) for centred in (False, True))
    assert centred.score == plain.score
    for before, after in ((plain.query, centred.query), (plain.document, centred.document)):
        assert sum(shares(after)) == pytest.approx(0, abs=1e-9)
        assert np.diff(shares(after)) == pytest.approx(np.diff(shares(before)), abs=1e-9)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"direction": "forward"}, {"direction": "backward"}])
def test_in_other_numbers_and_directions(options: dict[str, str]) -> None:
    embedder = make(**options)
    for query, document in (("a fox", LONG), ("", SENTENCE)):
        explanation = embedder.explain(query, document)
        assert explanation.score == pytest.approx(
            float(embedder.encode_query([query])[0] @ embedder.encode_document([document])[0]), abs=1e-6
        )
        for tokens in (explanation.query, explanation.document):
            assert sum(shares(tokens)) == pytest.approx(explanation.score, abs=1e-4)


def test_the_report_of_the_last_call_is_left_alone(embedder: Embedder) -> None:
    embedder.encode(["a", "b"])
    report = embedder.last_report
    embedder.explain("a", LONG)
    assert embedder.last_report is report


# Tokens


def test_a_character_of_several_tokens_has_overlapping_spans(embedder: Embedder) -> None:
    *own, end = embedder.explain("a", "🙂").document
    assert len(own) == 4 and {(token.text, token.start, token.end) for token in own} == {("🙂", 0, 1)}
    assert end.special


def test_a_special_token_written_out_is_text(embedder: Embedder) -> None:
    written, added = embedder.explain("a", "<|eos|>").document
    assert (written.text, written.special) == ("<|eos|>", False)
    assert (added.text, added.special) == ("", True)


@pytest.mark.parametrize("text", ["", "a fox", LONG])
def test_a_tokenizer_with_bos_and_no_eos(text: str) -> None:
    """As Llama 3 has it: what stands before a text isn't listed, and an empty text has a token in its place."""
    raw = RawTokenizer.from_str(TOKENIZER.raw.to_str())
    raw.post_processor = processors.TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 0)])
    assert raw.token_to_id("<|pad|>") == 0
    tokenizer = Tokenizer(raw)
    embedder = Embedder.from_backbone(make_backbone(), tokenizer, max_tokens=LIMIT, dtype="float32", device="cpu")
    explanation = embedder.explain("a fox", text)
    assert sum(shares(explanation.document)) == pytest.approx(explanation.score, abs=1e-4)
    assert len(explanation.document) == (len(tokenizer.encode([text])[0]) or 1)
    assert [token.special for token in explanation.document] == [not text] * len(explanation.document)


# Words


def token(text: str, start: int, end: int, share: float, special: bool = False) -> TokenShare:
    return TokenShare(text[start:end], start, end, share, special)


def test_words_by_hand() -> None:
    text = "The the, cafe\u0301  日本"
    tokens = [
        token(text, 0, 3, 0.5),  # The
        token(text, 3, 5, 0.25),  # " t"
        token(text, 5, 7, 0.125),  # he
        token(text, 7, 8, -1.0),  # ,
        token(text, 8, 12, 2.0),  # " caf"
        token(text, 12, 14, 1.0),  # e and its accent
        token(text, 14, 15, -0.5),  # a space alone
        token(text, 15, 17, 0.0625),  # " 日"
        token(text, 17, 18, 0.03125),
        token(text, 18, 18, 4.0, special=True),
    ]
    assert [(word.text, word.share, word.count) for word in by_word(text, tokens)] == [
        (END, 4.0, 1),
        ("cafe\u0301", 3.0, 1),
        ("The", 0.875, 2),
        ("日", 0.0625, 1),
        ("本", 0.03125, 1),
        (BLANK, -0.5, 1),
        (",", -1.0, 1),
    ]


# What is refused


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["a list"]])
@pytest.mark.parametrize("side", ["query", "document"])
def test_what_is_no_text_is_named(embedder: Embedder, bad: object, side: str) -> None:
    with pytest.raises(DataError, match=f"the {side} must be a string, got {type(bad).__name__}") as error:
        embedder.explain(**{"query": "a", "document": "b", side: bad})  # type: ignore[arg-type]
    assert "one query and one document" in error.value.hint


def test_half_a_surrogate_pair(embedder: Embedder) -> None:
    for query, document in (("\ud800", "a"), ("a", "b\udc00")):
        with pytest.raises(DataError, match="half a surrogate pair"):
            embedder.explain(query, document)


def test_instructions_that_cannot_be_used(embedder: Embedder) -> None:
    for bad in (3, "the fox " * LIMIT):
        with pytest.raises(ConfigError, match="instruction must be a string|leaves no room"):
            embedder.explain("a", "b", instruction=bad)  # type: ignore[arg-type]
