"""What `Embedder.save` writes, read by the libraries it is written for."""

import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.backbone import Backbone, BackboneConfig
from diffembed.data.docstrings import read_docstrings
from diffembed.text.tokenizer import Tokenizer

pytestmark = pytest.mark.extra

LIMIT = 64
LONG = " ".join(f"word{number}, and then some." for number in range(200))
TEXTS = [
    "A short text.",
    "",
    "x",
    " ",
    "  space before and after  ",
    "first line\nsecond line\r\n\r\n\tthird\n",
    "12345678 3.14159 1,000,000 0x1F",
    "🙂 👩‍👩‍👧 🇫🇷",
    "日本語の文章です。한국어 中文",
    unicodedata.normalize("NFD", "Žluťoučký kůň úpěl ďábelské ódy"),
    "\u0301a combining mark comes first",
    "CAPITALS, camelCase and snake_case()",
    "a text with <|query|> and <|eos|> in it",
    LONG,
]


@pytest.fixture(scope="module", params=["both", "forward"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentence_transformers")
    tokenizer = Tokenizer.train((passage.text for passage in read_docstrings()[:1500]), 1500)
    config = BackboneConfig(
        vocab_size=1500,
        width=48,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_width=16,
        mlp_width=80,
        max_positions=100,
        rope_theta=50_000.0,
        direction=request.param,
    )
    backbone = Backbone(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 2.0, generator=generator)
            else:
                parameter.normal_(0.0, 0.1, generator=generator)
    path = tmp_path_factory.mktemp("export") / "model"
    Embedder.from_backbone(backbone, tokenizer, max_tokens=LIMIT, dtype="float32").save(path)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> Embedder:
    return Embedder.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def theirs(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def check(mine: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(np.linalg.norm(other, axis=1), 1, atol=1e-5)
    assert (mine * other).sum(axis=1).min() >= 0.99999


@pytest.mark.filterwarnings("ignore:.* texts were cut to")
class TestSentenceTransformers:
    def test_same_vectors(self, ours, theirs) -> None:
        check(ours.encode(TEXTS, overflow="truncate"), theirs.encode(TEXTS))
        check(ours.encode_query(TEXTS, overflow="truncate"), theirs.encode_query(TEXTS))
        check(ours.encode_document(TEXTS, overflow="truncate"), theirs.encode_document(TEXTS))

    @pytest.mark.parametrize("instruction", ["", "Find it", "Given a question, retrieve\npassages: ", "日本語で"])
    def test_same_vectors_with_an_instruction(self, ours, theirs, instruction) -> None:
        mine = ours.encode_query(TEXTS, instruction=instruction, overflow="truncate")
        check(mine, theirs.encode(TEXTS, prompt=f"{instruction}<|query|>"))

    @pytest.mark.parametrize("prompt", ["", "<|query|>"])
    def test_up_to_the_last_token_of_the_limit(self, ours, theirs, prompt) -> None:
        ids = ours.tokenizer.encode([LONG])[0]
        room = LIMIT - 1 - bool(prompt)
        texts = [ours.tokenizer.decode(ids[:n]) for n in (room - 2, room - 1, room)]
        mine = ours.embed(texts, "query" if prompt else "document", overflow="error")
        assert mine.report.tokens == sum(range(LIMIT - 2, LIMIT + 1))
        check(mine.vectors, theirs.encode(texts, prompt_name="query" if prompt else "document"))

    def test_it_reads_the_facts(self, ours, theirs) -> None:
        assert theirs.max_seq_length == ours.max_tokens
        assert theirs.prompts == {"query": "<|query|>", "document": ""}
        assert theirs.default_prompt_name is None
        assert theirs.similarity_fn_name == "cosine"
        assert [type(module).__name__ for module in theirs] == ["Transformer", "Pooling", "Normalize"]

    def test_direction_is_the_one_that_was_saved(self, ours, theirs) -> None:
        assert theirs[0].auto_model.config.is_causal is (ours.direction == "forward")

    def test_saved_again_by_it_and_read_by_us(self, ours, theirs, tmp_path) -> None:
        theirs.save(str(tmp_path / "again"))
        again = Embedder.load(tmp_path / "again", dtype="float32")
        assert (again.direction, again.max_tokens) == (ours.direction, LIMIT)
        check(again.encode_query(TEXTS), ours.encode_query(TEXTS))

    def test_loading_it_warns_of_nothing_but_the_old_pooling_key(self, folder, caplog) -> None:
        from sentence_transformers import SentenceTransformer

        with caplog.at_level(logging.WARNING):
            SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(["a"])
        messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert all("word_embedding_dimension" in message for message in messages)


def test_the_tokenizer_of_transformers_gives_our_ids(folder, ours) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    mine = [[*ids, ours.tokenizer.eos_id] for ids in ours.tokenizer.encode(TEXTS)]
    assert theirs(TEXTS)["input_ids"] == mine
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.tokenizer.eos_id, ours.tokenizer.pad_id)


def test_what_tei_and_vllm_ask_for(folder, ours) -> None:
    """Their documented files, read the way they do."""
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    for key in ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"):
        assert pooling[f"pooling_mode_{key}"] is False
    assert pooling["pooling_mode_mean_tokens"] is True
    assert (pooling["pooling_mode"], pooling["include_prompt"]) == ("mean", False)
    assert pooling["word_embedding_dimension"] == pooling["embedding_dimension"] == ours.dims
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["rope_theta"] == 50_000.0
    assert config["use_bidirectional_attention"] is (ours.direction == "both")
    assert config["is_causal"] is (ours.direction == "forward")
    # The fields that TEI's Qwen3 configuration has no default for.
    counts = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "vocab_size")
    assert all(type(config[key]) is int for key in (*counts, "num_hidden_layers", "num_key_value_heads", "head_dim"))
    assert all(type(config[key]) is bool for key in ("attention_bias", "use_sliding_window", "tie_word_embeddings"))
    assert all(type(config[key]) is float for key in ("rms_norm_eps", "rope_theta"))
    assert type(config["eos_token_id"]) is int and config["hidden_act"] == "silu"
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[0] for module in modules] == ["sentence_transformers.models"] * 3
    assert all((folder / module["path"]).is_dir() for module in modules)
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
