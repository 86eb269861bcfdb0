"""`diffembed models`: what is listed is what is read, and parameters follow from shapes."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffembed.backbone import Backbone, BackboneConfig
from diffembed.backbone.families import FAMILIES
from diffembed.backbone.known import KNOWN, count_parameters
from diffembed.cli import main
from tests.examples import examples

BY_ID = {known.id: known for known in KNOWN}


@st.composite
def shapes(draw: st.DrawFn) -> BackboneConfig:
    kv_heads = draw(st.integers(1, 4))
    return BackboneConfig(
        vocab_size=draw(st.integers(1, 300)),
        width=draw(st.integers(1, 60)),
        num_layers=draw(st.integers(1, 3)),
        num_heads=kv_heads * draw(st.integers(1, 4)),
        num_kv_heads=kv_heads,
        head_width=2 * draw(st.integers(1, 16)),
        mlp_width=draw(st.integers(1, 90)),
        max_positions=8,
        qk_norm=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        head=draw(st.sampled_from(["tied", "own", "none"])),
    )


@examples(50)
@given(config=shapes())
def test_parameters_are_those_of_a_backbone(config: BackboneConfig) -> None:
    with torch.device("meta"):
        backbone = Backbone(config)
    assert count_parameters(config) == sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "context"),
    [  # as their makers or others who loaded them counted
        ("Dream-org/Dream-v0-Instruct-7B", 7_615_616_512, 2_048),
        ("perplexity-ai/pplx-embed-v1-0.6b", 596_049_920, 32_768),
        ("GSAI-ML/LLaDA-8B-Base", 8_015_581_184, 4_096),
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248, 8_192),
        ("mistralai/Mistral-7B-v0.3", 7_248_023_552, 32_768),
        ("diffusionfamily/diffullama", 6_738_415_616, 2_048),
        ("dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", None, 1_024),
    ],
)
def test_published_counts(name: str, parameters: int | None, context: int) -> None:
    assert (BY_ID[name].parameters, BY_ID[name].context) == (parameters, context)


def test_a_head_of_its_own_is_not_loaded() -> None:
    dream = BY_ID["Dream-org/Dream-v0-Base-7B"]
    assert dream.bf16_bytes == 2 * (7_615_616_512 - 152_064 * 3_584)
    assert BY_ID["Qwen/Qwen3-0.6B"].bf16_bytes == 2 * 596_049_920


def test_each_checkpoint_is_of_a_family_and_shaped_like_it() -> None:
    assert len(BY_ID) == len(KNOWN)
    for known in KNOWN:
        assert known.family in FAMILIES
        if known.shape is not None:
            for name in ("qk_norm", "qkv_bias", "logit_shift", "direction"):
                assert getattr(known.shape, name) == getattr(known.family, name), known.id


def test_json_has_an_object_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows if row["kind"] == "family"] == [family.name for family in FAMILIES]
    found = {row["id"]: row for row in rows if row["kind"] == "checkpoint"}
    assert list(found) == list(BY_ID)
    assert found["Dream-org/Dream-v0-Base-7B"]["licence"] == "Apache-2.0"
    assert found["GSAI-ML/LLaDA-1.5"]["parameters"] == 8_015_581_184


def test_a_person_sees_two_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr()
    assert "LLaDA, LLaDA-1.5" in shown.out and "<|mdm_mask|>" in shown.out
    [row] = [line for line in shown.out.splitlines() if line.startswith("apple/DiffuCoder-7B-Base")]
    assert row.split() == ["apple/DiffuCoder-7B-Base", "7,615,616,512", "2,048", "14.1"]
    assert 'direction="both"' in shown.err
