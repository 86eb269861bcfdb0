"""Legacy padding against transformers' Qwen2, given the published code's mask of floats on left-padded batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffembed.backbone import load_backbone, pack
from diffembed.backbone.legacy import LegacyBackbone
from diffembed.embedder import Embedder
from diffembed.errors import ConfigError
from tests import family_checkpoints
from tests.tiny_embedders import SENTENCE, make

PAD = 3
SEQUENCES = [[5, 9, 11, 20, 7], [8, 8], [30, 31, 32, 33, 34, 35, 36], [4], [12, 13]]


@pytest.mark.extra
def test_states_are_those_of_the_published_mask(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    oracle = family_checkpoints.make("Dream", tmp_path)
    oracle.config._attn_implementation = "sdpa"
    engine = LegacyBackbone(load_backbone(tmp_path), PAD, dtype=torch.float32, device=torch.device("cpu"))
    batch = pack(SEQUENCES)
    found = batch.split(engine(batch))
    longest = max(map(len, SEQUENCES))
    ids = torch.tensor([[PAD] * (longest - len(each)) + each for each in SEQUENCES])
    is_real = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in SEQUENCES])
    floats = is_real.float()[:, None, None].expand(-1, 1, longest, -1)  # added to the scores: +1 and +0
    with torch.no_grad():
        states = oracle.model(ids, attention_mask=floats, use_cache=False).last_hidden_state
    for row, own in enumerate(found):
        torch.testing.assert_close(own, states[row, longest - len(SEQUENCES[row]) :], atol=1e-5, rtol=0)
    properly = load_backbone(tmp_path)(pack(SEQUENCES))
    assert (properly - engine(batch)).abs().max() > 0.01, "that is why it is legacy"


def test_without_padding_it_is_the_model_itself() -> None:
    """All keys gain the same, which the softmax doesn't see."""
    embedder = make()
    legacy = embedder.with_legacy_padding(4)
    np.testing.assert_allclose(legacy.encode([SENTENCE] * 5), embedder.encode([SENTENCE] * 5), atol=1e-5)
    texts = [SENTENCE[:number] for number in range(0, 80, 9)]
    assert np.abs(legacy.encode(texts) - embedder.encode(texts)).max() > 1e-3, "the batch shows"
    alone = embedder.with_legacy_padding(1)
    np.testing.assert_allclose(alone.encode(texts), embedder.encode(texts), atol=1e-5)
    assert np.array_equal(legacy.encode(texts), legacy.encode(texts))


def test_what_it_is_not_for() -> None:
    with pytest.raises(ConfigError, match=r"(?s)looks forward.*hint: "):
        make("forward").with_legacy_padding(8)
    for rows in (0, True, "8"):
        with pytest.raises(ConfigError, match="batch_rows is"):
            make().with_legacy_padding(rows)
    assert isinstance(make().with_legacy_padding(2), Embedder)
