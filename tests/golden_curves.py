"""Committed loss curves of tiny runs. `make golden` writes them anew, in a commit that says why."""

import json
import os
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent / "golden"
# Other CPUs sum in another order.
TOLERANCE = 1e-4


def check_curve(name: str, run: Path) -> None:
    """Compare step and loss of a finished run with the committed curve."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    path = FOLDER / f"{name}.txt"
    if os.environ.get("DIFFEMBED_GOLDEN"):
        lines = [f"# torch {torch.__version__}", *(f"{row['step']} {row['loss']!r}" for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    golden = [line.split() for line in path.read_text().splitlines()[1:]]
    assert [row["step"] for row in rows] == [int(step) for step, _ in golden]
    assert [row["loss"] for row in rows] == pytest.approx([float(loss) for _, loss in golden], abs=TOLERANCE)
