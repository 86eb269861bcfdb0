"""The doctor of model folders: sound ones are well, each damage is found, and by the check that it belongs to."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors, trainers

from diffembed import Embedder
from diffembed.backbone import BackboneConfig, save_backbone
from diffembed.backbone.adapter import Adapter, save_adapter
from diffembed.backbone.checkpoint import parameter_shapes
from diffembed.backbone.config_files import to_hugging_face
from diffembed.doctor import CHECKS, UNFORESEEN, Finding, examine
from diffembed.embedder.golden import TEXTS
from diffembed.errors import DiffembedError
from diffembed.text.tokenizer import EOS, Tokenizer
from diffembed.text.tokenizer_files import build_tokenizer
from tests import family_checkpoints, memory
from tests.examples import examples
from tests.tiny_embedders import TOKENIZER, make, make_backbone

LOADERS = ("sentence-transformers", "transformers", "text-embeddings-inference", "vllm")
Damage = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    save_backbone(make_backbone(), tmp_path / "raw")
    TOKENIZER.save(tmp_path / "raw")
    return tmp_path / "raw"


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    found = {finding.check: finding for finding in findings}
    assert len(found) == len(findings)
    for finding in findings:
        assert finding.status in ("ok", "warn", "fail") and finding.message
        assert (finding.hint is None) == (finding.status == "ok")
    return found


def failed(findings: list[Finding]) -> list[str]:
    return [name for name, finding in by_check(findings).items() if finding.status == "fail"]


def doubted(findings: list[Finding]) -> list[str]:
    return [name for name, finding in by_check(findings).items() if finding.status == "warn"]


def edit(name: str, **changes: Any) -> Damage:
    """Change keys of a JSON file; None removes one."""

    def apply(folder: Path) -> None:
        data = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return apply


def write(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


# Sound folders


@pytest.mark.parametrize("direction", ["both", "forward"])
def test_a_sound_folder_is_well(direction: Any, tmp_path: Path) -> None:
    make(direction, prompts={}).save(tmp_path)
    findings = examine(tmp_path)
    assert (failed(findings), doubted(findings)) == ([], [])
    assert list(by_check(findings)) == [name for name, _ in CHECKS if name != "adapter"]


def test_a_prompt_is_counted_by_those_who_leave_nothing_out(folder: Path) -> None:
    findings = examine(folder)
    assert failed(findings) == []
    assert doubted(findings) == ["text-embeddings-inference", "vllm"]
    assert "counts the tokens of a prompt" in by_check(findings)["vllm"].message


def test_int8_is_ours_alone(tmp_path: Path) -> None:
    make().save(tmp_path, weights="int8")
    findings = examine(tmp_path)
    assert failed(findings) == []
    assert doubted(findings) == list(LOADERS)
    assert "int8" in by_check(findings)["weights"].message


def test_the_builtin_model_is_well() -> None:
    assert failed(examine("builtin", replay=False)) == []


def test_a_raw_folder(raw: Path) -> None:
    findings = by_check(examine(raw))
    assert failed(list(findings.values())) == []
    assert findings["vectors"].status == "warn" and "none were saved" in findings["vectors"].message
    assert "sidecar" not in findings
    assert findings["limit"].message == "40 tokens at a time"
    assert findings["transformers"].status == "ok"
    assert "takes the last token" in findings["sentence-transformers"].message


def test_nothing_is_computed_without_replay(raw: Path) -> None:
    tensors = {
        name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(raw / "model.safetensors").items()
    }
    save_file(tensors, raw / "model.safetensors")
    assert failed(examine(raw, replay=False)) == []
    assert failed(examine(raw)) == ["vectors"]


def test_weights_are_not_read_for_their_names(tmp_path: Path) -> None:
    """4 GB of holes: the file takes no space, and reading it would take 4 GB of memory."""
    config = BackboneConfig(
        vocab_size=2**20,
        width=1_024,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_width=8,
        mlp_width=8,
        max_positions=9,
    )
    header, end = {}, 0
    for name, shape in parameter_shapes(config, tmp_path, 1).items():
        start, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(config)))
    TOKENIZER.save(tmp_path)
    before = memory.begin()
    findings = examine(tmp_path, replay=False)
    assert failed(findings) == []
    assert "1,073," in by_check(findings)["weights"].message
    assert memory.status("VmHWM") - before < 300_000_000


# Damages


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["layers.0.mlp.down_proj.weight"] *= -1
    save_file(tensors, folder / "model.safetensors")


def another_shape(folder: Path) -> None:
    save_backbone(make_backbone(mlp_width=16), folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


def integers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(torch.int16) for name, tensor in tensors.items()}, folder / "model.safetensors")


def a_circle(name: str) -> Damage:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return apply


def the_fifth_vector(folder: Path) -> None:
    golden = json.loads((folder / "diffembed.json").read_text())["golden"]
    golden[4]["vector"] = golden[3]["vector"]
    edit("diffembed.json", golden=golden)(folder)


def shards(**changes: str) -> Damage:
    """The weights in two files with an index, in which some entries are changed."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
        for file, part in parts.items():
            save_file({name: tensors[name] for name in part}, folder / file)
        places = {name: file for file, part in parts.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**places, **changes}}))
        edit("diffembed.json", sha256=None)(folder)

    return apply


