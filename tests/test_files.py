"""`diffembed.files`: whole or not at all, whoever else writes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diffembed.files import file_digest, replacing, temporary_sibling, write_whole


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", "old")
    with pytest.raises(RuntimeError, match="no"), replacing(tmp_path / "x") as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("no")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "old"}


def test_threads_that_write_one_file(tmp_path: Path) -> None:
    texts = [str(n) * 100_000 for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda text: [write_whole(tmp_path / "x", text) for _ in range(20)], texts))
    assert (tmp_path / "x").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["x", "n" * 255, "é" * 127])
def test_a_temporary_name_is_hidden_short_and_never_the_same(tmp_path: Path, name: str) -> None:
    first, second = (temporary_sibling(tmp_path / name) for _ in range(2))
    assert first != second and first.parent == tmp_path
    assert first.name.startswith(".") and first.name.endswith(".partial")
    write_whole(tmp_path / name, b"fits")
    assert (tmp_path / name).read_bytes() == b"fits"


def test_digest(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"abc")
    assert file_digest(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
