"""What `--dry-run` says a training will take: counted by hand, and measured."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from diffembed.backbone import Backbone
from diffembed.backbone.config import BackboneConfig
from diffembed.backbone.known import KNOWN, count_parameters
from diffembed.recipes import finetune, pretrain
from diffembed.training import plan_summary
from diffembed.training.flops import MatrixFlops
from diffembed.training.lora import LoraConfig, attach
from diffembed.training.losses import LossConfig
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.plan_summary import (
    Place,
    PlanSummary,
    Tokens,
    lora_parameters,
    summarise_finetuning,
    summarise_pretraining,
    training_memory,
)
from tests.training.test_progress import environment

DREAM = next(known.shape for known in KNOWN if known.id == "Dream-org/Dream-v0-Base-7B")
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA = LoraConfig()
MEDIUM = BackboneConfig(
    vocab_size=4_000,
    width=384,
    num_layers=6,
    num_heads=6,
    num_kv_heads=2,
    head_width=64,
    mlp_width=1_024,
    max_positions=512,
)
ADAMW = OptimizerConfig(peak_lr=1e-3, warmup_steps=0)

# Prints the growth of a process's memory over two steps, each of two micro-batches; what it imports comes before.
MEASURED = """
    import json, sys
    from pathlib import Path
    import torch
    from diffembed import configs
    from diffembed.backbone import Backbone, BackboneConfig, pack
    from diffembed.training.optimizer import MasterOptimizer, OptimizerConfig

    def status(name):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    def train(config, optimizer_config, dtype, tokens, longest, checkpoints):
        backbone = Backbone(config)
        backbone.init_weights(torch.Generator().manual_seed(0))
        backbone = backbone.to(getattr(torch, dtype)).train()
        backbone.checkpoint_layers = checkpoints
        optimizer = MasterOptimizer(backbone, optimizer_config)
        batch = pack([[1] * longest] * (tokens // longest))
        for _ in range(2):
            for _ in range(2):
                backbone(batch).float().square().mean().backward()
                optimizer.accumulate()
            optimizer.clip()
            optimizer.step(1e-3)

    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    config = configs.from_dict(BackboneConfig, given["config"])
    optimizer = configs.from_dict(OptimizerConfig, given["optimizer"])
    small = configs.from_dict(BackboneConfig, {**given["config"], "num_layers": 1, "vocab_size": 8})
    train(small, optimizer, given["dtype"], 16, 16, False)
    before = status("VmRSS")
    train(config, optimizer, given["dtype"], given["tokens"], given["longest"], given["checkpoints"])
    print(status("VmHWM") - before)
"""


def meta(config: BackboneConfig) -> Backbone:
    with torch.device("meta"):
        return Backbone(config)


def test_an_adapter_of_rank_16_on_dream_trains_40_million():
    # By hand: (3584 + 3584) * 2 for q and o, (3584 + 512) * 2 for k and v, (3584 + 18944) * 3 for the MLP: 90,112
    # features; 16 of each, in 28 layers.
    assert lora_parameters(DREAM, 16, SEVEN) == 90_112 * 16 * 28 == 40_370_176
    assert lora_parameters(DREAM, 16, ("q_proj", "v_proj")) == (7_168 + 4_096) * 16 * 28


@pytest.mark.extra
def test_peft_makes_as_many():
    toy = Backbone(replace(MEDIUM, num_layers=2, vocab_size=8))
    attach(toy, LoraConfig(rank=4), seed=0)
    trained = sum(p.numel() for p in toy.parameters() if p.requires_grad)
    assert trained == lora_parameters(toy.config, 4, SEVEN)
    frozen = sum(p.numel() for name, p in toy.named_parameters() if p.dim() == 2 and "base_layer" in name)
    assert MatrixFlops.of(toy).per_token == 4 * frozen + 6 * trained


def test_dream_on_a_gpu_by_hand():
    """DiffEmbed's training: rank 16, bf16, 16 pairs with a hard negative each, 4,096 tokens, layers checkpointed."""
    shape = replace(DREAM, head="none")
    trained = 40_370_176
    memory = training_memory(shape, trained, Tokens(8_192, 4_096, 8_192), ADAMW, Place("cuda", 2), True, LORA)
    base = 152_064 * 3_584 + 28 * (233_046_016 + 4_608 + 7_168) + 3_584  # table; matrices, biases, norms; last norm
    assert count_parameters(shape) == base == 7_070_619_136
    assert memory.weights == 2 * (base + trained)
    assert memory.masters_and_moments == (4 + 8) * trained
    assert memory.gradients == (4 + 2) * trained
    # A layer keeps what comes in, 2 bytes x 3,584, of every token; all of one layer is there besides.
    assert memory.activations > 8_192 * 28 * 2 * 3_584
    whole = training_memory(shape, trained, Tokens(8_192, 4_096, 8_192), ADAMW, Place("cuda", 2), False, LORA)
    assert whole.activations > 10 * memory.activations
    assert memory.total == memory.weights + memory.masters_and_moments + memory.gradients + memory.activations


def test_what_is_remembered_of_a_weight():
    parameters = count_parameters(MEDIUM)
    in_layers = sum(p.numel() for name, p in meta(MEDIUM).named_parameters() if p.dim() == 2 and "layers." in name)

    def plan(item: int, optimizer: OptimizerConfig, **place) -> tuple[int, int, int]:
        memory = training_memory(MEDIUM, parameters, Tokens(64, 32, 64), optimizer, Place("cpu", item, **place))
        return memory.weights, memory.masters_and_moments, memory.gradients

    assert plan(4, ADAMW) == (4 * parameters, 8 * parameters, 8 * parameters)  # fp32 weights are their own masters
    assert plan(2, ADAMW) == (2 * parameters, 12 * parameters, 6 * parameters)
    assert plan(4, replace(ADAMW, muon=True))[1] == 8 * parameters - 4 * in_layers
    one_layer = count_parameters(replace(MEDIUM, num_layers=1))
    sharded = plan(2, ADAMW, ranks=4, is_sharded=True)
    assert sharded == (4 * parameters // 4 + 2 * one_layer, 8 * parameters // 4, 8 * parameters // 4)


def test_pretraining_in_numbers():
    plan = summarise_pretraining(replace(pretrain.smoke(), dtype="float32"))
    assert plan is not None
    parameters = sum(p.numel() for p in meta(pretrain.TOY_SHAPE).parameters())
    assert (plan.trained_parameters, plan.all_parameters) == (parameters, parameters)
    assert (plan.steps, plan.tokens_per_step, plan.candidates_per_query) == (40, 1_024, None)
    assert plan.sequences_per_step == 13  # 1,024 tokens at (32 + 128) / 2 each


def test_finetuning_in_numbers():
    smoke = replace(finetune.smoke(), dtype="float32")
    plan = summarise_finetuning(smoke)
    assert plan is not None
    assert (plan.sequences_per_step, plan.candidates_per_query) == (64, 32)
    assert plan.tokens_per_step == 32 * (16 + 48)
    lines = plan.lines()
    assert lines[0] == f"trains {plan.trained_parameters:,} of {plan.all_parameters:,} parameters (100.00%)"
    assert lines[1] == "40 steps of about 64 sequences, at most 2,048 tokens (without prompts)"
    assert lines[2].startswith("each query has up to 32 candidates") and "31 negatives" in lines[2]
    assert f"some {plan.memory.total / 1e9:.2f} GB" in lines[3]


@pytest.mark.parametrize(
    ("loss", "negatives", "candidates"),
    [
        (LossConfig(temperature=0.02), 0, 32),
        (LossConfig(temperature=0.02), 3, 32 * 4),
        (LossConfig(temperature=0.02, include_queries=True), 3, 32 * 4 + 31),
        (LossConfig(name="explicit", temperature=1.0), 7, 8),
        (LossConfig(name="kl", temperature=1.0), 7, 8),
        (LossConfig(name="vectors", temperature=1.0, teacher="t"), 0, None),
    ],
)
def test_what_a_query_chooses_from(loss, negatives, candidates):
    plan = summarise_finetuning(replace(finetune.smoke(), loss=loss, negatives=negatives))
    assert plan is not None and plan.candidates_per_query == candidates
    assert plan.sequences_per_step == 32 * (2 + negatives)
    assert plan.tokens_per_step == 32 * (16 + (1 + negatives) * 48)
    assert len(plan.lines()) == (3 if candidates is None else 4)


def test_chunks_that_are_read_twice_need_the_memory_of_one():
    config = replace(finetune.smoke(), dtype="float32", chunk_tokens=256)
    kept, again = (summarise_finetuning(each) for each in (config, replace(config, recompute=True)))
    assert kept is not None and again is not None
    loss = 4 * 4 * (64 * 64 + 32 * 32)  # vectors of 64 texts, and their similarities
    # What a chunk of 256 tokens keeps, and besides what is at work in it, is there once; of all 2,048 the former eight
    # times.
    working = 256 * (3 * 4 * 128 + 2 * 4 * 64)
    one = again.memory.activations - loss - working
    assert kept.memory.activations - loss - working == 8 * one


def test_ranks_share_the_activations(monkeypatch):
    config = replace(finetune.smoke(), dtype="float32")
    alone = summarise_finetuning(config)
    monkeypatch.setenv("WORLD_SIZE", "4")
    shared = summarise_finetuning(config)
    assert alone is not None and shared is not None
    assert shared.memory.weights == alone.memory.weights and shared.tokens_per_step == alone.tokens_per_step
    assert shared.memory.activations < alone.memory.activations / 3


def test_a_model_on_the_hub_is_known_without_it():
    config = replace(finetune.builtin(), init="Dream-org/Dream-v0-Base-7B", dtype="bfloat16")
    plan = summarise_finetuning(config)
    assert plan is not None and plan.all_parameters == 7_070_619_136
    assert summarise_finetuning(replace(config, init="nobody/knows-this")) is None
    assert summarise_finetuning(finetune.builtin()) is None, "it says neither init nor a shape"


def test_a_base_that_is_frozen_costs_two_thirds():
    toy = meta(replace(MEDIUM, head="own"))
    in_layers = sum(p.numel() for name, p in toy.named_parameters() if p.dim() == 2 and "layers." in name)
    head = MEDIUM.vocab_size * MEDIUM.width
    flops = MatrixFlops.of(toy)
    assert (flops.per_token, flops.per_scored) == (6 * in_layers, 6 * head)
    assert flops.step(10, 3) == 60 * in_layers + 18 * head
    assert MatrixFlops.of(toy.requires_grad_(False)).per_token == 4 * in_layers


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("dtype", "longest", "checkpoints"),
    [("float32", 512, False), ("float32", 128, True), ("bfloat16", 128, False)],
)
def test_the_estimate_is_near_what_is_measured(dtype, longest, checkpoints):
    from diffembed import configs

    tokens = 2_048
    given = {
        "config": configs.to_dict(MEDIUM),
        "optimizer": configs.to_dict(ADAMW),
        "dtype": dtype,
        "tokens": tokens,
        "longest": longest,
        "checkpoints": checkpoints,
    }
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), json.dumps(given)]
    # What is freed goes back at once: the allocator otherwise holds up to 40% more than is in use.
    returning = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}
    done = subprocess.run(
        command, env=environment() | returning, check=True, capture_output=True, text=True, timeout=150
    )
    place = Place("cpu", getattr(torch, dtype).itemsize)
    memory = training_memory(
        MEDIUM, count_parameters(MEDIUM), Tokens(tokens, longest, tokens), ADAMW, place, checkpoint_layers=checkpoints
    )
    measured = int(done.stdout)
    assert memory.total / 1.25 < measured < memory.total * 1.25, f"{measured:,} bytes, {memory}"


def test_every_verb_has_a_summary():
    from diffembed import recipes

    assert plan_summary.SUMMARIES.keys() == recipes.TABLES.keys()
    assert isinstance(summarise_pretraining(pretrain.builtin()), PlanSummary)
