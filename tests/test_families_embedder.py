"""Folders of other families as embedders: equal to transformers' tokenizer, states and the mean of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, decoders, models, processors
from tokenizers import Tokenizer as RawTokenizer

from diffembed import Embedder
from diffembed.backbone import load_backbone, pack
from diffembed.backbone.families import DREAM, LLADA, MISTRAL, mask_prompts
from diffembed.errors import CheckpointError, ConfigError
from diffembed.readout.spec import Readout, masks
from diffembed.text.tokenizer import Tokenizer
from tests import family_checkpoints
from tests.family_tokenizers import SPECIAL, VOCAB, vocab_and_merges
from tests.tiny_embedders import ODD, SENTENCE, WORDS, make

pytestmark = pytest.mark.extra
pytest.importorskip("transformers")


def with_bos(folder: Path, trained: RawTokenizer) -> None:
    """As Llama 3 ships: tokenizer.json, whose post-processor puts BOS before a text."""
    raw = RawTokenizer(trained.model)
    raw.pre_tokenizer, raw.decoder = trained.pre_tokenizer, decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    bos = SPECIAL[0]
    raw.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))])
    raw.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_vocab_and_merges_make_qwens_tokenizer(tmp_path: Path, trained: RawTokenizer) -> None:
    import transformers

    config = vocab_and_merges(tmp_path, trained)
    ours = Tokenizer.load(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**config, "tokenizer_class": "Qwen2Tokenizer", "mask_token": "<|mask|>"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in [*ODD, SENTENCE, "2024-11-23: 3.14159", "a<|im_start|>b", "tabs\t\tand  spaces\n\n x "]]
    for text in texts:
        assert ours.encode([text])[0] == theirs(text)["input_ids"], text
    assert (ours.mask_token_id, ours.eos_id, ours.pad_id) == (VOCAB - 1, VOCAB - 4, VOCAB - 4)
    assert ours.prefix == ours.suffix == []


@pytest.mark.parametrize("model_type", ["Dream", "qwen2", "llada", "llama", "a2d-qwen3"])
def test_the_mean_of_transformers_states(tmp_path: Path, trained: RawTokenizer, model_type: str) -> None:
    oracle = family_checkpoints.make(model_type, tmp_path, vocab_size=VOCAB)
    is_llama = model_type in ("llama", "llada")
    if is_llama:
        with_bos(tmp_path, trained)
    else:
        vocab_and_merges(tmp_path, trained)
    embedder = Embedder.load(tmp_path, dtype="float32")
    assert embedder.direction == ("both" if model_type in family_checkpoints.LOOKS_BOTH_WAYS else "forward")
    oracle.config.is_causal = embedder.direction == "forward"
    texts = [SENTENCE[:60], "a", "new\nline 12345", "e\u0301 日本"]
    vectors = embedder.encode(texts)
    for text, vector in zip(texts, vectors, strict=True):
        ids = embedder.tokenizer.raw.encode(text).ids  # with BOS where the tokenizer has one
        with torch.no_grad():
            states = oracle.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        mean = states[int(is_llama) :].mean(0).numpy()  # BOS is read, and not counted
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_an_instruction_is_read_and_not_counted(tmp_path: Path, trained: RawTokenizer) -> None:
    oracle = family_checkpoints.make("Dream", tmp_path, vocab_size=VOCAB)
    vocab_and_merges(tmp_path, trained)
    embedder = Embedder.load(tmp_path, dtype="float32")
    oracle.config.is_causal = False
    # The whole string is cut; a token that reaches over the seam (` the`) is the text's.
    encoding = embedder.tokenizer.raw.encode("find it: the fox", add_special_tokens=False)
    num_before = sum(end <= len("find it: ") for _, end in encoding.offsets)
    with torch.no_grad():
        states = oracle.model(torch.tensor([encoding.ids]), use_cache=False).last_hidden_state[0]
    mean = states[num_before:].mean(0).numpy()
    [vector] = embedder.encode_query(["the fox"], instruction="find it:")
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_an_empty_text_has_a_vector(tmp_path: Path, trained: RawTokenizer) -> None:
    family_checkpoints.make("Dream", tmp_path, vocab_size=VOCAB)
    vocab_and_merges(tmp_path, trained)
    embedder = Embedder.load(tmp_path, dtype="float32")
    encoded = embedder.embed(["", "a"])
    assert encoded.report.empty == 1
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(encoded.vectors[0], embedder.encode(["<|endoftext|>"])[0])
    [chunk] = embedder.encode_chunks("a", chunk_tokens=8)
    np.testing.assert_allclose(chunk.vector, encoded.vectors[1], atol=1e-6)


@pytest.mark.parametrize("model_type", ["Dream", "llada", "bidirectional_pplx_qwen3", "mistral"])
def test_saved_it_is_a_stock_model_with_the_same_vectors(
    tmp_path: Path, trained: RawTokenizer, model_type: str
) -> None:
    family_checkpoints.make(model_type, tmp_path / "theirs", vocab_size=VOCAB)
    vocab_and_merges(tmp_path / "theirs", trained)
    embedder = Embedder.load(tmp_path / "theirs", dtype="float32", direction="both")
    embedder.save(tmp_path / "ours")
    texts = [SENTENCE[:60], "12345 a", "日本"]
    again = Embedder.load(tmp_path / "ours", dtype="float32")
    assert again.direction == "both"
    np.testing.assert_allclose(again.encode(texts), embedder.encode(texts), atol=1e-6)
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    np.testing.assert_allclose(other.encode(texts), embedder.encode(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer_class": "GPT2Tokenizer"}, "GPT2Tokenizer"),
        ({"added_tokens_decoder": {"7": {"content": "<|x|>"}}}, "its place is"),
        ({"added_tokens_decoder": {"seven": {}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder"),
    ],
)
def test_a_tokenizer_that_cannot_be_made(
    tmp_path: Path, trained: RawTokenizer, changes: dict[str, Any], words: str
) -> None:
    config = vocab_and_merges(tmp_path, trained)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=words):
        Tokenizer.load(tmp_path)


def pplx_folder(folder: Path, trained: RawTokenizer) -> Any:
    """As perplexity-ai publishes it: its quantiser is a module of remote code, which nobody runs here."""
    oracle = family_checkpoints.make("bidirectional_pplx_qwen3", folder, vocab_size=VOCAB)
    vocab_and_merges(folder, trained)
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
    rows = [{"idx": n, "name": str(n), "path": ["", "1_Pooling"][n], "type": kind} for n, kind in enumerate(kinds)]
    rows.append(
        {"idx": 2, "name": "2", "path": "", "type": "st_quantize.FlexibleQuantizer", "kwargs": ["quantization"]}
    )
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "st_quantize.py").write_text("raise SystemExit('this must never run')")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return oracle


def test_pplx_embeds_own_folder(tmp_path: Path, trained: RawTokenizer) -> None:
    oracle = pplx_folder(tmp_path / "pplx", trained)
    embedder = Embedder.load(tmp_path / "pplx", dtype="float32")
    assert (embedder.direction, embedder.readout.codes) == ("both", "tanh")
    oracle.config.is_causal = False
    for text in [SENTENCE[:60], "12345 a"]:
        ids = embedder.tokenizer.encode([text])
        with torch.no_grad():
            mean = oracle.model(torch.tensor(ids), use_cache=False).last_hidden_state[0].mean(0)
        [codes] = embedder.embed([text], precision="int8").vectors
        assert np.abs(codes - torch.round(127 * torch.tanh(mean)).numpy()).max() <= 1  # a state may lie on an edge
        assert np.array_equal(embedder.embed([text], precision="binary").vectors[0], np.packbits(mean.numpy() >= 0))
    embedder.save(tmp_path / "ours")
    again = Embedder.load(tmp_path / "ours", dtype="float32")
    assert np.array_equal(again.encode([SENTENCE]), embedder.encode([SENTENCE]))
    assert not (tmp_path / "ours" / "modules.json").exists(), "stock modules can't write codes"


@pytest.mark.parametrize(
    ("pooling", "counts_prompt"), [("weighted_mean", False), ("weighted_mean", True), ("mean", True), ("last", False)]
)
def test_sentence_transformers_reads_other_poolings(tmp_path: Path, pooling: Any, counts_prompt: bool) -> None:
    from sentence_transformers import SentenceTransformer

    embedder = make().with_readout(Readout(pooling=pooling, counts_prompt=counts_prompt))
    embedder.save(tmp_path)
    other = SentenceTransformer(str(tmp_path), device="cpu")
    for role in ("query", "document"):
        found = getattr(other, f"encode_{role}")(WORDS)
        np.testing.assert_allclose(found, getattr(embedder, f"encode_{role}")(WORDS), atol=1e-5)
    (tmp_path / "diffembed.json").unlink()
    again = Embedder.load(tmp_path, dtype="float32")
    assert again.readout == embedder.readout
    np.testing.assert_allclose(again.encode_query(WORDS), embedder.encode_query(WORDS), atol=1e-6)


def test_lladas_mask_token_is_known_where_its_files_do_not_name_it(tmp_path: Path) -> None:
    vocabulary = {
        "<|mdm_mask|>": 0,
        "<|endoftext|>": 1,
        **{character: number + 2 for number, character in enumerate("abc")},
    }
    raw = RawTokenizer(models.BPE(vocabulary, []))
    raw.add_special_tokens(["<|mdm_mask|>", "<|endoftext|>"])
    family_checkpoints.make("llada", tmp_path)
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    embedder = Embedder.load(tmp_path, "cpu", "float32").with_readout(masks(2, 3))
    assert embedder.tokenizer.mask_token_id == 0
    assert embedder.encode_document(["abc"]).shape == (1, 3, embedder.dims)
    embedder.save(tmp_path / "saved")
    np.testing.assert_allclose(
        Embedder.load(tmp_path / "saved", "cpu", "float32").encode_document(["abc"]),
        embedder.encode_document(["abc"]),
        atol=1e-6,
    )


def test_the_prompts_of_diffretriever_stand_in_turns_of_the_family() -> None:
    asked = "Use a few words to represent the passage in a retrieval task. Make sure your words are in lowercase."
    assert mask_prompts(DREAM)["document"] == (
        "<|im_start|>system\nYou are an AI assistant that can understand human language.<|im_end|>\n"
        f'<|im_start|>user\nPassage: "{{text}}". {asked}<|im_end|>\n<|im_start|>assistant\nThe words are: "'
    )
    asked = "Use one word to represent the query in a retrieval task. Make sure your word is in lowercase."
    assert mask_prompts(LLADA, several=False)["query"] == (
        "<|start_header_id|>system<|end_header_id|>\n\n"
        "You are an AI assistant that can understand human language.<|eot_id|>"
        f'<|start_header_id|>user<|end_header_id|>\n\nQuery: "{{text}}". {asked}<|eot_id|>'
        '<|start_header_id|>assistant<|end_header_id|>\n\nThe word is: "'
    )
    with pytest.raises(ConfigError, match="no chat template with turns"):
        mask_prompts(MISTRAL)


def test_masks_follow_the_opened_quotation_mark_of_the_answer(tmp_path: Path, trained: RawTokenizer) -> None:
    """Dream's shift: the state of the quotation mark predicts the first mask."""
    family_checkpoints.make("Dream", tmp_path, vocab_size=VOCAB, max_position_embeddings=512)
    vocab_and_merges(tmp_path, trained)
    embedder = Embedder.load(tmp_path, "cpu", "float32", "both")
    embedder = embedder.with_readout(masks(2, 3), prompts=mask_prompts(DREAM))
    tokenizer = embedder.tokenizer
    [whole] = tokenizer.encode([mask_prompts(DREAM)["query"].replace("{text}", "jazz")])
    ids = [*whole, tokenizer.mask_token_id, tokenizer.mask_token_id, *tokenizer.suffix]
    with torch.no_grad():
        states = load_backbone(tmp_path, direction="both")(pack([ids]))
    wanted = torch.nn.functional.normalize(states[len(whole) - 1 : len(whole) + 1], dim=1)
    np.testing.assert_allclose(embedder.encode_query(["jazz"])[0], wanted, atol=1e-5)
