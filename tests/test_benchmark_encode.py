"""`benchmarks/encode.py` on a small model: it runs to its end, and its last line can be read by a program."""

import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from diffembed import Embedder
from diffembed.backbone import Backbone, BackboneConfig
from diffembed.data.docstrings import read_docstrings
from diffembed.text.tokenizer import Tokenizer

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "encode.py"
OTHERS = {
    "onnxruntime": {"float32", "int8"},
    "openvino": {"float32", "bfloat16", "int8 weights", "int8"},
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=500
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer.train((passage.text for passage in read_docstrings()[:500]), 600)
    shape = dict(num_layers=1, num_heads=2, num_kv_heads=1, head_width=16, mlp_width=48, max_positions=512)
    backbone = Backbone(BackboneConfig(vocab_size=600, width=32, **shape))
    backbone.init_weights(torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("benchmark") / "model"
    Embedder.from_backbone(backbone, tokenizer, max_tokens=512).save(path)
    return path


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """Imports a file of benchmarks/ as the script itself sees it."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("encode", "engines", "converted", "texts"):
        sys.modules.pop(name, None)


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lengths", ["mixed", "long"])
def test_two_rounds(folder: Path, lengths: str) -> None:
    pytest.importorskip("sentence_transformers")
    done = run("--model", str(folder), "--lengths", lengths, "--rounds", "2", "--texts", "5", "--threads", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["rounds"], result["texts"], result["threads"]) == (2, 5, 1)
    rows = result["engines"]
    for row in rows:
        assert 0 < row["low"] <= row["tokens_per_s"] <= row["high"]
        if row["engine"] != "bare products":
            if not row["dtype"].startswith("int8"):
                assert row["cosine"] > (0.999999 if row["dtype"] == "float32" else 0.99), row
            assert row["peak_mb"] > 50
            assert row["products_share"] > 0
    assert result["ratio_low"] <= result["ratio"] <= result["ratio_high"]
    assert result["best"]["ours"]["engine"] == "diffembed"
    assert result["best"]["peer"]["engine"] not in ("diffembed", "bare products")
    # Nobody is left out in silence.
    for engine, dtypes in OTHERS.items():
        measured = {row["dtype"] for row in rows if row["engine"] == engine}
        absent = {row["dtype"] for row in result["absent"] if row["engine"] == engine}
        assert measured | absent == dtypes and not measured & absent
        if find_spec(engine) is None:
            assert not measured and f"{engine}" in done.stdout
            assert all("not installed" in row["reason"] for row in result["absent"] if row["engine"] == engine)


@pytest.mark.extra
@pytest.mark.slow
def test_more_texts_than_there_are(folder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    done = run("--model", str(folder), "--rounds", "1000000")
    assert done.returncode == 1
    assert "this Python has" in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr


def test_who_is_inexact_is_not_the_best_peer(module: Any) -> None:
    encode, engines = module("encode"), module("engines")

    def spec(engine: str, dtype: str) -> Any:
        return engines.Spec(engine=engine, dtype=dtype)

    ours, exact = spec(engines.OURS, "bfloat16"), spec(engines.RIVAL, "float32")
    rates = {
        ours: [40.0, 20.0, 60.0],
        exact: [10.0, 20.0, 20.0],
        spec(engines.ONNX, "int8"): [100.0, 100.0, 100.0],
        spec(engines.BARE, "bfloat16"): [80.0, 80.0, 80.0],
    }
    cosines = {ours: 0.9999, exact: 1.0, spec(engines.ONNX, "int8"): 0.9949}
    result = encode.compare(rates, cosines, dict.fromkeys(cosines, 1.0))
    assert result["best"]["peer"]["engine"] == engines.RIVAL
    assert (result["ratio_low"], result["ratio"], result["ratio_high"]) == (1.0, 3.0, 4.0)
    rows = {(row["engine"], row["dtype"]): row for row in result["engines"]}
    assert not rows[engines.ONNX, "int8"]["exact_enough"] and rows[engines.OURS, "bfloat16"]["exact_enough"]
    assert rows[engines.OURS, "bfloat16"]["products_share"] == 0.5


@pytest.mark.parametrize(("kind", "fewest", "most"), [("short", 5, 32), ("mixed", 5, 512), ("long", 400, 512)])
def test_texts_of_a_kind(folder: Path, module: Any, kind: str, fewest: int, most: int) -> None:
    rounds = module("texts").fresh_texts(folder, kind, 3, 7, 0)
    tokenizer = Tokenizer.load(folder)
    texts = [text for part in rounds.texts for text in part]
    assert [len(part) for part in rounds.texts] == [7, 7, 7]
    assert len(set(texts)) == 21 and not set(texts) & set(rounds.calibration)
    lengths = [len(ids) + 1 for ids in tokenizer.encode(texts)]
    assert all(fewest <= n <= most for n in lengths), lengths
    assert rounds.tokens == [sum(lengths[i : i + 7]) for i in (0, 7, 14)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vectors_come_in_the_order_of_the_texts(folder: Path, module: Any, batch_size: int) -> None:
    """An engine that adds up the tokens that the mask keeps gives each text its own sum, however batches fall."""

    def add_up(batches: Any, vectors_ND: np.ndarray) -> None:
        for rows, ids_BL, mask_BL in batches:
            assert len(rows) <= batch_size
            vectors_ND[rows] = (ids_BL * mask_BL).sum(1)[:, None]

    texts = [passage.text for passage in read_docstrings()[:10]]
    sums = module("converted").encoder(add_up, folder, batch_size)(texts)[:, 0]
    tokenizer = Tokenizer.load(folder)
    expected = [sum(ids) + tokenizer.find_id("eos") for ids in tokenizer.encode(texts)]
    np.testing.assert_array_equal(sums, expected)
