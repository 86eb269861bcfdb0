"""What takes a training minutes: many kills at random moments, of one process and of all ranks. `make soak` runs it."""

import json
import random
import time
from pathlib import Path

import pytest

from diffembed import configs
from tests.training import rank_processes
from tests.training.tiny_runs import CHILD, losses, settings, write_text

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.parametrize(("world", "shard"), [(1, False), (2, False), (2, True)])
def test_a_training_survives_many_kills_at_random_moments(tmp_path: Path, world: int, shard: bool) -> None:
    data = write_text(tmp_path / "data")
    config = settings(num_steps=2000, every=3, shard=shard)
    path, out = tmp_path / "settings.json", tmp_path / "run"
    path.write_text(json.dumps(configs.to_dict(config)))
    rank_processes.finish(CHILD, [path, data, tmp_path / "whole"], world, timeout=600)
    drawn = random.Random(world + 2 * shard)
    kills = 0
    while kills < 20 and not (out / "result.json").exists():
        with rank_processes.ranks(CHILD, [path, data, out], world) as processes:
            time.sleep(drawn.uniform(1.5, 4.0))  # the start takes about two seconds
            processes[drawn.randrange(world)].kill()
            kills += 1
    assert kills >= 10, "the run was over before it could be killed"
    rank_processes.finish(CHILD, [path, data, out], world, timeout=600)
    assert losses(out) == losses(tmp_path / "whole")
    weights = [folder / "model" / "model.safetensors" for folder in (out, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
