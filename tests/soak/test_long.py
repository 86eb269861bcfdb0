"""What takes minutes: many kills, much text. `make soak` runs it before a release."""

import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from diffembed import Embedder
from diffembed.text.tokenizer import Tokenizer
from tests import memory
from tests.tiny_models import random_backbone

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

TRAIN = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from diffembed.recipes import {verb} as recipes
    from diffembed.training.{verb} import main
    config = recipes.smoke()
    config = replace(config, loop=replace(config.loop, num_steps=400, checkpoint_every_steps=7))
    main(config, data=None, out=Path(sys.argv[1]), resume=True, command=["soak"])
"""
KILLS = 40


def losses(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_training_survives_many_kills_at_random_moments(verb, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(TRAIN.format(verb=verb))]

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen([*command, str(out)], env=environment, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(timeout=900) == 0
    draw, kills = random.Random(0), 0
    while kills < KILLS:
        child = start(tmp_path / "parts")
        try:
            child.wait(timeout=draw.uniform(1.0, 8.0))
            break  # finished before the kill
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(timeout=60)
            kills += 1
    assert start(tmp_path / "parts").wait(timeout=900) == 0
    assert kills >= 3, "too few kills to mean anything"
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_two_hundred_thousand_texts_in_bounded_memory():
    words = [f"word{number}" for number in range(2000)]
    tokenizer = Tokenizer.train([" ".join(words)], 300)
    backbone = random_backbone(vocab_size=tokenizer.vocab_size)
    embedder = Embedder.from_backbone(backbone, tokenizer, max_tokens=40)
    draw = random.Random(0)
    some = embedder.encode(["warm up"] * 5000)
    before = memory.begin()
    count = 200_000
    vectors = embedder.encode(" ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(count))
    grown = memory.status("VmHWM") - before
    assert vectors.shape == (count, embedder.dims)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # The vectors twice (parts, then one array), and as much again for what a chunk of texts takes.
    assert grown < 4 * vectors.nbytes + 100_000_000
    assert np.allclose(some, some[0], atol=1e-6)
