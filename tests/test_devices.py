"""`Embedder.load(devices=...)`, progress, forecasts: what callers see of how the work is done."""

from pathlib import Path

import numpy as np
import pytest

from diffembed import Embedder
from diffembed.errors import ConfigError
from diffembed.readout.spec import masks
from tests.tiny_embedders import LONG, ODD, SENTENCE, WORDS, make

TEXTS = [*ODD, *WORDS, SENTENCE, LONG]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("devices") / "model"
    make().save(path)
    return path


@pytest.mark.slow
def test_several_devices_give_the_vectors_of_one(folder: Path) -> None:
    one = Embedder.load(folder, device="cpu", dtype="float32")
    with Embedder.load(folder, devices=["cpu", "cpu"], dtype="float32") as two:
        np.testing.assert_allclose(two.encode_query(TEXTS), one.encode_query(TEXTS), atol=1e-6)
        assert two.last_report is not None and one.last_report is not None
        assert (two.last_report.tokens, two.last_report.windows) == (one.last_report.tokens, one.last_report.windows)
        readout = masks(2, 3)
        found = two.with_readout(readout, template="<|mask|>{text}").encode_document(TEXTS, dims=16)
        expected = one.with_readout(readout, template="<|mask|>{text}").encode_document(TEXTS, dims=16)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert two.explain("fox", SENTENCE).score == pytest.approx(one.explain("fox", SENTENCE).score, abs=1e-5)
        with pytest.warns(UserWarning, match="were cut to"):
            two.encode([LONG], overflow="truncate")
    np.testing.assert_allclose(two.encode(TEXTS), one.encode(TEXTS), atol=1e-6)  # closed, it computes by itself


@pytest.mark.parametrize(
    "options", [{"devices": []}, {"devices": "cpu"}, {"devices": ["cpu"], "device": "cpu"}, {"devices": ["cpu:x"]}]
)
def test_devices_that_there_are_none_of(folder: Path, options) -> None:
    with pytest.raises(ConfigError, match=r"(?s)device.*hint: "):
        Embedder.load(folder, **options)


def test_progress_counts_every_text_and_can_end_the_call() -> None:
    embedder = make()
    seen: list[tuple[int, int | None]] = []
    embedder.embed(TEXTS, progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (len(TEXTS), len(TEXTS))
    assert seen == sorted(seen)
    seen.clear()
    embedder.embed(iter(TEXTS), progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (len(TEXTS), None)

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedder.embed(TEXTS, progress=stop)
    np.testing.assert_allclose(embedder.encode(TEXTS), make().encode(TEXTS), atol=1e-6)


def test_a_forecast_counts_what_will_be_read() -> None:
    embedder = make()
    forecast = embedder.estimate(TEXTS, "query")
    report = embedder.embed(TEXTS, "query").report
    assert (forecast.texts, forecast.windowed, forecast.windows) == (report.texts, report.windowed, report.windows)
    assert forecast.tokens >= report.tokens  # windows overlap
    assert 0 < forecast.seconds < 60 and forecast.memory_bytes > 10_000
    assert embedder.estimate([]).tokens == 0
