"""`benchmarks/scaling.py` at small sizes: it runs to its end, and its last line can be read by a program."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scaling import exponent

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scaling.py"
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")


def run(*arguments: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), "--threads", "1", "--rounds", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_exponent_is_that_of_a_power_law() -> None:
    rows = [{"length": 2**n, "seconds": 0.3 * 2 ** (1.5 * n), "growth_mb": 0.0} for n in range(8, 14)]
    assert exponent(rows, "seconds") == pytest.approx(1.5)
    assert exponent(rows[:1], "seconds") is None
    assert exponent(rows, "growth_mb") is None, "no growth has no exponent"


@on_linux
@pytest.mark.slow
def test_ours_alone() -> None:
    result = run("--ours-only", "--lengths", "64", "4096", "8192", "--layers", "1")
    rows = {(row["dtype"], row["length"]): row for row in result["rows"]}
    assert {row["engine"] for row in result["rows"]} == {"diffembed"} and len(rows) == 6
    for dtype in ("bfloat16", "float32"):
        assert 0 < rows[dtype, 64]["seconds"] < rows[dtype, 4096]["seconds"] < rows[dtype, 8192]["seconds"]
        assert rows[dtype, 8192]["peak_mb"] > rows[dtype, 8192]["growth_mb"] > rows[dtype, 4096]["growth_mb"] > 0
        assert rows[dtype, 8192]["cosine"] > 0.999
    for fit in result["fits"]:
        # Whatever freed memory lies about is used first, which bends the line a little at this size.
        assert 0 < fit["growth_mb_exponent"] < 1.5 and 1 < fit["seconds_exponent"] < 2.5


@on_linux
@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_beside_sentence_transformers() -> None:
    pytest.importorskip("sentence_transformers")
    result = run("--lengths", "64", "600", "--layers", "1")
    assert len(result["rows"]) == 8
    for row in result["rows"]:
        assert row["cosine"] > (0.99999 if row["dtype"] == "float32" else 0.999), "both read the whole document"
