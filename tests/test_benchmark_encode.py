"""`benchmarks/encode.py` on a small model: it runs to its end, and its last line can be read by a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffembed import Embedder
from diffembed.backbone import Backbone, BackboneConfig
from diffembed.data.docstrings import read_docstrings
from diffembed.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.extra, pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "encode.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=500
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer.train((passage.text for passage in read_docstrings()[:500]), 600)
    shape = dict(num_layers=1, num_heads=2, num_kv_heads=1, head_width=16, mlp_width=48, max_positions=512)
    backbone = Backbone(BackboneConfig(vocab_size=600, width=32, **shape))
    backbone.init_weights(torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("benchmark") / "model"
    Embedder.from_backbone(backbone, tokenizer, max_tokens=512).save(path)
    return path


def test_two_rounds(folder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    done = run("--model", str(folder), "--rounds", "2", "--texts", "5", "--threads", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["rounds"], result["texts"], result["threads"]) == (2, 5, 1)
    engines = {(row["engine"], row["dtype"], row["batch"]): row for row in result["engines"]}
    assert len(engines) == 8
    for row in engines.values():
        assert 0 < row["low"] <= row["tokens_per_s"] <= row["high"]
        if row["engine"] != "bare products":
            assert row["cosine"] > (0.999999 if row["dtype"] == "float32" else 0.99)
            assert row["peak_mb"] > 50
            assert 0 < row["products_share"] < 1.5  # above 1 only by the noise of a tiny model
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]


def test_more_texts_than_there_are(folder: Path) -> None:
    done = run("--model", str(folder), "--rounds", "1000000")
    assert done.returncode == 1
    assert "this Python has" in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr
