"""`benchmarks/index.py` at small sizes: it runs to its end, and its last line can be read by a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "index.py"


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_every_part(tmp_path: Path, precision: str) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.md").write_text("# Trains\n\nOn Sundays only the slow train runs.\n" * 40)
    sizes = ["--sizes", "50", "300", "--files", "30", "--queries", "4", "--starts", "2", "--precision", precision]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes, "--text", str(tmp_path / "text"), "--scratch", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["making"]["files"] == 1 and facts["making"]["tokens"] > 100 and 0 < facts["making"]["model_share"] <= 1
    assert facts["unchanged"]["files"] == 30 and facts["unchanged"]["again_seconds_median"] > 0
    assert facts["asking"]["hybrid_cold_s"]["p95"] >= facts["asking"]["hybrid_cold_s"]["p50"] > 0
    assert [(each["chunks"], each["dead"]) for each in facts["searching"]] == [(50, 5), (300, 30)]
    for each in facts["searching"]:
        assert each["dense_ms"]["first"] > 0 and each["peak_mb"] >= each["peak_before_mb"] and each["megabytes"] > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "text"]
