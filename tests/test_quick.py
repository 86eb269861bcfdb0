"""The numpy engine gives what torch gives, or refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diffembed import Embedder, builtin
from diffembed.backbone import DIRECTIONS, Backbone, checkpoint, compact, save_backbone
from diffembed.backbone import quick as quick_backbone
from diffembed.embedder.quick import BATCH_TOKENS, QuickEncoder, Unsupported
from diffembed.errors import ConfigError, DataError, DiffembedError
from diffembed.text.tokenizer import Tokenizer
from tests.examples import examples
from tests.tiny_embedders import LIMIT, LONG, ODD, TOKENIZER, WORDS, make, make_backbone
from tests.tiny_models import tiny

ROOMY = 40
"""Tokens; every odd text fits, with any prompt of these tests."""
TEXTS = [*ODD, "the quick fox", " ".join(WORDS[:12]), "<|eos|>", "naïve café ≈ π"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make().save(tmp_path / "model")
    return tmp_path / "model"


def both_engines(folder: Path, direction=None) -> tuple[QuickEncoder, Embedder]:
    return QuickEncoder.open(folder, direction), Embedder.load(folder, "cpu", "float32", direction)


def assert_same(quick: QuickEncoder, torch_one: Embedder, texts: list[str], instruction: str | None = None) -> None:
    for found, expected in [
        (quick.encode_query(texts), torch_one.encode_query(texts)),
        (quick.encode_query(texts, instruction), torch_one.encode_query(texts, instruction)),
        (quick.encode_document(texts), torch_one.encode_document(texts)),
    ]:
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max(initial=0.0) < 1e-5
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


# The same vectors


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_vectors_are_those_of_torch(tmp_path, direction, weights) -> None:
    make(max_tokens=ROOMY).save(tmp_path, weights=weights)
    quick, torch_one = both_engines(tmp_path, direction)
    assert_same(quick, torch_one, TEXTS, "a judge's fox")
    assert (quick.dims, quick.max_tokens, quick.direction) == (32, ROOMY, direction)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_model_that_was_saved_looking_forward(tmp_path, weights) -> None:
    make("forward", max_tokens=ROOMY).save(tmp_path, weights=weights)
    quick, torch_one = both_engines(tmp_path)
    assert quick.direction == "forward"
    assert_same(quick, torch_one, TEXTS)
    both = QuickEncoder.open(tmp_path, "both")
    assert np.abs(both.encode_query(["the quick fox"]) - quick.encode_query(["the quick fox"])).max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_heads": 4},
        {"num_heads": 6, "num_kv_heads": 1},
        {"head_width": 2, "num_layers": 1},
        {"rope_theta": 3.0, "norm_eps": 0.5},
        {"width": 20, "mlp_width": 7},
    ],
)
def test_other_shapes(tmp_path, changes) -> None:
    Embedder.from_backbone(make_backbone(**changes), TOKENIZER, max_tokens=ROOMY, device="cpu").save(tmp_path)
    assert_same(*both_engines(tmp_path), TEXTS)


def test_other_prompts(tmp_path) -> None:
    make(max_tokens=ROOMY, prompts={"query": "a fox<|query|>", "document": "box<|mask|>"}).save(tmp_path / "two")
    make(max_tokens=ROOMY, prompts={}).save(tmp_path / "none")
    for name in ("two", "none"):
        assert_same(*both_engines(tmp_path / name), TEXTS, "")


def test_the_builtin_model() -> None:
    quick, torch_one = both_engines(builtin.folder())
    words = " ".join(str(number) for number in range(400))
    longest = words[: next(n for n in range(len(words), 0, -9) if fits(torch_one, words[:n]))]
    assert_same(quick, torch_one, [*ODD, "how do I copy a folder?", longest], "find the function that does it")


def fits(embedder: Embedder, text: str) -> bool:
    return len(embedder.tokenizer.encode([text])[0]) + 20 <= embedder.max_tokens


def test_a_vector_does_not_depend_on_its_neighbours(tmp_path) -> None:
    make(max_tokens=ROOMY).save(tmp_path)
    quick = QuickEncoder.open(tmp_path)
    texts = [text for n in range(1, 19) for text in (*TEXTS, " ".join(WORDS[: n % 13]))]
    assert sum(len(ids) + 1 for ids in TOKENIZER.encode(texts)) > BATCH_TOKENS, "several batches"
    together = quick.encode_document(texts)
    alone = np.concatenate([quick.encode_document([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-6
    assert quick.encode_query([]).shape == (0, 32)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[QuickEncoder, Embedder]:
    folder = tmp_path_factory.mktemp("odd")
    make(max_tokens=ROOMY).save(folder, weights="int8")
    return both_engines(folder)


@examples(50)
@given(texts=st.lists(st.text(max_size=9), max_size=4), instruction=st.none() | st.text(max_size=3))
def test_any_text(engines, texts, instruction) -> None:
    quick, torch_one = engines
    lengths = [len(ids) for ids in TOKENIZER.encode([instruction or "", *texts])]
    if lengths[0] + max(lengths[1:], default=0) + 2 > ROOMY:
        with pytest.raises(Unsupported, match="the limit is 40"):
            quick.encode_query(texts, instruction)
    else:
        assert_same(quick, torch_one, texts, instruction)


# What it refuses


def test_a_text_over_the_limit(folder) -> None:
    quick, torch_one = both_engines(folder)
    ids = TOKENIZER.encode([LONG])[0]
    for role, room in (("query", LIMIT - 2), ("document", LIMIT - 1)):
        encode = quick.encode_query if role == "query" else quick.encode_document
        fitting, over = (TOKENIZER.decode(ids[:n]) for n in (room, room + 1))
        assert [len(each) for each in TOKENIZER.encode([fitting, over])] == [room, room + 1]
        assert np.abs(encode([fitting]) - torch_one.embed([fitting], role).vectors).max() < 1e-5
        with pytest.raises(Unsupported, match=f"has {LIMIT + 1} tokens with prompt and EOS, the limit is {LIMIT}"):
            encode(["a", over])


def test_an_instruction_that_leaves_no_room(folder) -> None:
    quick, torch_one = both_engines(folder)
    tokens = TOKENIZER.encode([LONG])[0]
    for number, is_too_long in ((LIMIT - 3, False), (LIMIT - 2, True)):
        instruction = TOKENIZER.decode(tokens[:number])
        if is_too_long:
            with pytest.raises(ConfigError, match="leaves no room"):
                torch_one.encode_query([""], instruction)
            with pytest.raises(Unsupported, match="the limit is"):
                quick.encode_query([""], instruction)
        else:
            assert_same(quick, torch_one, [""], instruction)


@pytest.mark.parametrize("texts", ["a bare string", b"bytes", None, 3, ["a", None], ["a", b"b"], ["\ud800"]])
def test_what_is_no_list_of_strings(folder, texts) -> None:
    quick = QuickEncoder.open(folder)
    for encode in (quick.encode_query, quick.encode_document):
        with pytest.raises(DataError) as caught:
            encode(texts)
        assert caught.value.hint


@pytest.mark.parametrize("instruction", [7, "\ud800"])
def test_what_is_no_instruction(folder, instruction) -> None:
    with pytest.raises(ConfigError, match="instruction"):
        QuickEncoder.open(folder).encode_query(["a"], instruction)


def test_a_direction_that_there_is_none_of(folder) -> None:
    with pytest.raises(ConfigError, match="direction is 'sideways'"):
        QuickEncoder.open(folder, "sideways")  # type: ignore[arg-type]


def edit(name: str, **changes):
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-50])


def without_digests(folder: Path) -> None:
    path = folder / "diffembed.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}))


def change_weights(change, *names: str):
    """Changed behind the back of the digests, as if the folder were of the first that had none."""

    def apply(folder: Path) -> None:
        without_digests(folder)
        tensors = load_file(folder / "model.safetensors")
        for name in names or tensors:
            tensors[name] = change(tensors[name])
        save_file(tensors, folder / "model.safetensors")

    return apply


def other_tokenizer(folder: Path) -> None:
    without_digests(folder)
    Tokenizer.train([LONG.upper()], TOKENIZER.vocab_size).save(folder)


def weights_of_another_shape(folder: Path) -> None:
    without_digests(folder)
    save_backbone(make_backbone(mlp_width=16), folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


def larger_tokenizer(folder: Path) -> None:
    without_digests(folder)
    Tokenizer.train([LONG + " and a few more words for longer tables of tokens"], 360).save(folder)


TINY_GOLDEN = {"role": "query", "text": "a", "vector": [1.0]}
DAMAGES = {
    "no config": remove("config.json"),
    "no weights": remove("model.safetensors"),
    "no tokenizer": remove("tokenizer.json"),
    "config of another family": edit("config.json", model_type="bert"),
    "config is a list": write("config.json", b"[]"),
    "config is deep": write("config.json", b"[" * 100_000),
    "config asks for biases": edit("config.json", attention_bias=True),
    "a million layers": edit("config.json", num_hidden_layers=10**6),
    "no layers": edit("config.json", num_hidden_layers=0),
    "forward": edit("config.json", is_causal=True, use_bidirectional_attention=False),
    "another theta": edit("config.json", rope_parameters=None, rope_theta=1e-300),
    "sidecar is no text": write("diffembed.json", b"\xff"),
    "sidecar of another format": edit("diffembed.json", format=3),
    "another pooling": edit("diffembed.json", pooling="cls"),
    "other dims": edit("diffembed.json", dims=31),
    "no prompts": edit("diffembed.json", prompts=None),
    "a role that there is none of": edit("diffembed.json", prompts={"passage": "<|query|>"}),
    "a prompt that may merge": edit("diffembed.json", prompts={"query": "q: "}),
    "a prompt that is a number": edit("diffembed.json", prompts={"query": 1}),
    "a prompt of half a character": edit("diffembed.json", prompts={"query": "\ud800"}),
    "a long prompt": edit("diffembed.json", prompts={"query": LONG + "<|query|>"}),
    "no limit": edit("diffembed.json", max_tokens=None),
    "a limit beyond the positions": edit("diffembed.json", max_tokens=41),
    "a limit of two tokens": edit("diffembed.json", max_tokens=2),
    "a limit that is true": edit("diffembed.json", max_tokens=True),
    "no trained": edit("diffembed.json", trained=3),
    "short golden vectors": edit("diffembed.json", golden=[TINY_GOLDEN]),
    "golden vectors of nothing": edit("diffembed.json", golden=[TINY_GOLDEN | {"vector": [float("nan")] * 32}]),
    "wrong golden vectors": edit("diffembed.json", golden=[TINY_GOLDEN | {"vector": [1e-3] * 32}]),
    "digests are a list": edit("diffembed.json", sha256=[]),
    "another digest": edit("diffembed.json", sha256={"tokenizer.json": "0"}),
    "tokenizer is empty": write("tokenizer.json", b"{}"),
    "another tokenizer": other_tokenizer,
    "a larger tokenizer": larger_tokenizer,
    "weights are a pickle": write("model.safetensors", b"\x80\x04\x95 a pickle"),
    "weights are empty": write("model.safetensors", b""),
    "weights are cut short": cut("model.safetensors"),
    "weights of another shape": weights_of_another_shape,
    "weights are integers": change_weights(lambda t: t.to(torch.int64)),
    "weights are zero": change_weights(torch.zeros_like),
    "weights are no numbers": change_weights(lambda t: t * torch.nan, "norm.weight"),
    "weights are huge": change_weights(lambda t: torch.full_like(t, 1e38), "embed_tokens.weight"),
    "another matrix": change_weights(torch.neg, "layers.0.mlp.down_proj.weight"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_torch_refuses_numpy_refuses(folder, damage) -> None:
    damage(folder)
    with pytest.raises(DiffembedError):
        Embedder.load(folder, "cpu", "float32")
    with pytest.raises(Unsupported):
        QuickEncoder.open(folder)


@pytest.mark.parametrize(
    "damage",
    [
        remove("diffembed.json"),  # then no vector tells whether numpy does it right
        edit("diffembed.json", golden=[]),
        change_weights(lambda t: t.bfloat16()),
        change_weights(lambda t: t.half(), "norm.weight"),
    ],
)
def test_what_only_torch_takes(folder, damage) -> None:
    damage(folder)
    Embedder.load(folder, "cpu", "float32")
    with pytest.raises(Unsupported):
        QuickEncoder.open(folder)


def test_golden_vectors_beyond_fp32(folder) -> None:
    edit("diffembed.json", golden=[TINY_GOLDEN | {"vector": [1e300] * 16 + [-1e300] * 16}])(folder)
    with pytest.raises(Unsupported, match="another vector than was saved for 'a'"):
        QuickEncoder.open(folder)


def test_large_weights_are_left_to_torch(folder, monkeypatch) -> None:
    size = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(quick_backbone, "MOST_WEIGHT_BYTES", size)
    QuickEncoder.open(folder)
    monkeypatch.setattr(quick_backbone, "MOST_WEIGHT_BYTES", size - 1)
    with pytest.raises(Unsupported, match="is larger than"):
        QuickEncoder.open(folder)


def test_a_folder_that_is_none(tmp_path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(Unsupported):
            QuickEncoder.open(path)


def test_nothing_is_computed_in_fp64(folder, tmp_path) -> None:
    make().save(tmp_path / "small", weights="int8")
    for path in (folder, tmp_path / "small"):
        assert quick_backbone.QuickBackbone.open(path)([[3, 4, 5], [6]]).dtype == np.float32


# What is said twice


def test_names_and_shapes_are_those_of_the_backbone() -> None:
    for name in ("CONFIG_FILE", "WEIGHTS_FILE"):
        assert getattr(quick_backbone, name) == getattr(checkpoint, name)
    for name in ("COMPACT_FILE", "SCALE_SUFFIX"):
        assert getattr(quick_backbone, name) == getattr(compact, name)
    for config in (tiny(), tiny(num_layers=3, num_kv_heads=1, head_width=6, width=20)):
        shapes = {name: tuple(parameter.shape) for name, parameter in Backbone(config).named_parameters()}
        assert quick_backbone.weight_shapes(config) == shapes
