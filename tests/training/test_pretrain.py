"""Pre-training: it learns, it resumes exactly whatever kills it, and it refuses what cannot work."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffembed import configs, recipes
from diffembed.backbone import load_backbone
from diffembed.errors import ConfigError, DataError, DiffembedError, RunExistsError
from diffembed.recipes import pretrain as recipe
from diffembed.text.tokenizer import Tokenizer
from diffembed.training import checkpoint
from diffembed.training.loop_config import LoopConfig
from diffembed.training.optimizer import MasterOptimizer, OptimizerConfig
from diffembed.training.pretrain import main
from diffembed.training.pretrain_config import PretrainConfig
from tests.golden_curves import check_curve


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "made"
    folder.mkdir()
    sentence = "model token noise mask layer width state vector query text bound step loss rate"
    words = sentence.split()
    with (folder / "docs.jsonl").open("w") as file:
        for i in range(300):
            text = " ".join(words[(i * k + k * k) % len(words)] for k in range(20 + i % 60))
            file.write(json.dumps({"id": str(i), "title": words[i % len(words)], "text": text}) + "\n")
    return folder.parent


def config(num_steps=12, **changes) -> PretrainConfig:
    small = replace(
        recipe.smoke(),
        backbone=replace(recipe.smoke().backbone, vocab_size=300, width=32, head_width=16),
        loop=LoopConfig(num_steps=num_steps, checkpoint_every_steps=5),
        tokens_per_step=256,
        tokens_per_micro_batch=128,
    )
    return replace(small, **changes)


def losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def run(out: Path, data: Path, settings: PretrainConfig, resume=False) -> Path:
    return main(settings, data=data, out=out, resume=resume, command=["test"])


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out, data, config())
    return out


def test_the_loss_falls(data, tmp_path):
    run(tmp_path / "run", data, config(num_steps=60))
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert sum(curve[-10:]) / 10 < sum(curve[:5]) / 5 - 1.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("muon", [False, True])
def test_stopped_and_resumed_equals_uninterrupted(data, tmp_path, monkeypatch, dtype, muon):
    settings = config(dtype=dtype, optimizer=replace(config().optimizer, muon=muon))
    run(tmp_path / "whole", data, settings)

    real_save = checkpoint.save

    def save_then_stop(path, step, *rest):
        real_save(path, step, *rest)
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", data, settings)
    monkeypatch.undo()
    run(tmp_path / "parts", data, settings, resume=True)

    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("parts", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


CHILD = """
    import os, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from diffembed import configs
    from diffembed.training.pretrain import main
    from diffembed.training.pretrain_config import PretrainConfig
    settings = configs.from_dict(PretrainConfig, configs.read_json(Path(sys.argv[1])))
    main(settings, data=Path(sys.argv[2]), out=Path(sys.argv[3]), resume=True, command=["test"])
