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
from diffembed.training import loop, pretrain, scoring
from diffembed.training.lora import LoraConfig
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.pretrain_config import PretrainConfig
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


def adapting(init: Path, **changes) -> PretrainConfig:
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
    real = scoring.planned_loss
    monkeypatch.setattr(scoring, "planned_loss", lambda plan, *rest: plans.append(plan) or real(plan, *rest))
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
    assert configs.from_dict(PretrainConfig, json.loads(json.dumps(configs.to_dict(config)))) == config


def by_hand(plan, shown: list[int], backbone: Backbone, start: int) -> list[tuple[int, float]]:
    """(place, -log p) of the hidden tokens of a sequence that begins at `start` of a plan."""
    logits = backbone.logits(backbone(pack([shown]))).detach().double().log_softmax(1)
    hidden = {int(place) - start: int(right) for place, right in zip(plan.positions_N, plan.targets_N, strict=True)}
    return [(place, -float(logits[place - 1, right])) for place, right in hidden.items() if 0 <= place < len(shown)]


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "masked_next_token", "mask_share": 0.3},
        {"objective": "masked_next_token", "mask_share": 0.8, "only_masks": True},
        {"normalizer": "masked"},
        {"weighting": "cart"},
    ],
)
def test_the_first_loss_of_each_objective_by_hand(causal, data, tmp_path, monkeypatch, changes):
    plans = []
    real = scoring.planned_loss
    monkeypatch.setattr(scoring, "planned_loss", lambda plan, *rest: plans.append(plan) or real(plan, *rest))
    config = adapting(causal, num_steps=1, **changes)
    run(tmp_path / "run", data, config)
    monkeypatch.undo()
    backbone, _, _, batches = pretrain._prepare(tmp_path / "run", None, config)
    assert backbone.config.logit_shift and backbone.config.direction == "both"
    sequences = sorted(([0, *ids] for ids in batches[0]), key=len)
    t_B = draw_noise_levels(len(sequences), loop._step_generator(0, 1)).tolist()
    total, scored, place = 0.0, 0, 0
    queue = list(plans)
    for ids, t in zip(sequences, t_B, strict=True):
        if place == len(queue[0].input_ids_T):
            queue.pop(0)
            place = 0
        shown = queue[0].input_ids_T[place : place + len(ids)].tolist()
        assert shown[0] == 0 and shown[-1] == ids[-1] == 1
        found = by_hand(queue[0], shown, backbone, place)
        masked = {spot for spot, _ in found}
        for spot, loss in found:
            near = sum(0.15 * 0.7 ** (abs(spot - i) - 1) for i in range(len(ids)) if i not in masked)
            weight = {"cart": near, "bound": 1 / t}[config.weighting]
            total += loss * (1.0 if config.objective == "masked_next_token" else weight)
        scored += len(found)
        place += len(ids)
    count = sum(len(ids) - 2 for ids in sequences)
    is_mean = config.objective == "masked_next_token" or config.normalizer == "masked"
    [row] = rows(tmp_path / "run")
    assert row["scored"] == scored > 10
    assert row["loss"] == pytest.approx(total / (scored if is_mean else count), rel=1e-5)


def test_what_lies_ahead_is_opened_in_a_line(causal):
    config = adapting(causal, anneal_steps=4)
    backbone = load_backbone(causal, direction="both").train()
    own = scoring.Scoring.__new__(scoring.Scoring)
    own.config = config
    assert [own._future_share(step) for step in (1, 2, 4, 5)] == [0.25, 0.5, 1.0, 1.0]
    ids, others = [3, 1, 4, 1, 5, 9], [3, 1, 4, 1, 5, 2]
    for share, sees in ((0.0, False), (1.0, True)):
        backbone.open_future(share)
        first, second = (backbone(pack([each]))[:5] for each in (ids, others))
        assert torch.equal(first, second) is not sees
    backbone.open_future(0.0)
    closed = backbone(pack([ids]))
    forward = load_backbone(causal, direction="forward")(pack([ids]))
    torch.testing.assert_close(closed, forward)
    backbone.open_future(0.5)
    assert torch.equal(backbone.eval()(pack([ids])), load_backbone(causal, direction="both").eval()(pack([ids])))


def test_opened_slowly_a_run_is_the_same_again(causal, data, tmp_path):
    """Its randomness is the step's own."""
    config = adapting(causal, num_steps=4, anneal_steps=8)
    for name in ("one", "two"):
        run(tmp_path / name, data, config)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    run(tmp_path / "open", data, adapting(causal, num_steps=4))
    assert losses(tmp_path / "open")[0] != losses(tmp_path / "one")[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"objective": "next_token", "weighting": "cart"}, "are for masked_diffusion"),
        ({"objective": "masked_next_token", "normalizer": "masked"}, "are for masked_diffusion"),
        ({"mask_share": 0.0}, "mask_share must be in"),
        ({"anneal_steps": -1}, "anneal_steps is -1"),
        ({"objective": "next_token", "anneal_steps": 5}, "anneal_steps is 5"),
        ({"lora": LoraConfig(), "optimizer": OptimizerConfig(peak_lr=1e-3, warmup_steps=0, muon=True)}, "muon"),
    ],
)
def test_pairs_that_cannot_work_are_refused(causal, changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        adapting(causal, **changes)
    with pytest.raises(ConfigError):
        settings(lora=LoraConfig())
