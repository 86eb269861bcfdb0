"""`benchmarks/finetune_step.py` on a tiny shape: it runs to its end, and both sides take the same first step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.extra, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "finetune_step.py"
SMALL = ["--shape", "tiny", "--pairs", "4", "--rounds", "2", "--device", "cpu", "--dtype", "float32"]


def run(*arguments: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *SMALL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("lengths", ["40", "0"])
def test_beside_transformers_and_peft(lengths: str) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    result = run("--lengths", lengths, "--cached", "16", "--chunk-tokens", "512")
    rows = {row["engine"]: row for row in result["rows"]}
    assert rows.keys() == {"diffembed", "transformers"}
    for row in (*rows.values(), result["cached"]):
        assert 0 < row["low"] <= row["tokens_per_s"] <= row["high"]
        assert 0 < row["share"] < 1
    for own, other in zip(rows["diffembed"]["losses"], rows["transformers"]["losses"], strict=True):
        assert own == pytest.approx(other, rel=0.2)  # dropout and the drawn halves of the adapters differ
    assert result["cached"]["pairs"] == 16
