"""Adapters: trained beside frozen weights, saved so that we and `peft` read back what was trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as RawTokenizer

from diffembed import Embedder, configs
from diffembed.backbone.adapter import read_adapter
from diffembed.data.mix import MixRow
from diffembed.errors import ConfigError
from diffembed.readout.spec import Readout
from diffembed.training.checkpoint import TENSORS_FILE
from diffembed.training.finetune import main
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.loop_config import LoopConfig
from diffembed.training.lora import LoraConfig
from diffembed.training.losses import LossConfig
from diffembed.training.optimizer import OptimizerConfig
from tests import family_checkpoints
from tests.family_checkpoints import POSITIONS
from tests.family_tokenizers import VOCAB, vocab_and_merges
from tests.tiny_embedders import WORDS
from tests.training import rank_processes
from tests.training.tiny_runs import losses

# peft asks transformers by a name that is going away.
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TEXTS = ["a quick fox", "wizards judge"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"q": f"about {a} and {b}", "p": f"The {WORDS[-i]} is near the {WORDS[-j]}.", "kind": "toy"}
        for i, a in enumerate(WORDS)
        for j, b in enumerate(WORDS)
        if a != b
    ]
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.fixture
def base(tmp_path: Path, trained: RawTokenizer) -> Path:
    return make_base("Dream", tmp_path / "base", trained)


def make_base(model_type: str, folder: Path, raw: RawTokenizer) -> Path:
    family_checkpoints.make(model_type, folder, vocab_size=VOCAB)
    vocab_and_merges(folder, raw)
    return folder


def settings(base: Path, **changes) -> FinetuneConfig:
    values = {
        "init": str(base),
        "backbone": None,
        "tokenizer_from": None,
        "direction": "both",
        "readout": Readout(counts_prompt=True),
        "max_tokens": POSITIONS,
        "mix": (MixRow(source="*", kind="*", weight=1.0, instruction="find", passage_tokens=30),),
        "batch_pairs": 8,
        "query_tokens": 16,
        "loss": LossConfig(temperature=0.05),
        "instruction_share": 1.0,
        "optimizer": OptimizerConfig(peak_lr=1e-2, warmup_steps=0),
        "loop": LoopConfig(num_steps=4, checkpoint_every_steps=2),
        "lora": LoraConfig(rank=4, alpha=8.0),
        "dtype": "float32",
    }
    return FinetuneConfig(**(values | changes))


def run(config: FinetuneConfig, data: Path, out: Path, resume: bool = False) -> Path:
    return main(config, data=data, out=out, resume=resume, command=["test"])


def vectors(name: Path, adapter: Path | None = None) -> np.ndarray:
    embedder = Embedder.load(name, adapter=adapter, dtype="float32", device="cpu")
    return np.concatenate([embedder.encode_document(TEXTS), embedder.encode_query(TEXTS, instruction="find")])


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(axis=1)


def test_adapter_and_merged_model_are_what_was_trained(base: Path, data: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    model = run(settings(base), data, tmp_path / "run")
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    merged = vectors(model)
    assert cosines(merged, vectors(base, tmp_path / "run" / "adapter")).min() > 0.99999
    assert cosines(merged, vectors(tmp_path / "run" / "adapter")).min() > 0.99999  # it names its base
    assert cosines(merged[:2], vectors(base)[:2]).max() < 0.999  # it has learnt
    assert Embedder.load(model).readout == Readout(counts_prompt=True)


def test_only_the_adapter_is_trained_and_checkpointed(base: Path, data: Path, tmp_path: Path) -> None:
    run(settings(base, lora=LoraConfig(rank=4, targets=("q_proj", "down_proj"), merge=False)), data, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    adapter = read_adapter(tmp_path / "run" / "adapter")
    wanted = {f"layers.{n}.{m}.weight" for n in range(2) for m in ("self_attn.q_proj", "mlp.down_proj")}
    assert adapter.pairs.keys() == wanted
    saved = load_file(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / TENSORS_FILE)
    assert all("lora_" in name for name in saved) and saved


@pytest.mark.parametrize("model_type", ["Dream", "qwen2", "llada"])
def test_peft_gives_the_same_states_on_the_stock_class(
    model_type: str,
    data: Path,
    tmp_path: Path,
    trained: RawTokenizer,
) -> None:
    base = make_base(model_type, tmp_path / "base", trained)
    model = run(settings(base), data, tmp_path / "run")
    with_names = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["target_modules"]
    if model_type == "llada":  # transformers has no class of it
        assert set(with_names) == {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}
        names = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors").keys()
        assert all(name.startswith("base_model.model.model.transformer.blocks.") for name in names)
        return
    stock = family_checkpoints.make(model_type, tmp_path / "stock", vocab_size=VOCAB)  # the same weights, with a head
    theirs = stock if model_type == "Dream" else stock.model
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "run" / "adapter")
    loaded.config.is_causal = stock.config.is_causal = False
    body = loaded.base_model.model.model if model_type == "Dream" else loaded.base_model.model
    embedder = Embedder.load(model, dtype="float32")
    for text, vector in zip(TEXTS, embedder.encode_document(TEXTS), strict=True):
        ids = embedder.tokenizer.encode([text])[0]
        with torch.no_grad():
            states = body(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-5)


def test_an_adapter_stands_on_another(base: Path, data: Path, tmp_path: Path) -> None:
    """As LLM2Vec trains on top of the adapter of its masked next-token prediction."""
    first = settings(base, lora=LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "up_proj")))
    run(first, data, tmp_path / "first")
    second = settings(base, adapter=str(tmp_path / "first" / "adapter"))
    model = run(second, data, tmp_path / "second")
    adapter = read_adapter(tmp_path / "second" / "adapter")
    assert adapter.rank == 6 and len(adapter.pairs) == 14
    merged = vectors(model)
    assert cosines(merged, vectors(base, tmp_path / "second" / "adapter")).min() > 0.99999


def test_resumed_it_is_the_same_run(base: Path, data: Path, tmp_path: Path) -> None:
    """Dropout on; stopped after step 2 and gone on with."""
    config = settings(base)
    run(config, data, tmp_path / "whole")
    short = replace(
        config, loop=replace(config.loop, num_steps=2), optimizer=replace(config.optimizer, decay_share=0.0)
    )
    whole = replace(config, optimizer=replace(config.optimizer, decay_share=0.0))
    run(short, data, tmp_path / "cut")
    run(whole, data, tmp_path / "other")
    for name in ("config.json",):
        text = json.loads((tmp_path / "cut" / name).read_text())
        text["loop"]["num_steps"] = 4
        (tmp_path / "cut" / name).write_text(json.dumps(text, indent=2))
    (tmp_path / "cut" / "result.json").unlink()
    assert configs.from_dict(FinetuneConfig, text) == whole
    run(whole, data, tmp_path / "cut", resume=True)
    assert [loss for _, loss in losses(tmp_path / "cut")][2:] == [loss for _, loss in losses(tmp_path / "other")][2:]
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("cut", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_chunks_recomputed_or_checkpointed_are_the_same_run(base: Path, data: Path, tmp_path: Path) -> None:
    """With the adapter's dropout, instructions and prefixes: what is kept in the graph changes nothing."""
    config = settings(base, chunk_tokens=64, loss=LossConfig(temperature=0.05, matryoshka_dims=(8, 16)))
    run(config, data, tmp_path / "kept")
    wanted = [loss for _, loss in losses(tmp_path / "kept")]
    for recompute, checkpoints in ((True, False), (False, True), (True, True)):
        out = tmp_path / f"{recompute} {checkpoints}"
        run(replace(config, recompute=recompute, checkpoint_layers=checkpoints), data, out)
        assert [loss for _, loss in losses(out)] == pytest.approx(wanted, abs=1e-6)