"""


def test_killed_anywhere_and_resumed_equals_uninterrupted(data, whole, tmp_path):
    """kill -9 at a few arbitrary moments: during start, tokenizing, training, or the writing of a checkpoint."""
    out, settings_path = tmp_path / "run", tmp_path / "config.json"
    settings_path.write_text(json.dumps(configs.to_dict(config())))
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(settings_path), str(data), str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    kills = 0
    for wait_for_steps in (1, 4, 8):
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while child.poll() is None:
            if (out / "metrics.jsonl").exists() and len(losses_so_far(out)) >= wait_for_steps:
                child.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        child.wait(timeout=60)
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL, timeout=120)
    assert kills, "every child finished before it could be killed"
    assert losses(out) == losses(whole)
    assert (out / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def losses_so_far(out: Path) -> list[str]:
    return (out / "metrics.jsonl").read_text().splitlines()


def test_the_model_folder_is_whole(whole):
    backbone, tokenizer = load_backbone(whole / "model"), Tokenizer.load(whole / "model")
    assert backbone.config == config().backbone
    assert tokenizer.vocab_size == backbone.config.vocab_size
    result = json.loads((whole / "result.json").read_text())
    assert result["steps"] == 12 and result["tokens"] > 12 * 128


def test_the_autoregressive_twin_trains_in_the_same_loop(data, tmp_path):
    backbone = replace(config().backbone, direction="forward")
    model = run(tmp_path / "run", data, config(num_steps=30, objective="next_token", backbone=backbone))
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert curve[-1] < curve[0] - 1.0
    assert load_backbone(model).config.direction == "forward"


def test_builtin_and_its_twin_differ_in_objective_and_direction_only():
    diffusion, twin = (configs.to_dict(recipes.load(recipes.pretraining(), name)) for name in ("builtin", "builtin-ar"))
    assert diffusion["backbone"].pop("direction") == "both" and twin["backbone"].pop("direction") == "forward"
    assert diffusion.pop("objective") == "masked_diffusion" and twin.pop("objective") == "next_token"
    assert diffusion == twin


def test_golden_curve(data, tmp_path):
    run(tmp_path / "run", data, config(dtype="float32"))
    check_curve("tiny_pretrain", tmp_path / "run")


def test_an_existing_run_is_refused(data, whole):
    with pytest.raises(RunExistsError, match="--resume"):
        run(whole, data, config())


def test_resuming_with_other_settings_is_refused(data, whole):
    with pytest.raises(ConfigError, match="loop"):
        run(whole, data, config(num_steps=99), resume=True)


def test_missing_data_leaves_no_run_behind(tmp_path):
    with pytest.raises(DataError, match="not a folder"):
        run(tmp_path / "run", tmp_path / "nowhere", config())
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    run(tmp_path / "run", data, config(num_steps=6))
    newest = tmp_path / "run" / "checkpoints" / "00000006"
    (newest / "state.safetensors").write_bytes(b"short")
    with pytest.raises(DiffembedError, match="00000006 is damaged"):
        run(tmp_path / "run", data, config(num_steps=6), resume=True)


class Fault(BaseException):
    """Stands for the machine failing at this instant."""


@pytest.mark.parametrize("after", [False, True])
def test_a_fault_at_any_file_operation_can_be_resumed(data, whole, tmp_path, monkeypatch, after):
    """The n-th rename fails, before or after it takes effect, for every n of a whole run."""
    real = {name: getattr(Path, name) for name in ("rename", "replace")}
    calls = 0

    def failing(name, at):
        def operate(self, target):
            nonlocal calls
            calls += 1
            if calls == at and not after:
                raise Fault
            result = real[name](self, target)
            if calls == at:
                raise Fault
            return result

        return operate

    settings = config(num_steps=12, loop=LoopConfig(num_steps=12, checkpoint_every_steps=5))
    for at in range(1, 100):
        out, calls = tmp_path / str(at), 0
        for name in real:
            monkeypatch.setattr(Path, name, failing(name, at))
        try:
            run(out, data, settings)
            break
        except Fault:
            pass
        finally:
            for name, function in real.items():
                monkeypatch.setattr(Path, name, function)
        run(out, data, settings, resume=True)
        assert losses(out) == losses(whole)
        assert (out / "model" / "model.safetensors").read_bytes() == (
            whole / "model" / "model.safetensors"
        ).read_bytes()
    assert at > 10, "a run has more file operations than that"


def test_ctrl_c_finishes_the_step_and_saves_it(data, whole, tmp_path):
    settings_path = tmp_path / "config.json"
    settings_path.write_text(json.dumps(configs.to_dict(config(num_steps=2000))))
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(settings_path), str(data), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode != 0 and "--resume goes on from there" in said
    last_step, _ = losses(tmp_path / "run")[-1]
    assert checkpoint.list_steps(tmp_path / "run")[-1] == last_step
    assert f"stopped after step {last_step};" in said


def test_text_is_asked_for_where_the_recipe_needs_it(tmp_path):
    with pytest.raises(ConfigError, match="needs text"):
        main(replace(config(), docstrings=False), data=None, out=tmp_path / "run", command=["test"])
    assert not (tmp_path / "run").exists()


def test_bad_data_leaves_no_run_behind(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "docs.jsonl").write_text('{"text": "fine"}\n{broken\n')
    with pytest.raises(DataError, match=r"docs\.jsonl:2"):
        run(tmp_path / "run", tmp_path / "data", config())
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
def test_stopped_and_resumed_on_a_gpu(data, tmp_path):
    settings = config(loop=LoopConfig(num_steps=12, checkpoint_every_steps=5))
    run(tmp_path / "run", data, settings)
    last = tmp_path / "run" / "checkpoints" / "00000012"
    last.rename(tmp_path / "gone")
    run(tmp_path / "run", data, settings, resume=True)
    assert len(losses(tmp_path / "run")) == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_per_step": 64},
        {"segment_lengths": (1, 32)},
        {"segment_shares": (0.0, 0.0)},
        {"objective": "next_token"},
        {"segment_lengths": (32,)},
        {"segment_lengths": (), "segment_shares": ()},
        {"segment_lengths": (32, 4096)},
        {"tokens_per_micro_batch": 16},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError):
        config(**changes)


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "diffembed.training.scoring.planned_loss", lambda plan, states, table: states.sum() * float("nan")
    )
    with pytest.raises(DiffembedError, match="must be finite"):
        run(tmp_path / "run", data, config())


def test_a_model_that_is_not_finite_is_never_written(data, tmp_path):
    settings = config(num_steps=1, optimizer=OptimizerConfig(peak_lr=1e38, warmup_steps=0))
    with pytest.raises(DiffembedError, match="no longer finite"):
        run(tmp_path / "run", data, settings)
    assert not (tmp_path / "run" / "model").exists() and not checkpoint.list_steps(tmp_path / "run")


@pytest.mark.parametrize("content", ["{}", "[]", "", "[" * 100_000])
@pytest.mark.parametrize("name", ["tokens/store.json", "checkpoints/00000012/state.json"])
def test_damaged_state_is_named(data, tmp_path, name, content):
    run(tmp_path / "run", data, config())
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(DiffembedError, match="is damaged"):
        run(tmp_path / "run", data, config(), resume=True)


def test_rows_that_are_no_rows_are_forgotten(data, whole, tmp_path):
    run(tmp_path / "run", data, config())
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b'{}\n[]\n\xff\n3\n{"step": 99, "loss": 0}\n{"st')
    run(tmp_path / "run", data, config(), resume=True)
    assert losses(tmp_path / "run") == losses(whole)


def test_one_long_document_is_enough(tmp_path):
    (tmp_path / "data").mkdir()
    text = " ".join(f"word{i % 97} and thing{i % 89}" for i in range(60_000))
    (tmp_path / "data" / "docs.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "\ud800"}))
    run(tmp_path / "run", tmp_path / "data", config(num_steps=2))
    assert len(losses(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"beta1": 2.0},
        {"beta2": -1.0},
        {"weight_decay": -1.0},
        {"peak_lr": 0.0},
        {"clip_norm": 0.0},
        {"warmup_steps": -1},
    ],
)
def test_impossible_optimizers_are_refused(changes):
    with pytest.raises(ConfigError):
        OptimizerConfig(**({"peak_lr": 1e-3, "warmup_steps": 1} | changes))


@pytest.mark.parametrize(
    "changes", [{"seed": -1}, {"checkpoint_every_steps": 0}, {"checkpoint_every_s": 0.0}, {"num_steps": 0}]
)
def test_impossible_loops_are_refused(changes):
    with pytest.raises(ConfigError):
        LoopConfig(**({"num_steps": 3} | changes))


def test_masters_move_where_bf16_alone_would_stand_still():
    layer = torch.nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    optimizer = MasterOptimizer(layer, OptimizerConfig(peak_lr=1e-3, warmup_steps=0, weight_decay=0.0))
    for _ in range(20):  # 20 steps of 1e-3; one alone is below bf16's 2^-8 at 1.0
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.accumulate()
        optimizer.clip()
        optimizer.step(1e-3)
    assert float(optimizer.masters["weight"].mean()) == pytest.approx(0.98, abs=1e-3)
    assert float(layer.weight.detach().float().mean()) == pytest.approx(0.98, abs=4e-3)


def test_gradients_of_micro_batches_add_up_in_fp32():
    layer = torch.nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    optimizer = MasterOptimizer(layer, OptimizerConfig(peak_lr=1e-3, warmup_steps=0, clip_norm=1e9))
    for _ in range(3):
        layer.weight.grad = torch.full_like(layer.weight, 1.0078125)  # exact in bf16; three times it is not
        optimizer.accumulate()
    assert optimizer.masters["weight"].grad.tolist() == [[3.0234375, 3.0234375]]
    assert layer.weight.grad is None


def test_learning_rate_warms_up_stays_and_falls_to_almost_nothing():
    config = OptimizerConfig(peak_lr=1.0, warmup_steps=4, decay_share=0.5)
    rates = [config.rate(step, 20) for step in range(1, 21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:11] == [1.0] * 7
    assert rates[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
