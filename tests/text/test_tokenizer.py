"""The tokenizer: lossless bytes, known ids, honest offsets, strict files."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import CheckpointError, ConfigError, DataError
from diffembed.text.tokenizer import SPECIAL_TOKENS, Tokenizer

TEXTS = ["the cat sat on the mat", "a dog, 12345 cats\nand naïve façades", "日本語 🙂 done"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


def test_special_tokens_have_the_first_ids(tokenizer):
    assert [tokenizer.raw.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.mask_token_id, tokenizer.query_id) == (0, 1, 2, 3)


@given(st.text(max_size=60))
def test_text_survives_up_to_composition(text):
    tokenizer = Tokenizer.train(TEXTS, 300)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == unicodedata.normalize("NFC", text)


def test_encode_adds_nothing_and_empty_text_has_no_tokens(tokenizer):
    assert tokenizer.encode(["", "the"])[0] == []
    assert tokenizer.eos_id not in tokenizer.encode(["the cat"])[0]


def test_composed_and_decomposed_accents_are_one_text(tokenizer):
    assert tokenizer.encode(["naïve"]) == tokenizer.encode([unicodedata.normalize("NFD", "naïve")])


def test_offsets_cover_the_text(tokenizer):
    text = "a dog, 12345 cats 🙂"
    ids, offsets = tokenizer.encode_with_offsets([text])[0]
    assert len(ids) == len(offsets)
    assert offsets[0][0] == 0 and offsets[-1][1] == len(text)
    assert all(a[1] >= b[0] for a, b in zip(offsets, offsets[1:], strict=False)), "a gap between tokens"


def test_save_and_load_agree(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode(TEXTS) == tokenizer.encode(TEXTS)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.extra
def test_transformers_reads_the_same_ids_and_ends_every_text_in_eos(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["", "the cat\n\nsat 12345", "日本語 naïve 🙂", unicodedata.normalize("NFD", "façade"), "x"]
    assert theirs(texts)["input_ids"] == [[*ids, tokenizer.eos_id] for ids in tokenizer.encode(texts)]


def test_a_table_without_room_is_refused():
    with pytest.raises(ConfigError, match="260"):
        Tokenizer.train(TEXTS, 100)


@pytest.mark.parametrize(
    ("texts", "words"), [(["ok", None], "text 1 is NoneType"), ([b"x"], "bytes"), (["\ud800"], "surrogate")]
)
def test_what_is_no_text_is_refused(tokenizer, texts, words):
    with pytest.raises(DataError, match=words):
        tokenizer.encode(texts)


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": 3}'])
def test_a_damaged_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_foreign_tokenizer_lacks_what_it_lacks(tokenizer, tmp_path):
    data = json.loads(tokenizer.raw.to_str().replace("<|query|>", "<|other|>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    foreign = Tokenizer.load(tmp_path)
    assert foreign.find_id("query") is None
    assert foreign.suffix == tokenizer.suffix == [tokenizer.eos_id]
    with pytest.raises(CheckpointError, match="no query token"):
        _ = foreign.query_id
