"""Progress: a live line on a terminal, plain lines elsewhere, nothing on stdout."""

import os
import pty
import subprocess
import sys

import pytest

from diffembed.training.progress import Progress, clock

SHOW = """
from diffembed.training.progress import Progress
with Progress("pretrain", 12_000, first_step=11_998) as progress:
    progress.update(11_999, 2.5, 1000)
    progress.update(12_000, 2.25, 1000)
"""


def test_plain_lines_when_nobody_watches(capsys):
    with Progress("train", 40, first_step=30) as progress:
        for step in range(31, 41):
            progress.update(step, 3.0 - step / 100, 500)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2, "only the first step and the last, within 15 seconds"
    assert lines[0].startswith("train 31/40  loss 2.690  ") and lines[-1].startswith("train 40/40  loss 2.600  ")
    assert "tokens/s" in lines[0] and lines[-1].endswith("0:00:00 left")


def test_a_live_line_on_a_terminal():
    leader, follower = pty.openpty()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], stdout=subprocess.PIPE, stderr=follower, env=environment, timeout=60, check=True
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(leader)
    assert done.stdout == b""
    last = shown.decode().rpartition("12000/12000")[2]
    assert "loss 2.250" in last and "tokens/s" in last and "0:00:00 left" in last, "cut off at 80 columns"
    assert b"\x1b[" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (90_000, "25:00:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
