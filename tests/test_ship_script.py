"""`scripts/ship_builtin.py`: the new model in its place, or the old one as it was."""

from pathlib import Path

import numpy as np
import pytest

from diffembed import Embedder, builtin
from scripts import ship_builtin
from tests.tiny_embedders import LIMIT, TOKENIZER, make, make_backbone

TEXTS = ["a short text", "another one"]


def narrow() -> Embedder:
    """Another model than `make()`."""
    return Embedder.from_backbone(make_backbone(width=16), TOKENIZER, max_tokens=LIMIT)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the built-in model goes: it is there already, and another one waits."""
    monkeypatch.setattr(builtin, "FOLDER", tmp_path / "package" / "model")
    narrow().save(builtin.FOLDER, weights="int8")
    make().save(tmp_path / "trained")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_first", [False, True])
def test_it_is_the_builtin_model_then(place: Path, is_first: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if is_first:
        builtin.FOLDER.rename(place / "gone")
    assert ship_builtin.main([str(place / "trained")]) == 0
    [weights] = builtin.FOLDER.glob("*.safetensors")
    assert capsys.readouterr().out == f"{weights.stat().st_size:,} bytes of weights in {builtin.FOLDER}\n"
    ours, theirs = (Embedder.load(each, dtype="float32").encode(TEXTS) for each in ("builtin", place / "trained"))
    assert np.sum(ours * theirs, axis=1).min() > 0.99  # int8 rounds
    assert [path.name for path in builtin.FOLDER.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("reason", ["too large", "damaged", "cannot be moved"])
def test_the_old_one_stays(
    place: Path, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(builtin.FOLDER)
    if reason == "too large":
        [weights] = builtin.FOLDER.glob("*.safetensors")
        monkeypatch.setattr(ship_builtin, "LIMIT_BYTES", weights.stat().st_size)
    elif reason == "damaged":
        (place / "trained" / "config.json").write_text("{}")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("no")
        return rename(self, target)

    if reason == "cannot be moved":
        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="no"):
            ship_builtin.main([str(place / "trained")])
    else:
        assert ship_builtin.main([str(place / "trained")]) != 0
        error, hint = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and hint.startswith("hint: ")
    assert content(builtin.FOLDER) == before
    assert [path.name for path in builtin.FOLDER.parent.iterdir()] == ["model"]
