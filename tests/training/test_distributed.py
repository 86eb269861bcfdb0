"""Several ranks train as one process does, go on in any number, and end together. Real processes over loopback."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffembed import configs
from diffembed.errors import ConfigError
from diffembed.training import checkpoint
from diffembed.training.distributed import Ranks
from diffembed.training.optimizer import OptimizerConfig
from tests.training import rank_processes
from tests.training.tiny_runs import CHILD, rows, run, settings, write_text

# A step of Adam divides by the gradient's root mean square: where that is tiny, so is the difference of two sums.
WEIGHTS = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """An uninterrupted run of one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out, data, settings())
    return out


def save_settings(path: Path, config) -> Path:
    path.write_text(json.dumps(configs.to_dict(config)))
    return path


def check_same(out: Path, whole: Path) -> None:
    for own, other in zip(rows(out), rows(whole), strict=True):
        assert own.keys() == other.keys()
        assert {name: own[name] for name in ("step", "tokens", "scored")} == {
            name: other[name] for name in ("step", "tokens", "scored")
        }
        assert own["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert own["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (out, whole)]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, **WEIGHTS)


TALK = """
    import json, sys, torch
    from pathlib import Path
    from torch import nn
    from diffembed.objectives.contrastive import info_nce
    from diffembed.training.distributed import Ranks, connect
    from diffembed.training.validation import Validation, ValidationConfig

    def gradient(ranks):
        # A toy of fine-tuning: gather the vectors, the whole loss everywhere, back through one's own chunks.
        drawn = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
        table = nn.Embedding.from_pretrained(drawn, freeze=False)
        chunks = [torch.arange(start, start + 4) for start in range(0, 16, 4)]
        kept = [nn.functional.normalize(table(chunk), dim=1) for chunk in ranks.share(chunks)]
        places = torch.cat([torch.cat(chunks[rank::ranks.world]) for rank in range(ranks.world)])
        rows = ranks.gather_rows(kept)
        vectors = torch.empty_like(rows).index_copy_(0, places, rows).requires_grad_()
        loss = info_nce(*vectors.chunk(2), torch.arange(8), temperature=0.1)
        (to_vectors,) = torch.autograd.grad(loss, vectors)
        for chunk, out in zip(ranks.share(chunks), kept):
            out.backward(to_vectors[chunk])
        ranks.sum_gradients([table.weight.grad])
        return [float(loss), *table.weight.grad.flatten().tolist()]

    def encode(texts, role):
        hashed = [[(len(text) * 7 + ord(text[-1]) * k) % 11 - 5.0 for k in range(1, 7)] for text in texts]
        return nn.functional.normalize(torch.tensor(hashed), dim=1)

    alone = Ranks.alone("cpu")
    made = Path(sys.argv[1])
    measured = lambda ranks: Validation(ValidationConfig(folder=sys.argv[2], every_steps=1), encode, ranks).measure()
    with connect() as ranks:
        print(json.dumps({
            "values": ranks.gather_json({"rank": ranks.rank, "text": "\u00e9" * ranks.rank}),
            "main": ranks.broadcast(ranks.rank + 7),
            "agree": [ranks.agree(ranks.rank == 1), ranks.agree(False)],
            "rows": ranks.gather_rows([torch.full((2, 1), float(ranks.rank))] * ranks.rank).flatten().tolist(),
            "made": ranks.main_first(lambda: made.exists() or made.touch()),
            "gradients": [gradient(alone), gradient(ranks)],
            "measured": [measured(alone), measured(ranks)],
        }))
"""


def test_what_ranks_tell_each_other(tmp_path):
    task = tmp_path / "task"
    (task / "qrels").mkdir(parents=True)
    for name, count in (("corpus", 300), ("queries", 40)):
        lines = [
            json.dumps({"_id": f"{name[0]}{i}", "text": f"{name} " * (i % 9) + chr(97 + i % 23)}) for i in range(count)
        ]
        (task / f"{name}.jsonl").write_text("\n".join(lines))
    (task / "qrels" / "test.tsv").write_text("\n".join(f"q{i}\tc{i * 7}\t1" for i in range(40)))
    said = [json.loads(line) for line in rank_processes.finish(TALK, [tmp_path / "made", task], world=3)]
    for rank, each in enumerate(said):
        assert each["values"] == [{"rank": other, "text": "é" * other} for other in range(3)]
        assert each["main"] == 7 and each["agree"] == [True, False]
        assert each["rows"] == [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]  # rank 0 had none, rank 2 twice two
        assert each["made"] == (None if rank == 0 else True)
        assert each["gradients"][1] == pytest.approx(each["gradients"][0], rel=1e-6, abs=1e-8)
        assert each["measured"][1]["nDCG@10"] == pytest.approx(each["measured"][0]["nDCG@10"], abs=1e-9)
        assert 0 < each["measured"][0]["nDCG@10"] < 1


