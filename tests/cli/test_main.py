"""The frame of the command line: help, exit statuses, and errors as one line and a hint."""

import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import diffembed.cli
from diffembed.cli import main
from diffembed.cli.app import VERBS
from diffembed.errors import CheckpointError, ConfigError, DataError, RunExistsError

RUN = "import sys; from diffembed.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def verb_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `diffembed embed` raise what a test needs."""

    def install(error: BaseException) -> None:
        def command() -> None:
            raise error

        monkeypatch.setattr("diffembed.cli.embed.command", command)

    return install


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == diffembed.__version__


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_help_names_every_verb_with_what_it_does(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    described = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()}
    for verb in VERBS:
        assert len(described[verb]) > 2


def test_each_file_with_a_command_is_a_verb() -> None:
    names = [module.name for module in pkgutil.iter_modules(diffembed.cli.__path__)]
    with_command = [name for name in names if hasattr(import_module(f"diffembed.cli.{name}"), "command")]
    assert sorted(VERBS) == with_command


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"diffembed {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["embd", "x"], "there is no verb `embd`", "did you mean `embed`?"),
        (["xyzzy"], "there is no verb `xyzzy`", "`diffembed --help` lists the verbs"),
        (["--colour"], "No such option: --colour", "`diffembed --help` shows what it takes"),
        (["embed", "--colour"], "No such option: --colour", "`diffembed embed --help` shows what it takes"),
        (["embed", "x", "--role", "both"], "'query'", "`diffembed embed --help` shows what it takes"),
        (["embed", "x", "--dims", "many"], "'--dims'", "`diffembed embed --help` shows what it takes"),
        (["pretrain"], "Missing argument 'RECIPE'", "`diffembed pretrain --help` shows what it takes"),
        (["eval", "bm25"], "Missing option '--task'", "`diffembed eval --help` shows what it takes"),
    ],
)
def test_misuse_is_two_lines_and_exit_2(
    args: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    shown = capsys.readouterr()
    first, second = shown.err.splitlines()
    assert first.startswith("error: ") and message in first
    assert second == f"hint: {hint}"
    assert shown.out == ""


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (ConfigError("bad value", hint="use 3"), 2, ["error: bad value", "hint: use 3"]),
        (DataError("no file", hint="check"), 1, ["error: no file", "hint: check"]),
        (CheckpointError("two\nlines", hint="a\nb"), 1, ["error: two lines", "hint: a b"]),
        (RunExistsError("taken", hint="--resume"), 1, ["error: taken", "hint: --resume"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (BrokenPipeError(), 141, []),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            ["error: /x: Permission denied", "hint: check the path, its permissions and the free space"],
        ),
    ],
)
def test_errors_become_lines_and_a_status(
    error: BaseException,
    status: int,
    lines: list[str],
    verb_that: Callable[[BaseException], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    verb_that(error)
    assert main(["embed"]) == status
    assert capfd.readouterr().err.splitlines() == lines


def test_a_bug_is_one_line_and_a_hint(
    verb_that: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb_that(ZeroDivisionError("division by zero"))
    monkeypatch.delenv("DIFFEMBED_DEBUG", raising=False)
    assert main(["embed"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: internal error: ZeroDivisionError: division by zero"
    assert second.startswith("hint: set DIFFEMBED_DEBUG=1")

    monkeypatch.setenv("DIFFEMBED_DEBUG", "1")
    assert main(["embed"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep(0.3); {RUN}", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, talk = process.communicate()
    assert (process.returncode, talk) == (141, "")


def test_a_lost_working_folder_is_said(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    lost.mkdir()
    code = f"import os, sys; os.rmdir({str(lost)!r}); from diffembed.cli import main; sys.exit(main(['embed', 'x']))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=lost, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("error: the working folder") and "hint: " in done.stderr


def test_ctrl_c_while_it_starts_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupting:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "diffembed.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "diffembed.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert main(["--help"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_closed_streams_are_no_crash(closed: str) -> None:
    number = {"stdin": 0, "stdout": 1}[closed]
    command = [sys.executable, "-m", "diffembed", "--version"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(number), check=False
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
