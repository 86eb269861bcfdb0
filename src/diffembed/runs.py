"""A run: one execution with its directory. What is needed to believe or repeat it is written before step 0."""

import errno
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffembed.errors import ConfigError, DiffembedError, RunExistsError
from diffembed.files import write_whole

CONFIG_FILE, ENV_FILE, LOCK_FILE = "config.json", "env.json", ".lock"
LONGEST_CHANGE = 80
"""Characters of a changed value that a message can bear."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space on the disk, in one's quota, or for a file of this size."""
METRICS_FILE, CHECKPOINTS_FILE = "metrics.jsonl", "checkpoints.jsonl"


class Run:
    """An open run directory, locked against other processes.

    Attributes:
        path: The directory.
        env_changes: For a resumed run, how this machine differs from the one that it was begun on.
    """

    def __init__(self, path: Path, *, is_new: bool, env_changes: list[str]) -> None:
        self.path, self.env_changes = path, env_changes
        self._is_new = is_new
        self._unwritten: dict[str, str] = {}
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, lock)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunExistsError(
                f"the run in {path} is still going on in another process", hint="wait for it, or choose another --out"
            ) from None

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Around all that comes before step 1: if the input turns out to be bad, a new directory is removed again."""
        try:
            yield
        except Exception:
            if self._is_new:
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def log(self, **row: Any) -> None:
        """Append one row of scalars to `metrics.jsonl`."""
        self._append(METRICS_FILE, row)

    def log_checkpoint(self, path: Path, **row: Any) -> None:
        """Append one row to `checkpoints.jsonl`."""
        self._append(CHECKPOINTS_FILE, {"path": str(path.relative_to(self.path)), **row})

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps past `step`: a resumed run makes them again."""
        for name in (METRICS_FILE, CHECKPOINTS_FILE):
            if (self.path / name).exists():
                self._forget(self.path / name, step)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        """Write a row, or keep it for the next turn where the disk is full: that ends no training."""
        rows = self._unwritten.get(name, "") + json.dumps(row) + "\n"
        size = None
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                size = file.tell()
                file.write(rows)
            self._unwritten[name] = ""
        except OSError as error:
            if error.errno not in FULL:
                raise
            if size is not None:
                os.truncate(self.path / name, size)  # no half row
            self._unwritten[name] = rows

    def _forget(self, path: Path, step: int) -> None:
        write_whole(path, "".join(json.dumps(row) + "\n" for row in read_rows(path) if row["step"] <= step))

    def finish(self, **result: Any) -> None:
        """Write `result.json`: the run is complete.

        Raises:
            DiffembedError: Rows of its records could not be written.
        """
        if any(self._unwritten.values()):
            raise DiffembedError(f"the disk is full: {self.path} lacks rows of its records", hint="free some space")
        write_whole(self.path / "result.json", json.dumps(result, indent=2) + "\n")


class Onlooker(Run):
    """A run directory that another process has open: this one reads it and writes no record."""

    def __init__(self, path: Path) -> None:
        self.path, self.env_changes = path, []
        self._is_new = False

    def log(self, **row: Any) -> None:
        """Nothing: the other process does."""

    def log_checkpoint(self, path: Path, **row: Any) -> None:
        """Nothing: the other process does."""

    def forget_after(self, step: int) -> None:
        """Nothing: the other process does."""

    def finish(self, **result: Any) -> None:
        """Nothing: the other process does."""


def open_run(
    path: Path | str, *, config: dict[str, Any], command: list[str], env: dict[str, Any], resume: bool = False
) -> Run:
    """Make a run directory, or go on with one.

    Args:
        path: The directory; it must not exist, or be empty, unless `resume`.
        config: Resolved configuration; a resumed run must have the same one.
        command: The command line.
        env: Versions and hardware.
        resume: Go on with a run that was stopped; where there is none yet, begin one.

    Raises:
        RunExistsError: The directory holds something and `resume` is not set, or another process uses it.
        ConfigError: The stopped run had another configuration, or the place cannot be written.
    """
    path = Path(path)
    if path.is_file():
        raise RunExistsError(f"{path} is a file, not a run directory", hint="choose another --out")
    if resume and (path / CONFIG_FILE).exists():
        _check_same(_read(path / CONFIG_FILE), config, path)
        return Run(path, is_new=False, env_changes=_changes(_read(path / ENV_FILE), env))
    if path.exists() and any(path.iterdir()):
        raise RunExistsError(
            f"the run directory {path} exists and is not empty",
            hint="choose another --out, or go on with a run that was stopped by --resume",
        )
    record = {
        "command.txt": shlex.join(command) + "\n",
        ENV_FILE: json.dumps(env, indent=2) + "\n",
        "code.diff": _code_state(),
        CONFIG_FILE: json.dumps(config, indent=2) + "\n",
    }
    # Made whole beside its place, so that no kill leaves a directory that is neither new nor resumable.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, text in record.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}", hint="choose a writable --out") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Run(path, is_new=True, env_changes=[])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a record that have a step, in their order; what is no row, such as one cut short by a kill, is not.

    Raises:
        OSError: The file cannot be read.
    """
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            rows.append(row)
    return rows


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="restore the file, or choose another --out") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no JSON object", hint="restore the file, or choose another --out")
    return data


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs, a line each; of a nested object the keys that differ."""
    found = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += [f"{key}.{line}" for line in _changes(before, after)]
        elif before != after:
            values = f" {before!r} -> {after!r}"
            found.append(key + (values if len(values) < LONGEST_CHANGE else " is another"))
    return found


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    changed = _changes(old, new)
    if changed:
        raise ConfigError(
            f"{path} was begun with another configuration: {'; '.join(changed)}",
            hint="resume with the same recipe and settings, or choose another --out",
        )


def _code_state() -> str:
    """Commit, status and uncommitted changes of the checkout that this package runs from, or that there is none."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
        return done.stdout.decode("utf-8", "replace")

    try:
        # An environment inside somebody else's repository must not pass for a checkout of ours.
        if Path(git("rev-parse", "--show-toplevel").strip()) / "src" / "diffembed" != here:
            return "not run from a git checkout\n"
        status = git("status", "--porcelain", "--", str(here))
        return f"commit {git('rev-parse', 'HEAD').strip()}\n\n{status}\n{git('diff', 'HEAD', '--', str(here))}"
    except (OSError, subprocess.SubprocessError):
        return "not run from a git checkout\n"