def test_shards_are_read(folder: Path) -> None:
    shards()(folder)
    assert failed(examine(folder)) == []


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (remove("config.json"), "files"),
        (a_circle("config.json"), "files"),
        (write("config.json", b"{"), "files"),
        (write("config.json", b"[]"), "files"),
        (write("config.json", b"[" * 100_000), "files"),
        (edit("config.json", model_type="bert"), "family"),
        (edit("config.json", model_type=["qwen3"]), "family"),
        (edit("config.json", hidden_size="32"), "family"),
        (edit("config.json", hidden_size=10**400), "family"),
        (edit("config.json", is_causal="no"), "family"),
        (edit("config.json", num_hidden_layers=2**20), "weights"),
        (edit("config.json", num_hidden_layers=3), "weights"),
        (remove("model.safetensors"), "weights"),
        (a_circle("model.safetensors"), "weights"),
        (write("model.safetensors", b""), "weights"),
        (write("model.safetensors", b"\x80\x04\x95 a pickle"), "weights"),
        (cut("model.safetensors", 5_000), "weights"),
        (another_shape, "weights"),
        (integers, "weights"),
        (shards(**{"norm.weight": "../model-1.safetensors"}), "weights"),
        (shards(**{"norm.weight": "model-1.safetensors"}), "weights"),
        (shards(**{"norm.weight": "model-3.safetensors"}), "weights"),
        (write("diffembed.json", b"\xff"), "sidecar"),
        (edit("diffembed.json", format=3), "sidecar"),
        (edit("diffembed.json", dims=31), "sidecar"),
        (edit("diffembed.json", pooling="cls"), "sidecar"),
        (edit("diffembed.json", prompts=[1]), "sidecar"),
        (edit("diffembed.json", golden=[{"role": "query"}]), "sidecar"),
        (edit("diffembed.json", direction=7), "sidecar"),
        (other_weights, "sidecar"),
        (edit("diffembed.json", direction="forward"), "direction"),
        (edit("config.json", is_causal=True, use_bidirectional_attention=False), "direction"),
        (remove("tokenizer.json"), "tokenizer"),
        (write("tokenizer.json", b"{}"), "tokenizer"),
        (write("tokenizer_config.json", b"{"), "tokenizer"),
        (edit("diffembed.json", prompts={"query": "q: "}), "prompts"),
        (edit("diffembed.json", prompts={"query": 1}), "prompts"),
        (edit("diffembed.json", prompts={"passage": "<|query|>"}), "prompts"),
        (edit("diffembed.json", max_tokens="24"), "limit"),
        (edit("diffembed.json", max_tokens=1_000), "limit"),
    ],
)
def test_each_damage_is_found_where_it_is(folder: Path, damage: Damage, check: str) -> None:
    damage(folder)
    findings = examine(folder)
    assert check in failed(findings)
    assert failed(findings)[0] == check or check == "tokenizer"  # whose file the sidecar knows too
    assert not set(by_check(findings)) & {"vectors", *LOADERS}
    assert UNFORESEEN not in {finding.hint for finding in findings}
    with pytest.raises(DiffembedError):
        Embedder.load(folder)


