"""Pre-training that goes on from a model: one that looked back learns to look both ways, its shift and head kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors, trainers

from diffembed.backbone import Backbone, load_backbone, save_backbone
from diffembed.backbone.packed import pack
from diffembed.errors import ConfigError
from diffembed.objectives.schedule import draw_noise_levels
from diffembed.text.tokenizer import Tokenizer
from diffembed.training import loop, pretrain
from diffembed.training.optimizer import OptimizerConfig
from tests.training.tiny_runs import losses, rows, run, settings, write_text

SPECIAL = ["<s>", "</s>", "<reserved>"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def causal(data, tmp_path_factory) -> Path:
    """A model of another family: looks back, has a head of its own, begins texts with <s>, knows no mask."""
    folder = tmp_path_factory.mktemp("causal") / "model"
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([(data / "made" / "docs.jsonl").read_text()], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    Tokenizer(raw, {"eos": "</s>"}).save(folder)
    shape = settings().backbone
    assert shape is not None
    backbone = Backbone(replace(shape, qk_norm=False, qkv_bias=True, head="own", direction="forward"))
    backbone.init_weights(torch.Generator().manual_seed(3))
    save_backbone(backbone, folder)
    return folder


def adapting(init: Path, **changes) -> pretrain.PretrainConfig:
    lengths = {"segment_lengths": (32, 96), "segment_shares": (0.5, 0.5)}  # <s> goes on top
    return settings(backbone=None, init=str(init), mask_token="<reserved>", **lengths, **changes)


def test_an_autoregressive_model_learns_to_look_both_ways(causal, data, tmp_path):
    config = adapting(causal, num_steps=60, optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=5))
    model = run(tmp_path / "run", data, config)
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert sum(curve[-10:]) / 10 < sum(curve[:5]) / 5 - 0.5
    before, after = load_backbone(causal, with_head=True), load_backbone(model, with_head=True)
    assert before.config == replace(after.config, direction="forward", logit_shift=False)
    assert after.config.direction == "both" and after.config.logit_shift and after.config.head == "own"
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    tokenizer = Tokenizer.load(model)
    assert tokenizer.names["mask"] == "<reserved>" and tokenizer.prefix == [0]


def test_the_first_loss_by_hand(causal, data, tmp_path, monkeypatch):
    """Token i is predicted from the state at i - 1, weighted by 1 / t, over all tokens that could be masked."""
    plans = []
    real = pretrain.planned_loss
    monkeypatch.setattr(pretrain, "planned_loss", lambda plan, *rest: plans.append(plan) or real(plan, *rest))
    config = adapting(causal, num_steps=1)
    run(tmp_path / "run", data, config)
    monkeypatch.undo()

    backbone, tokenizer, _, batches = pretrain._prepare(tmp_path / "run", None, config)
    sequences = sorted(([0, *ids] for ids in batches[0]), key=len)
    t_B = draw_noise_levels(len(sequences), loop._step_generator(0, 1)).tolist()
    seen = torch.cat([plan.input_ids_T for plan in plans]).tolist()
    total, masked = 0.0, 0
    for ids, t in zip(sequences, t_B, strict=True):
        own, seen = seen[: len(ids)], seen[len(ids) :]
        assert own[0] == 0 and own[-1] == ids[-1] == 1  # <s> and </s> are never hidden
        logits = backbone.logits(backbone(pack([own]))).detach().double().log_softmax(1)
        for place, (shown, right) in enumerate(zip(own, ids, strict=True)):
            if shown != right:
                assert shown == tokenizer.mask_token_id
                total -= float(logits[place - 1, right]) / t
                masked += 1
    count = sum(len(ids) - 2 for ids in sequences)
    [row] = rows(tmp_path / "run")
    assert not seen and row["scored"] == masked > 10
    assert row["loss"] == pytest.approx(total / count, rel=1e-5)


def test_a_diffusion_model_goes_on_as_it_was(data, tmp_path):
    first = run(tmp_path / "first", data, settings())
    second = run(tmp_path / "second", data, settings(backbone=None, init=str(first)))
    assert load_backbone(second).config == load_backbone(first).config == settings().backbone
    assert losses(tmp_path / "second")[0][1] < losses(tmp_path / "first")[0][1]
    assert (second / "tokenizer.json").read_bytes() == (first / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mask_token": None}, "has no mask token"),
        ({"mask_token": "<none>"}, "has no token '<none>'"),
        ({"segment_lengths": (128,), "segment_shares": (1.0,)}, "128 positions"),  # and <s> before them
    ],
)
def test_what_the_model_cannot_do_is_refused_and_leaves_no_run(causal, data, tmp_path, changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        run(tmp_path / "run", data, replace(adapting(causal), **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"init": "somewhere"}, {"backbone": None}, {"mask_token": "<x>"}])
def test_settings_that_contradict_each_other_are_refused(changes):
    with pytest.raises(ConfigError):
        settings(**changes)


def test_a_missing_model_is_named(data, tmp_path):
    with pytest.raises(Exception, match="there is no model folder"):
        run(tmp_path / "run", data, adapting(tmp_path / "nowhere"))
    assert not (tmp_path / "run").exists()


def test_settings_survive_json(causal):
    from diffembed import configs

    config = adapting(causal)
    assert configs.from_dict(pretrain.PretrainConfig, json.loads(json.dumps(configs.to_dict(config)))) == config
