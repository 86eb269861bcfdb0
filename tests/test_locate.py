"""Finding a model, and the hash that says which model it is."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from diffembed import builtin
from diffembed.embedder import locate
from diffembed.embedder.locate import find, fingerprint
from diffembed.errors import CheckpointError
from tests.tiny_embedders import make


def test_what_a_name_stands_for(tmp_path: Path) -> None:
    assert find("builtin") == builtin.FOLDER
    assert find(tmp_path) == find(str(tmp_path)) == tmp_path
    with pytest.raises(CheckpointError, match="there is no model folder") as caught:
        find(tmp_path / "nothing")
    assert "builtin" in caught.value.hint


def test_what_counts(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    seen = [fingerprint(tmp_path)]
    for name in ("model.safetensors", "config.json", "sub/config.json"):
        (tmp_path / name).write_text(name)
        seen.append(fingerprint(tmp_path))
    (tmp_path / "model.safetensors").write_text("changed")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "sub").rename(tmp_path / "other")
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)
    for name in ("README.md", "other/notes.txt", "model.bin"):
        (tmp_path / name).write_text("words")
    assert fingerprint(tmp_path) == seen[-1]


def test_contents_that_changed_places_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    (tmp_path / "b.json").write_text("2")
    before = fingerprint(tmp_path)
    (tmp_path / "a.json").write_text("2")
    (tmp_path / "b.json").write_text("1")
    assert fingerprint(tmp_path) != before


def test_a_copy_has_the_same_and_other_weights_another(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "far" / "copy")
    assert fingerprint(tmp_path / "far" / "copy") == fingerprint(tmp_path / "model")
    assert len(fingerprint(tmp_path / "model")) == 16
    make().save(tmp_path / "small", weights="int8")
    assert fingerprint(tmp_path / "small") != fingerprint(tmp_path / "model")


def changed_places(path: Path, size: int) -> list[int]:
    """The bytes of a file of that size whose change is seen."""
    path.write_bytes(bytes(size))
    before = fingerprint(path.parent)
    seen = []
    for place in range(size):
        path.write_bytes(bytes(place) + b"\1" + bytes(size - place - 1))
        if fingerprint(path.parent) != before:
            seen.append(place)
    return seen


def test_of_a_large_file_its_beginning_and_blocks_to_its_end_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WHOLE_BYTES": 100, "HEAD_BYTES": 16, "BLOCK_BYTES": 4, "NUM_BLOCKS": 5}.items():
        monkeypatch.setattr(locate, name, value)
    path = tmp_path / "model.safetensors"
    assert changed_places(path, 100) == list(range(100)), "as large as is read whole"
    blocks = [start + i for start in (50, 100, 150, 200) for i in range(4)]
    assert changed_places(path, 204) == [*range(16), *blocks]
    path.write_bytes(bytes(204))
    before = fingerprint(tmp_path)
    path.write_bytes(bytes(205))
    assert fingerprint(tmp_path) != before, "its size counts too"


def test_a_model_of_15_gb_takes_no_time(tmp_path: Path) -> None:
    try:
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(15 * 10**9)
    except OSError:
        pytest.skip("this file system keeps no holes")
    start = time.perf_counter()
    fingerprint(tmp_path)
    assert time.perf_counter() - start < 2, "reading it whole takes longer on any machine"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file that can be opened and not read")
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.symlink("/proc/self/mem", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        fingerprint(tmp_path)
    assert caught.value.hint
