"""Each family against the transformers class that computes the same, on tiny random checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffembed.backbone import load_backbone, pack, save_backbone
from diffembed.backbone.fused import FusedBackbone
from tests.family_checkpoints import FAMILIES, LOOKS_BOTH_WAYS, POSITIONS, VOCAB, make

pytestmark = pytest.mark.extra
pytest.importorskip("transformers")

SEQUENCES = [[5, 2, 9], [number % VOCAB for number in range(3, POSITIONS)], [9], [4, 5, 6]]
# On one side of their window, or of the trained positions, scalings differ from plain positions everywhere.
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12},
    "yarn, its own numbers": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 24,
        "beta_fast": 6,
        "beta_slow": 2,
        "attention_factor": 1.3,
        "truncate": False,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def check(folder: Path, oracle: Any, direction: str, *, padded: bool = False) -> None:
    """The plain and the fused engine against the oracle's states, alone or as rows of a padded batch."""
    backbone = load_backbone(folder, direction=direction)
    batch = pack(SEQUENCES)
    oracle.config.is_causal = direction == "forward"
    expected = padded_states(oracle) if padded else [states_of(oracle, ids) for ids in SEQUENCES]
    with torch.no_grad():
        for engine in (backbone, FusedBackbone(backbone)):
            for states, wanted in zip(batch.split(engine(batch)), expected, strict=True):
                torch.testing.assert_close(states, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def states_of(oracle: Any, ids: list[int]) -> torch.Tensor:
    return oracle.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]


@torch.no_grad()
def padded_states(oracle: Any) -> list[torch.Tensor]:
    longest = max(map(len, SEQUENCES))
    ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in SEQUENCES])
    real = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in SEQUENCES])
    states = oracle.model(ids, attention_mask=real, use_cache=False).last_hidden_state
    return [row[: len(each)] for row, each in zip(states, SEQUENCES, strict=True)]


@pytest.mark.parametrize("padded", [False, True], ids=["alone", "padded"])
@pytest.mark.parametrize("direction", ["both", "forward"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_states_equal_transformers(tmp_path: Path, model_type: str, direction: str, padded: bool) -> None:
    check(tmp_path, make(model_type, tmp_path), direction, padded=padded)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_backward_is_forward_with_time_reversed(tmp_path: Path, model_type: str) -> None:
    # Rotary scores depend on differences of positions alone, and turning all of them round mirrors the differences: so
    # a backward model over a sequence is a forward one over its mirror image with the angles negated.
    make(model_type, tmp_path)
    backward = load_backbone(tmp_path, direction="backward")
    batch = pack([SEQUENCES[1]])
    with torch.no_grad():
        states = backward(batch)
        torch.testing.assert_close(FusedBackbone(backward)(batch), states, atol=1e-5, rtol=0)
        changed = backward(pack([[*SEQUENCES[1][:-1], 1]]))
        torch.testing.assert_close(backward(pack([[1, *SEQUENCES[1][1:]]]))[1:], states[1:], atol=1e-5, rtol=0)
    assert (states[0] - changed[0]).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_family_knows_where_it_looks(tmp_path: Path, model_type: str) -> None:
    make(model_type, tmp_path)
    assert load_backbone(tmp_path).config.direction == ("both" if model_type in LOOKS_BOTH_WAYS else "forward")


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_positions_equal_transformers(tmp_path: Path, kind: str) -> None:
    oracle = make("qwen2", tmp_path, rope_parameters={"rope_theta": 10_000.0, **ROPES[kind]})
    check(tmp_path, oracle, "both")
    assert load_backbone(tmp_path).config.rope_scaling is not None


def test_the_older_spelling_of_scaled_positions(tmp_path: Path) -> None:
    oracle = make("qwen2", tmp_path, rope_parameters={"rope_theta": 10_000.0, **ROPES["yarn"]})
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    rope = data.pop("rope_parameters")
    data["rope_theta"] = rope.pop("rope_theta")
    data["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    path.write_text(json.dumps(data))
    check(tmp_path, oracle, "both")


@pytest.mark.parametrize("model_type", ["Dream", "llada", "a2d-qwen3"])
def test_logits_and_their_shift(tmp_path: Path, model_type: str) -> None:
    oracle = make(model_type, tmp_path)
    oracle.config.is_causal = False
    backbone = load_backbone(tmp_path, with_head=True)
    batch = pack(SEQUENCES)
    with torch.no_grad():
        logits = batch.split(backbone.logits(backbone.predicting_states(backbone(batch), batch)))
        for ids, found in zip(SEQUENCES, logits, strict=True):
            wanted = oracle(torch.tensor([ids]), use_cache=False).logits[0]
            if model_type == "Dream":  # its own code shifts so, before it samples
                wanted = torch.cat([wanted[:1], wanted[:-1]])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_without_a_head_there_are_no_logits(tmp_path: Path) -> None:
    make("Dream", tmp_path)
    backbone = load_backbone(tmp_path)
    assert not any("lm_head" in name for name in backbone.state_dict())
    with pytest.raises(ValueError, match="without its vocabulary head"):
        backbone.logits(torch.zeros(1, 32))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_written_anew_a_stock_class_reads_it(tmp_path: Path, model_type: str) -> None:
    import transformers

    make(model_type, tmp_path / "theirs")
    backbone = load_backbone(tmp_path / "theirs", with_head=True)
    save_backbone(backbone, tmp_path / "ours")
    again = load_backbone(tmp_path / "ours", with_head=True)
    assert again.config == backbone.config
    assert all(torch.equal(found, again.state_dict()[name]) for name, found in backbone.state_dict().items())
    stock = transformers.AutoModel.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        for ids in SEQUENCES:
            wanted = stock(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(backbone(pack([ids])), wanted, atol=1e-5, rtol=0)