def test_a_table_with_too_few_rows(folder: Path) -> None:
    """The tokenizer has as many tokens as rows, and one of them is far out."""
    data = json.loads((folder / "tokenizer.json").read_text())
    token = next(token for token, number in data["model"]["vocab"].items() if number == 300)
    data["model"]["vocab"][token] = 5_000
    (folder / "tokenizer.json").write_text(json.dumps(data))
    edit("diffembed.json", sha256=None)(folder)
    assert failed(examine(folder)) == ["tokenizer"]


def test_a_tokenizer_that_panics(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    edit("diffembed.json", sha256=None)(folder)
    assert failed(examine(folder)) == ["tokenizer"]


def test_all_vectors_are_replayed(folder: Path) -> None:
    the_fifth_vector(folder)
    Embedder.load(folder)  # looks at two of them
    findings = examine(folder)
    assert failed(findings) == ["vectors"]
    assert "0 1 2 3" in by_check(findings)["vectors"].message


@pytest.mark.parametrize("value", [0.0, 1e300, float("nan"), float("inf")])
def test_a_saved_vector_that_is_none(folder: Path, value: float) -> None:
    golden = json.loads((folder / "diffembed.json").read_text())["golden"]
    golden[2]["vector"] = [value] * 32
    edit("diffembed.json", golden=golden)(folder)
    assert failed(examine(folder)) == ["vectors"]


def test_a_config_that_contradicts_itself(folder: Path) -> None:
    edit("config.json", is_causal=True)(folder)
    findings = examine(folder)
    assert failed(findings) == []
    assert "contradicts itself" in by_check(findings)["direction"].message
    assert "looks back only" in by_check(findings)["transformers"].message


def test_a_mean_of_others_that_does_not_say_where_it_looked(folder: Path) -> None:
    remove("diffembed.json")(folder)
    assert by_check(examine(folder))["direction"].status == "ok"
    edit("config.json", is_causal=None, use_bidirectional_attention=None)(folder)
    findings = by_check(examine(folder))
    assert findings["direction"].status == "warn" and "does not say" in findings["direction"].message
    assert findings["readout"].message.endswith("as the files of sentence-transformers say")


@pytest.mark.parametrize(
    ("damage", "check", "words"),
    [
        (edit("1_Pooling/config.json", pooling_mode="cls"), "readout", "another pooling"),
        (edit("1_Pooling/config.json", pooling_mode_cls_token=True), "readout", "another pooling"),
        (edit("sentence_bert_config.json", max_seq_length="24"), "readout", "to '24' tokens"),
        (edit("sentence_bert_config.json", max_seq_length=99), "limit", "max_tokens is 99"),
        (edit("config_sentence_transformers.json", prompts={"query": "q: "}), "prompts", "no special token"),
        (write("modules.json", b"[" * 100_000), "readout", "cannot be read"),
        (write("modules.json", b'[{"type": "x.Transformer"}, {"type": "x.Dense"}]'), "readout", "made of Transformer"),
    ],
)
def test_a_folder_of_sentence_transformers(folder: Path, damage: Damage, check: str, words: str) -> None:
    remove("diffembed.json")(folder)
    assert failed(examine(folder)) == []
    damage(folder)
    findings = examine(folder)
    assert failed(findings) == [check]
    assert words in by_check(findings)[check].message


@pytest.mark.parametrize(
    ("damage", "loaders"),
    [
        (remove("modules.json"), {"sentence-transformers", "vllm"}),
        (edit("1_Pooling/config.json", pooling_mode_mean_tokens=None), {"text-embeddings-inference", "vllm"}),
        (edit("config.json", use_bidirectional_attention=None), {"text-embeddings-inference"}),
        (edit("config.json", rope_theta=None), {"text-embeddings-inference"}),
        (edit("config.json", eos_token_id=None), {"text-embeddings-inference"}),
        (edit("config.json", is_causal=None), {"sentence-transformers", "transformers", "vllm"}),
        (edit("tokenizer_config.json", tokenizer_class=None), {"sentence-transformers", "transformers", "vllm"}),
        (edit("1_Pooling/config.json", pooling_mode="max"), {"sentence-transformers"}),
        (edit("config_sentence_transformers.json", prompts={"query": "<|mask|>"}), {"sentence-transformers"}),
        (edit("sentence_bert_config.json", max_seq_length=12), {"sentence-transformers"}),
    ],
)
def test_who_else_reads_it(tmp_path: Path, damage: Damage, loaders: set[str]) -> None:
    make(prompts={}).save(tmp_path)
    damage(tmp_path)
    findings = examine(tmp_path, replay=False)
    assert failed(findings) == []
    assert set(doubted(findings)) - {"tokenizer", "direction"} == loaders


LAST_TOKEN = {"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}


@pytest.mark.parametrize("damage", [{"include_prompt": True}, LAST_TOKEN])
def test_a_readout_of_others_that_differs_from_ours(tmp_path: Path, damage: dict) -> None:
    make().save(tmp_path)
    edit("1_Pooling/config.json", **damage)(tmp_path)
    found = {finding.check: finding for finding in examine(tmp_path, replay=False)}["sentence-transformers"]
    assert found.status == "warn" and "another readout" in found.message


def test_names_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("nowhere", "", tmp_path / "file", tmp_path / "circle", 3):
        with pytest.raises(DiffembedError):
            examine(name)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    assert failed(examine(tmp_path / "empty")) == ["files"]


def test_circles_of_folders(folder: Path) -> None:
    (folder / "again").symlink_to(folder)
    assert failed(examine(folder)) == []


FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "diffembed.json",
    "tokenizer_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
]
ODD = [None, True, False, 0, -1, 3, 2**70, 0.5, 1e400, "", "x", "both", [], [1], {}, {"a": None}]


@examples(20)
@given(data=st.data())
def test_whatever_is_damaged_gives_findings(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    make().save(folder)
    if data.draw(st.booleans(), label="without sidecar"):
        remove("diffembed.json")(folder)
    name = data.draw(st.sampled_from([name for name in FILES if (folder / name).is_file()]))
    path = folder / name
    kinds = ["cut", "byte"] if name.endswith("safetensors") else ["value", "cut", "byte", "whole"]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "value":
        content = json.loads(path.read_text())
        place = data.draw(st.sampled_from(content)) if isinstance(content, list) else content
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(st.sampled_from(ODD))
        path.write_text(json.dumps(content))
    elif kind == "whole":
        path.write_text(json.dumps(data.draw(st.sampled_from(ODD))))
    else:
        content = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, len(content) - 1))
        if kind == "byte":
            content[where] = data.draw(st.integers(0, 255))
        path.write_bytes(content if kind == "byte" else content[:where])
    findings = examine(folder)
    unforeseen = {finding.check for finding in findings if finding.hint == UNFORESEEN}
    assert unforeseen <= {"tokenizer"}  # whose Rust panics
    try:
        embedder = Embedder.load(folder, dtype="float32")
        for role, text in TEXTS:
            embedder.embed([text], role)
    except DiffembedError:
        assert failed(findings)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        assert failed(findings)
    else:
        # Loading looks at two of the vectors, and at no token's id.
        assert set(failed(findings)) <= {"vectors", "tokenizer"}