CHILD = """
    import sys, warnings
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from diffembed import configs
    from diffembed.training.finetune import main
    from diffembed.training.finetune_config import FinetuneConfig
    settings = configs.from_dict(FinetuneConfig, configs.read_json(Path(sys.argv[1])))
    main(settings, data=Path(sys.argv[2]), out=Path(sys.argv[3]), command=["test"])
"""


@pytest.mark.parametrize("shard", [False, True])
def test_ranks_train_the_same_adapter(base: Path, data: Path, tmp_path: Path, shard: bool) -> None:
    config = settings(base, chunk_tokens=64, recompute=True)
    config = replace(config, loop=replace(config.loop, shard=shard))
    run(config, data, tmp_path / "one")
    (tmp_path / "settings.json").write_text(json.dumps(configs.to_dict(config)))
    rank_processes.finish(CHILD, [tmp_path / "settings.json", data, tmp_path / "two"], 2)
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
    assert cosines(vectors(tmp_path / "one" / "model"), vectors(tmp_path / "two" / "model")).min() > 0.9999


def test_bf16_weights_have_fp32_masters(base: Path, data: Path, tmp_path: Path) -> None:
    run(settings(base, dtype="bfloat16"), data, tmp_path / "run")
    saved = load_file(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / TENSORS_FILE)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    rounded = [tensor for name, tensor in saved.items() if name.startswith("master.")]
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in rounded)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rank": 0}, "must be positive"),
        ({"alpha": 0.0}, "must be positive"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"targets": ()}, "targets are none"),
        ({"targets": ("q_proj", "qq_proj")}, "targets are q_proj, qq_proj"),
    ],
)
def test_adapters_that_make_no_sense_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        LoraConfig(**changes)


def test_muon_is_refused(base: Path) -> None:
    with pytest.raises(ConfigError, match="an adapter has none"):
        settings(base, optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=0, muon=True))
