"""What takes a training minutes: many kills at random moments, of one process and of all ranks. `make soak` runs it."""

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from diffembed import configs
from diffembed.recipes import finetune
from diffembed.training.finetune_config import FinetuneConfig
from tests.training import rank_processes
from tests.training.tiny_runs import CHILD, losses, settings, write_text

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def finetuning(*, shard: bool) -> FinetuneConfig:
    smoke = finetune.smoke()
    loop = replace(smoke.loop, num_steps=600, checkpoint_every_steps=3, shard=shard)
    return replace(smoke, loop=loop, dtype="float32", chunk_tokens=512, recompute=True)


@pytest.mark.parametrize(("world", "shard"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_training_survives_many_kills_at_random_moments(verb: str, tmp_path: Path, world: int, shard: bool) -> None:
    if verb == "finetune":  # on docstrings
        config, data = finetuning(shard=shard), "-"
    else:
        config, data = settings(num_steps=2000, every=3, shard=shard), str(write_text(tmp_path / "data"))
    path, out = tmp_path / "settings.json", tmp_path / "run"
    path.write_text(json.dumps(configs.to_dict(config)))
    rank_processes.finish(CHILD, [path, data, tmp_path / "whole", verb], world, timeout=600)
    drawn = random.Random(world + 2 * shard)
    kills = 0
    while kills < 20 and not (out / "result.json").exists():
        with rank_processes.ranks(CHILD, [path, data, out, verb], world) as processes:
            time.sleep(drawn.uniform(1.5, 4.0))  # the start takes about two seconds
            processes[drawn.randrange(world)].kill()
            kills += 1
    assert kills >= 10, "the run was over before it could be killed"
    rank_processes.finish(CHILD, [path, data, out, verb], world, timeout=600)
    assert losses(out) == losses(tmp_path / "whole")
    weights = [folder / "model" / "model.safetensors" for folder in (out, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
