"""`scripts/untrained.py`: a model folder with the recipe's shape and nothing learned."""

from pathlib import Path

import numpy as np
import pytest

from diffembed import Embedder
from diffembed.recipes import finetune
from scripts import untrained
from tests.tiny_embedders import TOKENIZER


def test_it_has_the_recipes_shape_and_seed(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer")
    for name in ("once", "again"):
        assert untrained.main(["--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path / name)]) == 0
    once, again = (Embedder.load(tmp_path / name, dtype="float32") for name in ("once", "again"))
    shape = finetune.builtin_scratch().backbone
    assert shape is not None
    vectors = once.encode(["one text", "quite another"])
    assert vectors.shape == (2, shape.width)
    assert np.array_equal(vectors, again.encode(["one text", "quite another"]))
    assert vectors[0] @ vectors[1] < 0.999


def test_without_a_tokenizer_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert untrained.main(["--tokenizer", str(tmp_path / "none"), "--out", str(tmp_path / "model")]) == 1
    assert "hint" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
