"""Progress: a live table on a terminal, plain lines elsewhere, nothing on stdout."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap

import pytest

from diffembed.training.progress import Progress, StepFacts, clock

SHOW = """
    import sys
    from diffembed.training.progress import Progress, StepFacts, say
    values = dict(accuracy=0.828125, positive=0.7125, negative=-0.0614, pairs=256, row=3)
    with Progress("finetune", 12_000, first_step=11_998, peak_flops=1e9) as progress:
        for step, loss in ((11_999, 2.5), (12_000, 2.25)):
            facts = StepFacts(loss=loss, lr=5e-4, grad_norm=1.234567, num_tokens=1000, flops=1e3, metrics=values)
            progress.update(step, facts)
            if step == 11_999:
                say("in between")
                print("data")
"""
FULL = {
    "loss": "2.2500",
    "in-batch accuracy": "82.8%",
    "positive similarity": "0.713",
    "negative similarity": "-0.061",
    "gradient norm": "1.23",
    "learning rate": "5.00e-04",
    "time left": "0:00:00",
}


def environment(**changes: str) -> dict[str, str]:
    """Of a child that runs this source tree."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | changes


def on_terminal(code: str, columns: int, rows: int = 24, **changes: str) -> tuple[str, bytes]:
    """What a program writes to stdout, a pipe, and to stderr, a terminal of that size."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    given = {name: value for name, value in environment().items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    child = subprocess.Popen(
        command, stdin=follower, stdout=subprocess.PIPE, stderr=follower, env=given | {"TERM": "xterm"} | changes
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
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0, shown
    return out.decode(), shown


def plain(shown: bytes) -> list[str]:
    """The lines without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n").replace("\r", "\n").splitlines()


def facts(loss: float, **metrics: float) -> StepFacts:
    return StepFacts(loss=loss, lr=1e-3, grad_norm=1.0, num_tokens=500, flops=1e6, metrics=metrics)


def test_plain_lines_when_nobody_watches(capsys):
    with Progress("train", 40, first_step=30) as progress:
        for step in range(31, 41):
            progress.update(step, facts(3.0 - step / 100))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2, "only the first step and the last, within 15 seconds"
    assert lines[0].startswith("train 31/40  loss 2.690  ") and lines[-1].startswith("train 40/40  loss 2.600  ")
    assert "tokens/s" in lines[0] and lines[-1].endswith("0:00:00 left")
    assert "accuracy" not in err and "peak" not in err, "nothing is shown that is not there"


def test_plain_lines_come_every_15_seconds_and_tell_the_recent_speed(capsys, monkeypatch):
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Progress("train", 400, first_step=0, peak_flops=1e6) as progress:
        for step in range(1, 201):
            now += 10.0 if step <= 100 else 5.0  # a step takes half the time after 100
            progress.update(step, facts(1.0, accuracy=0.25))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 50 + 34, "every second of 100 steps, then every third"
    assert lines[0] == "train 1/400  loss 1.000  accuracy 25%  50 tokens/s  10% of matrix peak  1:06:30 left"
    assert lines[-1] == "train 200/400  loss 1.000  accuracy 25%  100 tokens/s  20% of matrix peak  0:16:40 left"


@pytest.mark.parametrize("columns", [80, 72, 200])
def test_a_live_table_on_a_terminal(columns):
    out, shown = on_terminal(SHOW, columns)
    assert out == "data\n"
    assert b"\x1b[" in shown
    lines = plain(shown)
    assert max(map(len, lines)) <= columns
    assert any("in between" in line for line in lines)
    last = "\n".join(lines[-7:])
    assert "finetune  step 12,000 of 12,000" in last and "100%" in last
    for name, value in FULL.items():
        assert re.search(rf"{name} +{re.escape(value)}(\s|$)", last), (name, last)
    assert re.search(r"tokens/s +[\d,]+", last) and re.search(r"of matrix peak +\d+%", last)
    assert re.search(r"memory +0\.\d\d GB", last)
    assert "pairs" not in last and "row" not in last


@pytest.mark.parametrize(("columns", "rows"), [(38, 24), (12, 24), (80, 3), (1, 1)])
def test_a_small_terminal_breaks_nothing(columns, rows):
    out, shown = on_terminal(SHOW, columns, rows)
    assert out == "data\n" and max(len(line) for line in plain(shown)) <= max(columns, len("in between"))
    if columns == 38:
        last = plain(shown)[-11:]
        assert last[0].rstrip() == "finetune  step 12,000 of 12,000  100%"
        assert all(any(line.startswith(name) and value in line for line in last) for name, value in FULL.items())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_gets_what_it_can_show(encoding):
    _, shown = on_terminal(SHOW, 80, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C")
    assert shown.isascii() == (encoding != "utf-8"), "a bar of lines is for those that have them"
    assert b"12,000 of 12,000" in shown


def test_a_dumb_terminal_gets_lines():
    out, shown = on_terminal(SHOW, 80, TERM="dumb")
    assert out == "data\n" and b"\x1b" not in shown
    assert plain(shown)[-1].startswith("finetune 12000/12000  loss 2.250  accuracy 83%  ")


def test_an_error_is_seen_below_the_table():
    code = SHOW + "        raise SystemExit('it broke')\n"
    leader_code = f"try:\n{textwrap.indent(textwrap.dedent(code), '    ')}\nexcept SystemExit as e:\n    say(str(e))"
    _, shown = on_terminal(leader_code, 80)
    assert plain(shown)[-1] == "it broke" and any("12,000 of 12,000" in line for line in plain(shown))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (90_000, "25:00:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
