"""Two models that were trained from one make the model between them."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed import Embedder
from diffembed.cli.app import run
from diffembed.embedder.merging import merge, slerp
from diffembed.errors import ConfigError
from diffembed.text.tokenizer import Tokenizer
from tests.tiny_embedders import LIMIT, SENTENCE, TOKENIZER, WORDS, make, make_backbone

ANGLES = st.floats(0.01, math.pi - 0.01)


def trained(step: float, **options) -> Embedder:
    """As after a little training: each weight is moved."""
    backbone = make_backbone()
    generator = torch.Generator().manual_seed(round(step * 100))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += step * torch.randn(parameter.shape, generator=generator)
    options = {"max_tokens": LIMIT, "dtype": "float32", "device": "cpu", "trained": {"step": step}} | options
    return Embedder.from_backbone(backbone, TOKENIZER, **options)


def weights(embedder: Embedder) -> dict[str, torch.Tensor]:
    return dict(embedder._model.backbone.named_parameters())


@given(ANGLES, st.floats(0, 1))
def test_slerp_goes_along_the_circle_at_even_speed(angle, share) -> None:
    start, end = torch.tensor([2.0, 0.0]), 2 * torch.tensor([math.cos(angle), math.sin(angle)])
    found = slerp(start, end, share)
    assert float(found.norm()) == pytest.approx(2, abs=1e-5)
    assert math.atan2(found[1], found[0]) == pytest.approx(share * angle, abs=1e-5)


@given(st.floats(0, 1), st.integers(0, 9))
def test_slerp_of_equal_parallel_opposite_and_zero_tensors_is_their_chord(share, seed) -> None:
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    for other in (tensor, 3 * tensor, -tensor, torch.zeros_like(tensor)):
        assert torch.allclose(slerp(tensor, other, share), torch.lerp(tensor, other, share), atol=1e-6)


def test_the_ends_are_the_two_models_and_the_mean_is_the_mean() -> None:
    one, other = trained(0.01), trained(0.02)
    for share, wanted in ((0, one), (1, other)):
        for way in ("slerp", "linear"):
            assert np.allclose(merge(one, other, share, way).encode(WORDS), wanted.encode(WORDS), atol=1e-5)
    mean = weights(merge(one, other, way="linear"))
    for name, weight in weights(one).items():
        assert torch.allclose(mean[name], (weight + weights(other)[name]) / 2, atol=1e-7)


def test_the_command_merges_folders_and_the_merged_one_says_what_it_is_of(tmp_path, capsys) -> None:
    one, other = trained(0.01), trained(0.02)
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    found = tmp_path / "merged"
    line = ["merge", str(tmp_path / "one"), str(tmp_path / "other"), "--out", str(found), "--share", "0.25"]
    assert run(line) == 0 and capsys.readouterr().out == f"{found}\n"
    merged = Embedder.load(found, "cpu", "float32")  # which replays the golden vectors
    assert np.allclose(merged.encode([SENTENCE]), merge(one, other, 0.25).encode([SENTENCE]), atol=1e-5)
    facts = {"way": "slerp", "share": 0.25, "first": {"step": 0.01}, "second": {"step": 0.02}}
    assert merged.trained == {"merged": facts}
    assert json.loads((found / "diffembed.json").read_text())["golden"]
    before = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert run([*line[:4], str(tmp_path / "one")]) == 2 and "is there already" in capsys.readouterr().err
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: make("forward"), "config"),
        (lambda: trained(0.1, max_tokens=LIMIT - 1), "max_tokens"),
        (lambda: trained(0.1, prompts={}), "prompts"),
        (
            lambda: Embedder.from_backbone(make_backbone(), Tokenizer.train([SENTENCE], 320), max_tokens=LIMIT),
            "tokenizer",
        ),
    ],
)
def test_models_that_differ_in_more_than_weights_are_refused(other, named) -> None:
    with pytest.raises(ConfigError, match=f"the two models differ in .*{named}"):
        merge(trained(0.01), other())


@pytest.mark.parametrize(
    ("share", "way"), [(1.01, "slerp"), (-0.1, "slerp"), (math.nan, "linear"), (True, "slerp"), (0.5, "ties")]
)
def test_shares_and_ways_are_checked(share, way) -> None:
    with pytest.raises(ConfigError, match="share is|way is"):
        merge(trained(0.01), trained(0.02), share, way)
