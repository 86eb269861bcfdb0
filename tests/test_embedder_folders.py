"""Model folders: what is written comes back, what is damaged says so, names that are no model."""

import json
import os
import random
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffembed import Embedder, builtin
from diffembed.backbone import save_backbone
from diffembed.backbone.config_files import from_hugging_face, to_hugging_face
from diffembed.backbone.rotary import rotary_frequencies
from diffembed.errors import CheckpointError, ConfigError, DiffembedError, MissingExtraError
from diffembed.text.tokenizer import Tokenizer
from tests.tiny_embedders import LIMIT, LONG, ODD, TOKENIZER, make, make_backbone


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return make()


@pytest.fixture
def folder(embedder, tmp_path) -> Path:
    embedder.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "abacus"}, "device 'abacus'"),
        ({"device": "meta"}, "device 'meta'"),
        ({"device": []}, r"device \[\]"),
        ({"device": b""}, "device b''"),
        ({"device": ""}, "device ''"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"dtype": torch.int8}, "dtype is torch.int8"),
        ({"direction": "sideways"}, "direction is 'sideways'"),
    ],
)
def test_load_options(folder, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Embedder.load(folder, **options)


@pytest.mark.parametrize("direction", ["both", "forward"])
def test_saved_and_loaded_is_bit_equal(direction, tmp_path) -> None:
    trained = {"recipe": "none", "steps": 3}
    saved = make(direction, trained=trained, prompts={"query": "find: <|query|>"})
    saved.save(tmp_path / "deep" / "model")
    loaded = Embedder.load(tmp_path / "deep" / "model", dtype="float32")
    texts = [*ODD, LONG, "the quick fox"]
    for role in ("query", "document", None):
        assert np.array_equal(saved.embed(texts, role).vectors, loaded.embed(texts, role).vectors)
    for name in ("dims", "max_tokens", "direction", "prompts", "trained"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.direction == direction


def test_saving_a_model_that_computes_in_bf16_loses_nothing(folder, tmp_path) -> None:
    Embedder.load(folder, dtype="bfloat16").save(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "diffembed.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_golden_vectors_are_those_of_the_folder(folder) -> None:
    golden = json.loads((folder / "diffembed.json").read_text())["golden"]
    loaded = Embedder.load(folder, dtype="float32")
    assert {each["role"] for each in golden} == {"query", "document"}
    assert any(len(TOKENIZER.encode([each["text"]])[0]) > LIMIT for each in golden), "one is read in windows"
    for each in golden:
        np.testing.assert_allclose(loaded.embed([each["text"]], each["role"]).vectors[0], each["vector"], atol=1e-5)


def test_int8_folder(embedder, tmp_path) -> None:
    embedder.save(tmp_path / "small", weights="int8")
    assert not list((tmp_path / "small").glob("model.safetensors")), "no other library can take it for weights"
    small = Embedder.load(tmp_path / "small", dtype="float32")
    texts = ["the quick fox", LONG, ""]
    assert (small.encode(texts) * embedder.encode(texts)).sum(axis=1).min() > 0.99
    for each in json.loads((tmp_path / "small" / "diffembed.json").read_text())["golden"]:
        np.testing.assert_allclose(small.embed([each["text"]], each["role"]).vectors[0], each["vector"], atol=1e-5)
    small.save(tmp_path / "wide")
    assert np.array_equal(Embedder.load(tmp_path / "wide", dtype="float32").encode(texts), small.encode(texts))
    with pytest.raises(ConfigError, match="weights is 'int4'"):
        embedder.save(tmp_path / "x", weights="int4")


def test_a_raw_folder_has_the_mean_and_no_prompt(tmp_path) -> None:
    save_backbone(make_backbone(), tmp_path)
    TOKENIZER.save(tmp_path)
    raw = Embedder.load(tmp_path, dtype="float32")
    assert (raw.prompts, raw.max_tokens, raw.direction) == ({}, 40, "both")
    whole = make(prompts={}, max_tokens=40)
    assert np.array_equal(raw.encode_query([LONG]), whole.encode([LONG]))
    assert Embedder.load(tmp_path, direction="forward").direction == "forward"
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("is_causal", "use_bidirectional_attention"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Embedder.load(tmp_path).direction == "forward", "that of its family, Qwen3"


def test_a_folder_of_sentence_transformers_without_our_sidecar(folder, embedder) -> None:
    (folder / "diffembed.json").unlink()
    loaded = Embedder.load(folder, dtype="float32")
    assert loaded.max_tokens == LIMIT
    assert np.array_equal(loaded.encode_query([LONG, ""]), embedder.encode_query([LONG, ""]))
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    for change, message in [
        ({"pooling_mode": "cls"}, "another pooling"),
        ({"pooling_mode_max_tokens": True}, "another pooling"),
    ]:
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling | change))
        with pytest.raises(CheckpointError, match=message):
            Embedder.load(folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, change, message in [
        ("sentence_bert_config.json", {"do_lower_case": True}, "lower case"),
        ("sentence_bert_config.json", {"max_seq_length": "24"}, "to '24' tokens"),
        ("sentence_bert_config.json", {"max_seq_length": 24.0}, r"to 24\.0 tokens"),
        ("sentence_bert_config.json", {"max_seq_length": True}, "to True tokens"),
        ("sentence_bert_config.json", {"max_seq_length": 10**12}, "max_tokens is 1000000000000"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_tokens is 0"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name 'query'"),
        ("config_sentence_transformers.json", {"prompts": [1]}, r"prompts \[1\]"),
        ("config_sentence_transformers.json", {"prompts": {"query": 0}}, "role query is 0"),
    ]:
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(before) | change))
        with pytest.raises(CheckpointError, match=message):
            Embedder.load(folder)
        (folder / name).write_text(before)
    (folder / "sentence_bert_config.json").write_text("{}")
    assert Embedder.load(folder).max_tokens == 40, "no limit but the positions"
    (folder / "modules.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Embedder.load(folder)
    (folder / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Dense"}]')
    with pytest.raises(CheckpointError, match="is made of Transformer, Dense"):
        Embedder.load(folder)


def test_direction_of_sidecar_and_config_must_agree(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"is_causal": True, "use_bidirectional_attention": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"direction 'both', config\.json 'forward'"):
        Embedder.load(folder)


def edit(**changes):
    def apply(folder: Path) -> None:
        path = folder / "diffembed.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-50])


def foreign_weights(folder: Path) -> None:
    save_file({"bert.embeddings.weight": torch.zeros(3, 3)}, folder / "model.safetensors")


def weights_of_another_shape(folder: Path) -> None:
    save_backbone(make_backbone(mlp_width=16), folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


def not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors")


def all_zero(folder: Path) -> None:
    tensors = {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")


def huge_table(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_tokens.weight"][:] = 1e38
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        remove("config.json"),
        remove("model.safetensors"),
        remove("tokenizer.json"),
        write("config.json", b"{"),
        write("config.json", b"[]"),
        write("config.json", b'{"model_type": "bert"}'),
        write("diffembed.json", b"\xff"),
        write("tokenizer.json", b"{}"),
        write("config.json", b"[" * 100_000),
        write("config.json", b'{"hidden_size": ' + b"1" * 5000 + b"}"),
        write("diffembed.json", b"[]"),
        write("model.safetensors", b""),
        write("model.safetensors", b"\x80\x04\x95 a pickle"),
        cut("model.safetensors"),
        foreign_weights,
        weights_of_another_shape,
        not_a_number,
        all_zero,
        huge_table,
        edit(format=3),
        edit(format=True),
        edit(format=1.0),
        edit(dims=32.0),
        edit(pooling="cls"),
        edit(dims=31),
        edit(prompts=None),
        edit(prompts={"query": 1}),
        edit(prompts={"query": "q: "}),
        edit(max_tokens=None),
        edit(max_tokens=1000),
        edit(max_tokens="24"),
        edit(prompts=[1]),
        edit(prompts={"query": "\ud800"}),
        edit(golden=None),
        edit(golden=[1]),
        edit(golden=[{"role": "query", "text": "a", "vector": ["x"] * 32}]),
        edit(golden=[{"role": "query", "text": "a", "vector": [1.0]}]),
        edit(golden=[{"role": "query", "text": "a", "vector": [10**400] * 32}]),
        edit(golden=[{"role": "query", "text": "a", "vector": [float("nan")] * 32}]),
        edit(golden=[{"role": "passage", "text": "a", "vector": [0.0] * 32}]),
        edit(sha256=[]),
    ],
)
def test_a_damaged_folder_says_so(folder, damage) -> None:
    damage(folder)
    with pytest.raises(DiffembedError) as caught:
        Embedder.load(folder).encode(["a"])
    assert isinstance(caught.value, CheckpointError | ConfigError)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("damage", [all_zero, huge_table, not_a_number])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_vector_comes_of_damaged_weights(embedder, tmp_path, damage, dtype) -> None:
    """In a raw folder there is nothing to compare with: the vectors themselves must tell."""
    save_backbone(make_backbone(), tmp_path)
    TOKENIZER.save(tmp_path)
    damage(tmp_path)
    damaged = Embedder.load(tmp_path, dtype=dtype)
    for dims in (None, 4):
        with pytest.raises(CheckpointError, match="no finite vector with a direction for text 0"):
            damaged.encode(["a"], dims=dims)


def other_tokenizer(folder: Path) -> None:
    other = Tokenizer.train([LONG.upper()], TOKENIZER.vocab_size)
    assert other.vocab_size == TOKENIZER.vocab_size
    other.save(folder)


def other_weights(folder: Path) -> None:
    backbone = make_backbone()
    with torch.no_grad():
        backbone.get_parameter("layers.0.mlp.down_proj.weight").neg_()
    save_backbone(backbone, folder)


@pytest.mark.parametrize("damage", [other_tokenizer, other_weights])
def test_files_of_another_model_of_the_same_shape(folder, damage) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=r"is not the file that diffembed\.json was written with"):
        Embedder.load(folder)
    # A folder from before there were digests: its golden vectors tell.
    sidecar = json.loads((folder / "diffembed.json").read_text())
    del sidecar["sha256"]
    (folder / "diffembed.json").write_text(json.dumps(sidecar))
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(CheckpointError, match="another vector than it was saved with for 'how do I copy"):
            Embedder.load(folder, dtype=dtype)
    Embedder.load(folder, direction="forward")  # there the vectors are others anyway


def test_golden_vectors_hold_in_bf16(folder) -> None:
    assert Embedder.load(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_saving_keeps_its_hands_off_other_files(embedder, folder, tmp_path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    embedder.save(folder)  # a model is replaced
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    embedder.save(folder, weights="int8")
    assert not (folder / "modules.json").exists(), "replaced as a whole"
    (tmp_path / "empty").mkdir()
    embedder.save(tmp_path / "empty")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds notes\.txt"):
        embedder.save(folder)
    (folder / "notes.txt").unlink()
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds 1_Pooling/notes\.txt"):
        embedder.save(folder)
    (folder / "1_Pooling" / "notes.txt").rename(folder / "notes.txt")
    with pytest.raises(CheckpointError, match="is a file"):
        embedder.save(folder / "notes.txt")
    with pytest.raises(CheckpointError, match="cannot write"):
        embedder.save(folder / "notes.txt" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model"], "nothing half-written"


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}"},
        {"README.md": "mine"},
        {"config.json": "{}", "diffembed.json": '{"name": "mine"}'},
        {"diffembed.json": '{"format": true}'},
        {"diffembed.json": "no JSON"},
        {"1_Pooling/config.json": "{}"},
    ],
)
def test_a_folder_of_somebody_else_with_our_names_is_not_replaced(embedder, tmp_path, files) -> None:
    for name, text in files.items():
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / name).write_text(text)
    with pytest.raises(CheckpointError, match="is replaced only if"):
        embedder.save(tmp_path / "theirs")
    assert {name: (tmp_path / "theirs" / name).read_text() for name in files} == files
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_card_that_was_written_on_is_not_replaced(embedder, folder) -> None:
    with (folder / "README.md").open("a") as card:
        card.write("What I found out about this model.")
    Embedder.load(folder)
    with pytest.raises(CheckpointError, match=r"holds README\.md"):
        embedder.save(folder)


def test_threads_that_save_to_one_folder(tmp_path) -> None:
    embedders = [make(max_tokens=20 + n) for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda embedder: [embedder.save(tmp_path / "model") for _ in range(3)], embedders))
    assert 20 <= Embedder.load(tmp_path / "model").max_tokens < 24
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", [None, 3, b"model", "", "\0", "a\0b", "a" * 300, "~nouser/x", "/dev/null/x"])
def test_names_that_no_folder_can_have(embedder, tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (embedder.save, Embedder.load):
        with pytest.raises((ConfigError, CheckpointError)) as caught:
            call(name)
        assert "\n" not in caught.value.message and caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_model_stays_a_link(embedder, folder, tmp_path) -> None:
    (tmp_path / "latest").symlink_to("model")
    (tmp_path / "circle").symlink_to("circle")
    make(max_tokens=20).save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink() and Embedder.load(folder).max_tokens == 20
    with pytest.raises(CheckpointError, match="cannot write"):
        embedder.save(tmp_path / "circle")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are POSIX")
def test_a_full_disk(embedder, folder, tmp_path) -> None:
    resource = pytest.importorskip("resource")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for size in (20_000, 60_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(CheckpointError, match="cannot write"):
                embedder.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_longest_name(embedder, tmp_path) -> None:
    embedder.save(tmp_path / ("é" * 127))
    assert Embedder.load(tmp_path / ("é" * 127)).dims == 32


def test_a_failed_save_leaves_the_old_model(folder, tmp_path, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    changed = make(max_tokens=20)
    with pytest.raises(CheckpointError, match="looks only ahead"):
        make("backward").save(folder)
    rename = os.rename

    def fail_to_arrive(source, target, **options):
        if str(source).endswith(".partial"):
            raise OSError(28, "No space left on device")
        return rename(source, target, **options)

    monkeypatch.setattr(os, "rename", fail_to_arrive)
    with pytest.raises(CheckpointError, match="No space left"):
        changed.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saved_files_can_be_read_by_others(folder) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}
    assert len(set(modes.values())) == 1, modes


# Names


def test_names_that_are_no_model(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nothing", "./owner/name", "../owner/name", "/owner/name", "a/b/c", tmp_path / "x" / "y"):
        with pytest.raises(CheckpointError, match="there is no model folder"):
            Embedder.load(name)
    with pytest.raises(ConfigError, match="is named by a string or a path, got NoneType"):
        Embedder.load(None)  # type: ignore[arg-type]
    Path("file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        Embedder.load("file")


def test_builtin_that_did_not_come_with_the_package(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(builtin, "FOLDER", tmp_path / "model")
    with pytest.raises(CheckpointError, match="built-in model is not in") as caught:
        Embedder.load()
    assert caught.value.hint


def test_builtin_is_a_folder_of_the_package(monkeypatch, folder, embedder) -> None:
    monkeypatch.setattr(builtin, "FOLDER", folder)
    assert np.array_equal(Embedder.load(dtype="float32").encode(["a"]), embedder.encode(["a"]))


def test_a_hub_id_without_a_client(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="there is no folder owner/name here") as caught:
        Embedder.load("owner/name")
    assert "diffembed[hub]" in caught.value.hint


def test_a_hub_id_fetches_nothing_that_could_hold_code(monkeypatch, folder) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, *, allow_patterns: asked.append((name, allow_patterns)) or str(folder)
    )
    Embedder.load("owner/name")
    assert asked == [("owner/name", ["*.json", "*.safetensors", "merges.txt"])]


def test_a_hub_that_does_not_answer() -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(CheckpointError, match="hub did not give it") as caught:
        Embedder.load("owner/no-such-model")
    assert "\n" not in caught.value.message


def test_an_existing_folder_wins_over_a_hub_id(monkeypatch, folder, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "inner")
    (tmp_path / "owner").mkdir()
    (tmp_path / "inner").rename(tmp_path / "owner" / "name")
    assert Embedder.load("owner/name").dims == 32


def test_direction_on_load_overrules_and_is_saved(folder, tmp_path) -> None:
    forward = Embedder.load(folder, direction="forward", dtype="float32")
    assert np.abs(forward.encode(["the quick fox"]) - make("forward").encode(["the quick fox"])).max() < 1e-6
    forward.save(tmp_path / "forward")
    assert Embedder.load(tmp_path / "forward").direction == "forward"


ODD_VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    1e308,
    10**30,
    "",
    "x",
    "{text}{text}",
    "\ud800",
    [],
    [1],
    [["x"]],
    {},
    {"a": 1},
)


def places(value, path=()):
    """Each key of a JSON value, at any depth; of the many golden numbers only a few."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def with_value(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "diffembed.json", "modules.json", "tokenizer_config.json", "1_Pooling/config.json"),
        *("sentence_bert_config.json", "config_sentence_transformers.json"),
    ],
)
def test_every_value_of_every_json_file_may_be_anything(folder, name) -> None:
    """The folder loads, or one of our errors says why not."""
    if name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json") or "transformers" in name:
        (folder / "diffembed.json").unlink()  # which would be read in their place
    path = folder / name
    data = json.loads(path.read_text())
    draw = random.Random(7)
    refused = 0
    for place in places(data):
        for value in draw.sample(ODD_VALUES, 4):
            path.write_text(json.dumps(with_value(data, place, value)))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    Embedder.load(folder, "cpu", "float32").encode(["a"])
            except DiffembedError:
                refused += 1
    assert refused


def test_prompts_of_other_names_are_left_out_with_a_word(folder) -> None:
    (folder / "diffembed.json").unlink()
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings["prompts"] = {"sts_query": "Find alike: ", "passage": "<|query|>", "query": "<|query|>"}
    path.write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="prompts for sts_query"):
        found = Embedder.load(folder, "cpu", "float32")
    assert found.prompts == {"query": "<|query|>", "document": "<|query|>"}


def test_odd_characters_are_replayed_too(folder) -> None:
    path = folder / "diffembed.json"
    data = json.loads(path.read_text())
    row = next(row for row in data["golden"] if "café" in row["text"])
    row["vector"] = [-number for number in row["vector"]]
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="café"):
        Embedder.load(folder, "cpu", "float32")


def test_a_stretched_base_turns_the_slowest_pair_by_the_factor_and_leaves_the_fastest(folder) -> None:
    """NTK-aware scaling: what plain positions of a larger base give, theta x factor ^ (d / (d - 2))."""
    path = folder / "config.json"
    data = json.loads(path.read_text())
    theta, positions = data["rope_parameters"]["rope_theta"], data["max_position_embeddings"]
    before, _ = rotary_frequencies(data["head_dim"], theta, None)
    _, plain = from_hugging_face(data)
    data["rope_parameters"] = {"rope_type": "ntk", "rope_theta": theta, "factor": 4.0}
    _, config = from_hugging_face(data)
    after, factor = rotary_frequencies(config.head_width, config.rope_theta, config.rope_scaling)
    assert after[0] == before[0] and after[-1] == pytest.approx(before[-1] / 4) and factor == 1
    assert config.max_positions == 4 * positions and plain.max_positions == positions
    written = to_hugging_face(config)["rope_parameters"]
    larger, _ = rotary_frequencies(config.head_width, written["rope_theta"], None)
    np.testing.assert_allclose(larger, after, rtol=1e-6)