@pytest.mark.parametrize("shard", [False, True], ids=["copies", "shards"])
def test_two_ranks_train_as_one_process(data, whole, tmp_path, shard):
    path = save_settings(tmp_path / "settings.json", settings(shard=shard))
    rank_processes.finish(CHILD, [path, data, tmp_path / "run"], world=2)
    check_same(tmp_path / "run", whole)
    assert not list((tmp_path / "run").rglob("*.metadata"))  # where torch's own checkpoints hold a pickle


STOPPED = (
    """
    import os, signal
    from diffembed.training import checkpoint
    real_save, stop = checkpoint.save, int(os.environ["STOP_AT"])
    def save_then_signal(path, step, *rest):
        saved = real_save(path, step, *rest)
        if step == stop and int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return saved
    checkpoint.save = save_then_signal
"""
    + CHILD
)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["copies", "shards"])
def test_a_run_goes_on_in_another_number_of_ranks(data, whole, tmp_path, monkeypatch, shard):
    """1 -> 2 -> 4 -> 1: the last rank gets a SIGTERM, all save and end with 143, others go on."""
    out = tmp_path / "run"
    path = save_settings(tmp_path / "settings.json", settings(shard=shard, every=2))
    for world, stop in ((1, 2), (2, 4), (4, 8)):
        monkeypatch.setenv("STOP_AT", str(stop))
        with rank_processes.ranks(STOPPED, [path, data, out], world) as processes:
            said = [each.communicate(timeout=120)[1] for each in processes]
        assert [each.returncode for each in processes] == [128 + signal.SIGTERM] * world, said
        assert "--resume goes on" in said[0] and not any("--resume goes on" in each for each in said[1:])
        assert checkpoint.list_steps(out)[-1] == stop + 1
    rank_processes.finish(CHILD, [path, data, out], world=1)
    check_same(out, whole)


DYING = (
    """
    import os, signal
    from diffembed.training import loop
    real_watch = loop._Training._watch
    def watch(self):
        if self.step == 3 and self.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        real_watch(self)
    loop._Training._watch = watch
"""
    + CHILD
)


def test_a_rank_that_dies_ends_the_others_with_a_message(data, tmp_path):
    path = save_settings(tmp_path / "settings.json", settings(num_steps=100_000))
    with rank_processes.ranks(DYING, [path, data, tmp_path / "run"], world=2) as (main, other):
        other.communicate(timeout=120)
        died = time.monotonic()
        _, said = main.communicate(timeout=30)
    assert time.monotonic() - died < 10
    assert main.returncode == 1 and "has lost another rank" in said and "--resume goes on" in said


def test_an_error_in_preparing_is_told_once_and_ends_all(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "docs.jsonl").write_text('{"text": "fine"}\n{broken\n')
    path = save_settings(tmp_path / "settings.json", settings())
    with rank_processes.ranks(CHILD, [path, tmp_path / "data", tmp_path / "run"], world=2) as (main, other):
        said = [each.communicate(timeout=120)[1] for each in (main, other)]
    assert main.returncode == 1 and "docs.jsonl:2" in said[0]
    assert other.returncode == 1 and "docs.jsonl" not in said[1]
    assert not (tmp_path / "run").exists()


def test_muon_and_shards_are_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match="muon needs whole matrices"):
        settings(shard=True, optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=1, muon=True))


def test_one_process_needs_no_others():
    ranks = Ranks.alone("cpu")
    assert ranks.is_main and ranks.share([1, 2, 3]) == [1, 2, 3]
    assert ranks.gather_json(3) == [3] and ranks.broadcast(4) == 4 and ranks.agree(True)
    assert ranks.main_first(lambda: 5) == 5
    rows = torch.ones(2, 3, requires_grad=True)
    assert not ranks.gather_rows([rows]).requires_grad


def test_rows_that_no_file_holds_are_noticed(tmp_path):
    """A checkpoint of which one rank's file is gone is damaged, not smaller."""
    from safetensors.torch import save_file

    folder = tmp_path / "checkpoints" / "00000001"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"step": 1, "tokens": 1, "seconds": 1, "loss": 1}')
    for rank in range(2):
        header = {"rows": json.dumps({"master.w": [2 * rank, 4]})}
        save_file({"master.w": torch.full((2, 3), float(rank))}, folder / f"state.{rank:05d}.safetensors", header)
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[0]["master.w"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert found[0].rows("master.w", 1, 3).tolist() == [[0.0] * 3, [1.0] * 3]
    (folder / "state.00001.safetensors").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.load_newest(tmp_path)
