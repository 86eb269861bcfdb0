"""Losses over a batch in chunks: with dropout, with checkpointed layers, and shared by ranks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffembed import configs
from diffembed.backbone import Backbone, pack
from diffembed.objectives.contrastive import info_nce
from diffembed.readout.pooling import to_vectors
from diffembed.recipes import finetune as recipe
from diffembed.training.finetune import main
from diffembed.training.gradcache import LARGEST_SEED, BatchLoss, Laid, loss_in_parts
from tests.training import rank_processes
from tests.training.tiny_runs import rows

LENGTHS = [3, 9, 2, 17, 5, 5, 30, 1]


class Dropping(Backbone):
    """A backbone with dropout behind each MLP, as LoRA has it in front of its matrices."""

    def __init__(self) -> None:
        super().__init__(recipe.smoke().backbone)  # type: ignore[arg-type]
        self.init_weights(torch.Generator().manual_seed(0))
        for layer in self.layers:
            layer.mlp.down_proj = nn.Sequential(nn.Dropout(0.3), layer.mlp.down_proj)


def texts() -> list[Laid]:
    generator = torch.Generator().manual_seed(1)
    return [Laid(torch.randint(300, (n,), generator=generator).tolist(), np.zeros(n, np.int64)) for n in LENGTHS]


def nce(means: torch.Tensor) -> BatchLoss:
    query, passage = to_vectors(means).chunk(2)
    return BatchLoss(info_nce(query, passage, torch.arange(len(query)), temperature=0.1), {})


def gradients(backbone: Backbone, *, recompute: bool, seed: int = 7) -> tuple[float, list[torch.Tensor]]:
    backbone.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for part in loss_in_parts(backbone, texts(), nce, chunk_tokens=25, recompute=recompute, generator=generator):
        part.loss.backward()
        total += part.loss.item()
    return total, [p.grad.clone() for p in backbone.parameters() if p.grad is not None]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_with_dropout_it_equals_the_same_chunks_in_one_graph(recompute: bool, checkpoints: bool) -> None:
    backbone = Dropping().train()
    # The same chunks by hand: sorted by length, 25 tokens at most, each with the dropout of its seed.
    laid = texts()
    order = sorted(range(len(laid)), key=lambda number: len(laid[number].ids))
    cuts, chunk = [], []
    for number in order:
        if chunk and sum(len(laid[each].ids) for each in chunk) + len(laid[number].ids) > 25:
            cuts.append(chunk)
            chunk = []
        chunk.append(number)
    chunks = [*cuts, chunk]
    seeds = torch.randint(LARGEST_SEED, (len(chunks),), generator=torch.Generator().manual_seed(7)).tolist()
    found = {}
    for chunk, seed in zip(chunks, seeds, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            states = backbone(pack([laid[number].ids for number in chunk]))
        parts = states.split([len(laid[number].ids) for number in chunk])
        found |= {number: part.mean(dim=0) for number, part in zip(chunk, parts, strict=True)}
    whole = nce(torch.stack([found[number] for number in range(len(laid))])).loss
    expected = torch.autograd.grad(whole, list(backbone.parameters()))

    backbone.checkpoint_layers = checkpoints
    before = torch.random.get_rng_state()
    loss, got = gradients(backbone, recompute=recompute)
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's random numbers are touched
    assert loss == pytest.approx(whole.item(), abs=1e-6)
    largest = max(gradient.abs().max().item() for gradient in expected)
    for own, wanted in zip(got, expected, strict=True):
        assert (own - wanted).abs().max() < 1e-6 * max(1.0, largest)
    other, _ = gradients(backbone, recompute=recompute, seed=8)
    assert other != loss  # dropout is on


CHILD = """
    import sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from diffembed import configs
    from diffembed.training.finetune import FinetuneConfig, main
    settings = configs.from_dict(FinetuneConfig, configs.read_json(Path(sys.argv[1])))
    main(settings, data=None, out=Path(sys.argv[2]), command=["test"])
"""


@pytest.mark.parametrize(("world", "shard"), [(2, False), pytest.param(4, False, marks=pytest.mark.slow), (2, True)])
def test_ranks_fine_tune_as_one_process_does(tmp_path: Path, world: int, shard: bool) -> None:
    smoke = recipe.smoke()
    loop = replace(smoke.loop, num_steps=6, shard=shard)
    config = replace(smoke, loop=loop, dtype="float32", chunk_tokens=256, recompute=True)
    main(config, data=None, out=tmp_path / "one", command=["test"])
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(configs.to_dict(config)))
    rank_processes.finish(CHILD, [path, tmp_path / "many"], world)
    for own, other in zip(rows(tmp_path / "many"), rows(tmp_path / "one"), strict=True):
        assert own.keys() == other.keys() and own["tokens"] == other["tokens"]
        for name in ("loss", "accuracy", "pairs", "row"):
            assert own[name] == pytest.approx(other[name], rel=1e-5)
        assert own["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("many", "one")]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-4, atol=5e-5)
