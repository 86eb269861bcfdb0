"""A run: one execution with its directory. What is needed to believe or repeat it is written before step 0."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from diffembed.errors import ConfigError, RunExistsError

CONFIG_FILE, METRICS_FILE = "config.json", "metrics.jsonl"


class Run:
    """An open run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, **row: Any) -> None:
        """Append one row of scalars to `metrics.jsonl`."""
        with (self.path / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps past `step`: a resumed run makes them again."""
        path = self.path / METRICS_FILE
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # a row cut short by a kill
            if row["step"] <= step:
                kept.append(line + "\n")
        write_text(path, "".join(kept))

    def finish(self, **result: Any) -> None:
        """Write `result.json`: the run is complete."""
        write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")


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
        RunExistsError: The directory holds something and `resume` is not set.
        ConfigError: The stopped run had another configuration, or the place cannot be written.
    """
    path = Path(path)
    config_path = path / CONFIG_FILE
    if path.is_file():
        raise RunExistsError(f"{path} is a file, not a run directory", hint="choose another --out")
    if resume and config_path.exists():
        _check_same(json.loads(config_path.read_text(encoding="utf-8")), config, path)
        return Run(path)
    if path.exists() and any(path.iterdir()):
        raise RunExistsError(
            f"the run directory {path} exists and is not empty",
            hint="choose another --out, or go on with that run by --resume",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}", hint="choose a writable --out") from None
    write_text(path / "command.txt", " ".join(command) + "\n")
    write_text(path / "env.json", json.dumps(env, indent=2) + "\n")
    write_text(path / "code.diff", _code_state())
    write_text(config_path, json.dumps(config, indent=2) + "\n")
    return Run(path)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        raise ConfigError(
            f"{path} was begun with another configuration: {', '.join(changed)} differ",
            hint="resume with the same recipe and settings, or choose another --out",
        )


def _code_state() -> str:
    """The commit and the uncommitted changes of the checkout this package runs from; a note where there is none."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    try:
        return f"commit {git('rev-parse', 'HEAD').strip()}\n\n{git('diff', 'HEAD', '--', str(here))}"
    except (OSError, subprocess.SubprocessError):
        return "not run from a git checkout\n"
