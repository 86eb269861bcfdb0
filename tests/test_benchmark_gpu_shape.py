"""`benchmarks/gpu_shape.py` on a tiny shape: it runs to its end, and its last line can be read by a program."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_shape.py"
SMALL = ["--shape", "tiny", "--lengths", "16", "300", "--tokens", "600", "--rounds", "2", "--spread", "0.5"]


def run(*arguments: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *SMALL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(result: dict[str, Any], engines: set[str]) -> None:
    assert result["matrix_tflops"] > 0
    assert {(row["engine"], row["length"]) for row in result["rows"]} == {(e, n) for e in engines for n in (16, 300)}
    for row in result["rows"]:
        assert 0 < row["low"] <= row["tokens_per_s"] <= row["high"]
        assert 0 < row["products_share"] < row["share"] < 1
        assert row["cosine"] > 0.9999, "the same weights, and no text was cut"


def test_ours_alone() -> None:
    check(run("--engines", "diffembed", "--device", "cpu", "--dtype", "float32"), {"diffembed"})


@pytest.mark.extra
def test_beside_others() -> None:
    pytest.importorskip("sentence_transformers")
    result = run("--device", "cpu", "--dtype", "float32")
    check(result, {"diffembed", "transformers", "sentence-transformers"})


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    result = run("--engines", "diffembed")
    assert all(row["peak_gb"] > 0 and row["tokens_per_s"] > 0 for row in result["rows"])
