"""LLM2Vec's first step and the way from an autoregressive model to a diffusion model, on models of other families."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer

from diffembed import Embedder, recipes
from diffembed.backbone import load_backbone
from diffembed.recipes import pretrain as recipe
from diffembed.training.loop_config import LoopConfig
from diffembed.training.pretrain_config import PretrainConfig
from tests import family_checkpoints
from tests.family_checkpoints import POSITIONS
from tests.family_tokenizers import VOCAB, vocab_and_merges
from tests.golden_curves import check_curve
from tests.training.tiny_runs import losses, run, write_text

# peft asks transformers by a name that is going away.
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]
pytest.importorskip("peft")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, trained: RawTokenizer) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for model_type in ("qwen2", "llama", "mistral"):
        family_checkpoints.make(model_type, folder / model_type, vocab_size=VOCAB)
        settings = vocab_and_merges(folder / model_type, trained)
        del settings["mask_token"]  # these have none
        (folder / model_type / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("data"))


def tiny(config: PretrainConfig, init: Path, num_steps: int = 6, **changes) -> PretrainConfig:
    """A recipe at toy size."""
    return replace(
        config,
        init=str(init),
        mask_token="_",
        optimizer=replace(config.optimizer, peak_lr=3e-3, warmup_steps=min(config.optimizer.warmup_steps, 2)),
        loop=LoopConfig(num_steps=num_steps, checkpoint_every_steps=2, seed=config.loop.seed),
        tokens_per_step=384,
        tokens_per_micro_batch=128,
        segment_lengths=(POSITIONS,),
        dtype="float32",
        **changes,
    )


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "mistral"])
def test_masked_next_token_prediction_leaves_an_adapter(
    model_type: str, bases: Path, data: Path, tmp_path: Path
) -> None:
    base = {"qwen2": "qwen2.5", "llama": "llama3", "mistral": "mistral"}[model_type]
    config = tiny(recipe.llm2vec_mntp(base), bases / model_type)
    adapter = run(tmp_path / "run", data, config)
    assert adapter == tmp_path / "run" / "adapter" and not (tmp_path / "run" / "model").exists()
    check_curve(f"llm2vec_mntp_{model_type}", tmp_path / "run")
    embedder = Embedder.load(bases / model_type, adapter=adapter, dtype="float32")
    assert embedder.direction == "both"
    before = Embedder.load(bases / model_type, direction="both", dtype="float32")
    cosine = embedder.encode_document(["a quick fox"])[0] @ before.encode_document(["a quick fox"])[0]
    assert cosine < 0.9999


def test_resumed_it_is_the_same_run_and_merged_the_same_model(bases: Path, data: Path, tmp_path: Path) -> None:
    """The adapter's dropout is on."""
    config = tiny(recipe.llm2vec_mntp(), bases / "llama", num_steps=5)
    assert config.lora is not None and config.lora.dropout > 0
    config = replace(config, lora=replace(config.lora, merge=True))
    model = run(tmp_path / "whole", data, config)
    run(tmp_path / "cut", data, config)
    # As if killed after the checkpoint of step 4.
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        if path.name == "00000005":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (tmp_path / "cut" / "result.json").unlink()
    run(tmp_path / "cut", data, config, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    merged, added = (
        Embedder.load(name, adapter=adapter, dtype="float32").encode_document(["a quick fox"])
        for name, adapter in ((model, None), (bases / "llama", tmp_path / "whole" / "adapter"))
    )
    np.testing.assert_allclose(merged, added, atol=1e-5)
    assert load_backbone(model, with_head=True).config.head == "own"


@pytest.mark.parametrize("changes", [{}, {"weighting": "cart", "anneal_steps": 4}])
@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_an_autoregressive_model_becomes_a_diffusion_model(
    model_type: str, changes: dict, bases: Path, data: Path, tmp_path: Path
) -> None:
    model = run(tmp_path / "run", data, tiny(recipe.adapt(), bases / model_type, **changes))
    check_curve(f"adapt_{model_type}{'_cart' * bool(changes)}", tmp_path / "run")
    backbone = load_backbone(model, with_head=True)
    assert (backbone.config.direction, backbone.config.logit_shift, backbone.config.head) == ("both", True, "own")
    embedder = Embedder.load(model, dtype="float32")
    assert embedder.direction == "both" and embedder.tokenizer.names["mask"] == "_"
    first, last = (embedder.encode_document([text])[0] for text in ("a quick fox", "a quick box"))
    assert not np.array_equal(first, last)


def test_the_numbers_of_llm2vec() -> None:
    """Its paper (arXiv:2404.05961) and configurations; Qwen2.5's are those of DiffEmbed's authors."""
    found = {name: make() for name, make in recipes.pretraining().items() if name.startswith("llm2vec")}
    assert {name: (c.mask_share, c.only_masks, c.loop.num_steps, c.tokens_per_step) for name, c in found.items()} == {
        "llm2vec-mntp": (0.2, False, 1_000, 32 * 512),
        "llm2vec-mntp-mistral": (0.8, True, 1_000, 32 * 512),
        "llm2vec-mntp-qwen2.5": (0.2, False, 4_000, 16 * 512),
    }
    assert all(c.lora and (c.lora.rank, c.lora.alpha) == (16, 32.0) for c in found.values())


def test_states_of_the_adapter_are_those_that_were_trained(bases: Path, data: Path, tmp_path: Path) -> None:
    """Nothing is learnt at a rate of next to nothing: the adapter then adds nothing."""
    config = tiny(recipe.llm2vec_mntp(), bases / "llama", num_steps=1)
    still = replace(config, optimizer=replace(config.optimizer, peak_lr=1e-12))
    adapter = run(tmp_path / "run", data, still)
    plain = Embedder.load(bases / "llama", direction="both", dtype="float32")
    adapted = Embedder.load(bases / "llama", adapter=adapter, dtype="float32")
    vectors = [each.encode_document(["wizards judge"]) for each in (plain, adapted)]
    torch.testing.assert_close(torch.from_numpy(vectors[0]), torch.from_numpy(vectors[1]), atol=1e-6, rtol=0)