# Adapters


def adapter_for(base: Path | None, folder: Path) -> Path:
    torch.manual_seed(3)
    name = "layers.1.self_attn.q_proj.weight"
    pairs = {name: (torch.randn(2, 32), torch.randn(32, 2))}
    save_adapter(Adapter(rank=2, alpha=4.0, pairs=pairs, base=str(base) if base else None), folder)
    return folder


def test_an_adapter(folder: Path, tmp_path: Path) -> None:
    theirs = adapter_for(folder, tmp_path / "theirs")
    findings = by_check(examine(folder, theirs))
    assert failed(list(findings.values())) == []
    assert findings["adapter"].status == "warn" and "peft keeps no direction" in findings["adapter"].message
    assert findings["vectors"].status == "warn"  # the base's own don't count any more
    assert all(findings[name].status == "warn" for name in LOADERS)
    assert by_check(examine(theirs)) == findings, "it names its base"

    Embedder.load(folder, direction="forward", adapter=theirs).save_adapter(tmp_path / "ours")
    findings = by_check(examine(folder, tmp_path / "ours"))
    assert findings["adapter"].status == findings["vectors"].status == "ok"
    assert findings["direction"].message.startswith(
        "back in time only (causal), as the adapter says; its base looks both"
    )


@pytest.mark.parametrize(
    "damage",
    [
        remove("adapter_model.safetensors"),
        write("adapter_config.json", b"{"),
        edit("adapter_config.json", r=3),
        edit("adapter_config.json", use_dora=True),
        edit("diffembed.json", direction=None),
        edit("diffembed.json", direction="sideways"),
        edit("diffembed.json", prompts=[1]),
        edit("diffembed.json", golden=[1]),
        edit("diffembed.json", format=9),
        lambda folder: [save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")],
    ],
)
def test_a_damaged_adapter(folder: Path, tmp_path: Path, damage: Damage) -> None:
    theirs = adapter_for(folder, tmp_path / "theirs")
    Embedder.load(folder, adapter=theirs).save_adapter(tmp_path / "ours")
    damage(tmp_path / "ours")
    findings = examine(folder, tmp_path / "ours")
    assert failed(findings) == ["adapter"]
    assert UNFORESEEN not in {finding.hint for finding in findings}


def test_an_adapter_that_fits_another_model_or_names_none(folder: Path, tmp_path: Path) -> None:
    theirs = adapter_for(None, tmp_path / "theirs")
    assert failed(examine(theirs)) == ["adapter"]
    save_backbone(make_backbone(width=16), tmp_path / "narrow")
    TOKENIZER.save(tmp_path / "narrow")
    assert failed(examine(tmp_path / "narrow", theirs)) == ["adapter"]


# Other families and libraries


@pytest.mark.extra
@pytest.mark.parametrize("model_type", family_checkpoints.FAMILIES)
def test_each_family(model_type: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    family_checkpoints.make(model_type, tmp_path, vocab_size=320)
    TOKENIZER.save(tmp_path)
    findings = by_check(examine(tmp_path))
    assert failed(list(findings.values())) == []
    assert f"({model_type})" in findings["family"].message
    is_both = model_type in family_checkpoints.LOOKS_BOTH_WAYS
    assert findings["direction"].message.startswith("both ways" if is_both else "back in time only")
    is_stock = model_type in ("qwen2", "qwen3", "llama", "mistral")
    assert findings["transformers"].status == ("ok" if is_stock else "warn")
    assert findings["vllm"].status == findings["sentence-transformers"].status == "warn"


# Words that our own tokenizer and Qwen2's cut in different places, so that a mix-up shows.
NUMBERS = "2024 12345 1999\n\n  777 cafe\u0301 nai\u0308ve 42\n"
CUTS = ["a quick fox", "12345 1999", "new\n\n  777 line", "cafe\u0301 2024"]


def numbers_tokenizer(folder: Path, *, is_qwens: bool) -> Tokenizer:
    """One that learned runs of digits, ours or as Qwen2 would have it."""
    ours = Tokenizer.train([NUMBERS] * 3, 316)
    if not is_qwens:
        return ours
    learned = RawTokenizer(models.BPE())
    learned.pre_tokenizer = ours.raw.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned.train_from_iterator(
        [NUMBERS] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    learned.model.save(str(folder))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(learned.get_vocab_size()): {"content": "<|endoftext|>", "special": True}},
    }
    return Tokenizer(build_tokenizer(folder, config), {"pad": "<|endoftext|>", "eos": "<|endoftext|>"})


@pytest.mark.extra
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: None, id="none"),
        pytest.param(remove("diffembed.json"), id="no sidecar"),
        pytest.param(edit("config.json", is_causal=None), id="no is_causal"),
        pytest.param(edit("config.json", use_bidirectional_attention=None), id="TEI's key"),
        pytest.param(edit("1_Pooling/config.json", pooling_mode_mean_tokens=None), id="newer schema"),
        pytest.param(edit("1_Pooling/config.json", pooling_mode=None), id="older schema"),
        pytest.param(edit("1_Pooling/config.json", pooling_mode="weightedmean"), id="another pooling"),
        pytest.param(edit("config_sentence_transformers.json", prompts={"query": "<|mask|>"}), id="prompts"),
        pytest.param(edit("tokenizer_config.json", tokenizer_class="Qwen2TokenizerFast"), id="Qwen2's class"),
        pytest.param(edit("tokenizer_config.json", tokenizer_class=None), id="no class"),
        pytest.param(edit("sentence_bert_config.json", max_seq_length=4), id="limit"),
        pytest.param(remove("modules.json"), id="no modules"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_sentence_transformers_reads_what_the_doctor_says(tmp_path: Path, damage: Damage) -> None:
    """The finding against the library itself: well where and only where it gives our vectors."""
    library = pytest.importorskip("sentence_transformers")
    tokenizer = numbers_tokenizer(tmp_path, is_qwens=False)
    Embedder.from_backbone(make_backbone(), tokenizer, max_tokens=24, device="cpu").save(tmp_path / "model")
    damage(tmp_path / "model")
    finding = by_check(examine(tmp_path / "model"))["sentence-transformers"]
    ours = Embedder.load(tmp_path / "model", device="cpu", dtype="float32")
    theirs = library.SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    pairs = [
        (ours.encode_document(CUTS), theirs.encode_document(CUTS)),
        (ours.encode_query(CUTS), theirs.encode_query(CUTS)),
    ]
    cosines = [(mine * other / np.linalg.norm(other, axis=1, keepdims=True)).sum(axis=1) for mine, other in pairs]
    assert finding.status == ("ok" if np.min(cosines) > 0.9999 else "warn"), (finding, cosines)


@pytest.mark.extra
@pytest.mark.parametrize("is_qwens", [True, False])
@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", None])
def test_a_tokenizer_that_transformers_rebuilds(tmp_path: Path, is_qwens: bool, kind: str | None) -> None:
    """The doubt against transformers itself: there where and only where it gives other tokens."""
    transformers = pytest.importorskip("transformers")
    tokenizer = numbers_tokenizer(tmp_path, is_qwens=is_qwens)
    save_backbone(make_backbone(), tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    edit("tokenizer_config.json", tokenizer_class=kind)(tmp_path / "model")
    finding = by_check(examine(tmp_path / "model", replay=False))["tokenizer"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    is_same = all(theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode([text])[0] for text in CUTS)
    assert (finding.status == "ok") == is_same, finding


@pytest.mark.extra
def test_a_token_before_each_text_is_counted_by_others(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    tokenizer = Tokenizer.train([NUMBERS], 300)
    raw = RawTokenizer.from_str(tokenizer.raw.to_str())
    raw.post_processor = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, raw.token_to_id(EOS))])
    Embedder.from_backbone(make_backbone(), Tokenizer(raw), max_tokens=24, prompts={}, device="cpu").save(tmp_path)
    finding = by_check(examine(tmp_path))["sentence-transformers"]
    assert finding.status == "warn" and EOS in finding.message
    ours, theirs = Embedder.load(tmp_path, dtype="float32"), library.SentenceTransformer(str(tmp_path), device="cpu")
    assert (ours.encode(CUTS) * theirs.encode(CUTS)).sum(axis=1).min() < 0.999
