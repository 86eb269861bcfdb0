"""What a recipe's docstring says of its size is what its numbers give."""

import re

import pytest
import torch

from diffembed import recipes
from diffembed.backbone import Backbone
from diffembed.recipes import pretrain
from diffembed.training.pretrain_config import PretrainConfig

UNIT = {"M": 1e6, "B": 1e9}
SHOWN = re.compile(r"(\d+(?:\.\d+)?)([MB]) (parameters|tokens)|(context) (\d+)")


def parameters(config: PretrainConfig) -> int:
    with torch.device("meta"):
        return sum(each.numel() for each in Backbone(config.backbone).parameters())


def sizes(config: PretrainConfig) -> dict[str, int]:
    tokens = config.loop.num_steps * config.tokens_per_step
    return {"parameters": parameters(config), "tokens": tokens, "context": max(config.segment_lengths)}


def wrong_sizes(docstring: str, config: PretrainConfig) -> list[str]:
    """What is told and isn't so, to the digits that are shown."""
    wrong = []
    for match in SHOWN.finditer(" ".join(docstring.split())):
        if match[4]:
            is_right = int(match[5]) == sizes(config)["context"]
        else:
            decimals = len(match[1].partition(".")[2])
            is_right = f"{sizes(config)[match[3]] / UNIT[match[2]]:.{decimals}f}" == match[1]
        if not is_right:
            wrong.append(match[0])
    return wrong


@pytest.mark.parametrize("name", [name for name, make in recipes.pretraining().items() if make().backbone])
def test_told_sizes_are_right(name: str) -> None:
    recipe = recipes.pretraining()[name]
    assert wrong_sizes(recipe.__doc__ or "", recipe()) == []


def test_sizes_are_told_and_a_wrong_one_would_be_seen() -> None:
    for recipe in (pretrain.builtin, pretrain.builtin_gpu):
        assert {match[3] for match in SHOWN.finditer(" ".join((recipe.__doc__ or "").split()))} >= {
            "parameters",
            "tokens",
        }
    told = "12.5M parameters, context 128, 1.1B\ntokens of masked diffusion"
    assert wrong_sizes(told, pretrain.builtin()) == ["12.5M parameters", "context 128", "1.1B tokens"]


def test_the_autoregressive_twin_has_the_same_size() -> None:
    assert sizes(pretrain.builtin_ar()) == sizes(pretrain.builtin())
