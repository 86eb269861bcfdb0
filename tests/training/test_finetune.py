"""Fine-tuning: exact gradients in chunks, the prompt outside the mean, resume bit for bit, a model that can be used."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from diffembed import configs
from diffembed.backbone import Backbone, BackboneConfig, PackedBatch, load_backbone, pack, save_backbone
from diffembed.data.batches import Batch
from diffembed.data.mix import Group, MixRow
from diffembed.embedder import Embedder
from diffembed.errors import ConfigError, DataError
from diffembed.objectives.contrastive import info_nce
from diffembed.readout.pooling import to_vectors
from diffembed.readout.spec import SKIPPED
from diffembed.recipes import finetune as recipes
from diffembed.text.tokenizer import Tokenizer
from diffembed.training.finetune import main, prompts_of
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.gradcache import BatchLoss, Laid, loss_in_parts
from diffembed.training.loop_config import LoopConfig
from diffembed.training.losses import LossConfig
from diffembed.training.optimizer import OptimizerConfig
from diffembed.training.prompts import Prompts
from diffembed.training.start import Start
from tests.golden_curves import check_curve
from tests.training.tiny_runs import rows

WORDS = ["river", "boat", "stone", "light", "number", "proof", "cell", "engine", "market", "song", "glass", "winter"]
OTHERS = ["fish", "sail", "hill", "lamp", "sum", "axiom", "gene", "fuel", "price", "choir", "cup", "snow"]
PARTNERS = dict(zip(WORDS, OTHERS, strict=True))
INSTRUCTION = "Find what goes with it"


def toy_config(**changes) -> FinetuneConfig:
    values = {
        "init": None,
        "backbone": BackboneConfig(
            vocab_size=300,
            width=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_width=16,
            mlp_width=48,
            max_positions=64,
        ),
        "tokenizer_from": None,
        "mix": (MixRow(source="*", kind="*", weight=1.0, instruction=INSTRUCTION, passage_tokens=24),),
        "batch_pairs": 12,
        "query_tokens": 16,
        "loss": LossConfig(temperature=0.05, false_negative_margin=0.1),
        "instruction_share": 0.5,
        "optimizer": OptimizerConfig(peak_lr=5e-3, warmup_steps=3),
        "loop": LoopConfig(num_steps=10, checkpoint_every_steps=3),
        "chunk_tokens": 128,
        "dtype": "float32",
    }
    return FinetuneConfig(**(values | changes))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A query names two words, its passage their partners: no word is shared, so it takes learning to find it."""
    rows = [
        {"q": f"about {a} and {b}", "p": f"The {PARTNERS[b]} is near the {PARTNERS[a]}, they say.", "kind": "toy"}
        for a in WORDS
        for b in WORDS
        if a != b
    ]
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


def run(config: FinetuneConfig, data: Path, out: Path, resume: bool = False) -> list[dict]:
    main(config, data=data, out=out, resume=resume, command=["test"])
    return rows(out)


def laid(ids: list[int], prompt_tokens: int = 0) -> Laid:
    return Laid(ids, np.array([SKIPPED] * prompt_tokens + [0] * (len(ids) - prompt_tokens)))


def prompt_tokens(text: Laid) -> int:
    return int((text.rows == SKIPPED).sum())


def nce(means: torch.Tensor) -> BatchLoss:
    query, passage = to_vectors(means).chunk(2)
    loss = info_nce(query, passage, torch.arange(len(query)), temperature=0.1, false_negative_margin=0.2)
    return BatchLoss(loss, {"pairs": len(query)})


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk_tokens", [1, 25, 10_000])
def test_chunks_give_the_gradient_of_the_whole_batch(recompute: bool, chunk_tokens: int) -> None:
    backbone = Backbone(toy_config().backbone)  # type: ignore[arg-type]
    backbone.init_weights(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    lengths = [3, 9, 2, 17, 5, 5, 30, 1]
    prompts = [1, 4, 1, 2, 0, 0, 0, 0]
    texts = [
        laid(torch.randint(300, (n,), generator=generator).tolist(), k) for n, k in zip(lengths, prompts, strict=True)
    ]
    rows = [F.normalize(backbone(pack([t.ids]))[prompt_tokens(t) :].mean(dim=0), dim=0) for t in texts]
    whole = nce(torch.stack(rows)).loss
    expected = torch.autograd.grad(whole, list(backbone.parameters()))

    parts = list(
        loss_in_parts(backbone, texts, nce, chunk_tokens=chunk_tokens, recompute=recompute, generator=generator)
    )
    sum(part.loss for part in parts).backward()  # type: ignore[union-attr]
    assert len(parts) == {1: 8, 25: 3, 10_000: 1}[chunk_tokens]
    assert sum(part.num_tokens for part in parts) == sum(lengths)
    assert sum(part.extra.get("pairs", 0) for part in parts) == 4
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.item(), abs=1e-6)
    largest = max(gradient.abs().max().item() for gradient in expected)
    for parameter, gradient in zip(backbone.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - gradient).abs().max() < 1e-6 * max(1.0, largest)


class Shifted(Backbone):
    """Adds a number to the states of one token, so that a test sees who counts it."""

    token, shift = 7, 0.0

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        return super().forward(batch) + self.shift * (batch.ids_T == self.token)[:, None] * torch.arange(32)


def vectors_of(backbone: Backbone, texts: list[Laid]) -> torch.Tensor:
    kept: list[torch.Tensor] = []

    def keep(means: torch.Tensor) -> BatchLoss:
        kept.append(to_vectors(means.detach()))
        return BatchLoss(means.sum(), {})

    generator = torch.Generator().manual_seed(0)
    list(loss_in_parts(backbone, texts, keep, chunk_tokens=1000, recompute=False, generator=generator))
    return kept[0]


@pytest.mark.parametrize(("prompt_tokens", "counts"), [(3, False), (2, True), (0, True)])
def test_states_of_the_prompt_do_not_enter_pooling(prompt_tokens: int, counts: bool) -> None:
    backbone = Shifted(toy_config().backbone)  # type: ignore[arg-type]
    backbone.init_weights(torch.Generator().manual_seed(0))
    texts = [laid([9, 8, 7, 20, 21, 1], prompt_tokens), laid([30, 31, 1])]
    plain = vectors_of(backbone, texts)
    backbone.shift = 1e3
    changed = vectors_of(backbone, texts)
    assert torch.equal(changed[1], plain[1])
    assert torch.equal(changed[0], plain[0]) is not counts


def test_the_prompt_is_read_all_the_same() -> None:
    backbone = Backbone(toy_config().backbone)  # type: ignore[arg-type]
    backbone.init_weights(torch.Generator().manual_seed(0))
    vectors = vectors_of(backbone, [laid([first, 8, 20, 21, 1], 2) for first in (9, 10)])
    assert (vectors[0] - vectors[1]).abs().max() > 1e-6


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS), INSTRUCTION], 300)


def layer(tokenizer: Tokenizer, config: FinetuneConfig) -> Prompts:
    return prompts_of(Start.of(config).model(tokenizer), config)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_layout_of_queries_and_passages(tokenizer: Tokenizer, share: float) -> None:
    prompts = layer(tokenizer, toy_config(instruction_share=share))
    queries, passages = ["river boat", "stone " * 50], ["light", "number " * 50]
    texts = prompts.apply(Batch(Group(0, "toy", "k"), queries, passages), torch.Generator())
    prompt = f"{INSTRUCTION}<|query|>" if share else "<|query|>"
    assert [tokenizer.decode(text.ids[: prompt_tokens(text)]) for text in texts] == [prompt, prompt, "", ""]
    assert tokenizer.decode(texts[0].ids[prompt_tokens(texts[0]) :]) == "river boat<|eos|>"
    assert tokenizer.decode(texts[2].ids) == "light<|eos|>"
    assert [len(text.ids) - prompt_tokens(text) for text in texts][1::2] == [16, 24]
    assert all(text.ids[-1] == tokenizer.eos_id for text in texts)


def test_some_queries_carry_the_instruction_and_some_do_not(tokenizer: Tokenizer) -> None:
    prompts = layer(tokenizer, toy_config(instruction_share=0.5))
    batch = Batch(Group(0, "toy", "k"), ["river"] * 200, ["boat"] * 200)
    drawn = [
        [prompt_tokens(t) > 1 for t in prompts.apply(batch, torch.Generator().manual_seed(seed))[:200]]
        for seed in (0, 0, 1)
    ]
    assert 70 < sum(drawn[0]) < 130
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_loss_falls_and_the_model_finds_what_it_was_taught(data: Path, tmp_path: Path) -> None:
    rows = run(toy_config(loop=LoopConfig(num_steps=60)), data, tmp_path / "run")
    first, last = rows[:5], rows[-5:]
    assert np.mean([r["loss"] for r in last]) < 0.5 * np.mean([r["loss"] for r in first])
    assert first[0]["accuracy"] < 0.3
    assert np.mean([r["accuracy"] for r in last]) > 0.6
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["groups"] == {"toy toy": {"examples": 132, "batches": 60}}
    assert {"left_out", "dropped", "tokens", "seconds"} <= result.keys()


def test_the_saved_model_embeds_as_training_did(data: Path, tmp_path: Path) -> None:
    run(toy_config(), data, tmp_path / "run")
    folder = tmp_path / "run" / "model"
    backbone, tokenizer = load_backbone(folder), Tokenizer.load(folder)
    query, passage = (tokenizer.encode([text])[0] for text in ("about river", "The sail is near the fish."))
    texts = [laid([tokenizer.query_id, *query, tokenizer.eos_id], 1), laid([*passage, tokenizer.eos_id])]
    trained = vectors_of(backbone, texts).numpy()
    embedder = Embedder.load(str(folder), dtype=torch.float32)
    served = np.concatenate(
        [embedder.encode_query(["about river"]), embedder.encode_document(["The sail is near the fish."])]
    )
    assert np.abs(served - trained).max() < 1e-5


KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
from diffembed import configs, runs
from diffembed.training.finetune import main
from diffembed.training.finetune_config import FinetuneConfig

torch.set_num_threads(1)
log = runs.Run.log

def log_and_die(self, **row):
    log(self, **row)
    if row["step"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)

runs.Run.log = log_and_die
config = configs.from_dict(FinetuneConfig, json.loads(sys.argv[1]))
main(config, data=Path(sys.argv[2]), out=Path(sys.argv[3]), command=["test"])
"""


@pytest.mark.parametrize("recompute", [False, True])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(data: Path, tmp_path: Path, recompute: bool) -> None:
    config = toy_config(recompute=recompute)
    expected = run(config, data, tmp_path / "whole")
    cut = tmp_path / "cut"
    arguments = [sys.executable, "-c", KILLED, json.dumps(configs.to_dict(config)), str(data), str(cut)]
    killed = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (cut / "model").exists()
    assert run(config, data, cut, resume=True) == expected
    whole, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_pretrained_model_is_where_training_begins(data: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    shape = replace(toy_config().backbone, vocab_size=tokenizer.vocab_size, direction="forward")  # type: ignore[type-var]
    backbone = Backbone(shape)
    backbone.init_weights(torch.Generator().manual_seed(5))
    save_backbone(backbone, tmp_path / "base")
    tokenizer.save(tmp_path / "base")
    still = toy_config(
        init=str(tmp_path / "base"),
        backbone=None,
        direction="both",
        optimizer=OptimizerConfig(peak_lr=1e-9, warmup_steps=0),
        loop=LoopConfig(num_steps=1),
    )
    run(still, data, tmp_path / "run")
    found = load_backbone(tmp_path / "run" / "model")
    assert found.config.direction == "both"
    for name, weight in backbone.state_dict().items():
        assert torch.allclose(found.state_dict()[name], weight, atol=1e-6), name


def change_row(**changes) -> Callable[[FinetuneConfig], FinetuneConfig]:
    return lambda config: replace(config, mix=(replace(config.mix[0], **changes),))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: replace(config, backbone=None), "needs a model to begin with"),
        (change_row(passage_tokens=65), "needs 65 tokens, and max_tokens is 64"),
        (change_row(instruction="river boat " * 40), "max_tokens is 64"),
    ],
)
def test_a_run_that_cannot_work_leaves_nothing_behind(
    change: Callable[[FinetuneConfig], FinetuneConfig],
    complaint: str,
    data: Path,
    tmp_path: Path,
    tokenizer: Tokenizer,
) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    config = change(toy_config(tokenizer_from=str(tmp_path / "tokenizer")))
    with pytest.raises(ConfigError, match=complaint):
        run(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_data_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file and no folder"):
        run(toy_config(), tmp_path / "none", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"init": "folder"}, "init brings shape and tokenizer"),
        ({"direction": "backward"}, "cannot be saved"),
        ({"mix": ()}, "mix has no row"),
        ({"instruction_share": 1.5}, r"instruction_share must be in \[0, 1\]"),
        ({"batch_pairs": 1}, "at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        toy_config(**changes)


def test_long_passages_make_small_batches_of_equal_tokens() -> None:
    rows = [MixRow(source="*", kind=str(n), weight=1.0, instruction="", passage_tokens=n) for n in (96, 192, 512)]
    assert toy_config(mix=tuple(rows), batch_pairs=256).batch_sizes() == [256, 128, 48]


def test_golden_curve(data: Path, tmp_path: Path) -> None:
    run(toy_config(), data, tmp_path / "run")
    check_curve("tiny_finetune", tmp_path / "run")


@pytest.mark.parametrize("recipe", [recipes.smoke, recipes.builtin, recipes.builtin_scratch])
def test_recipes_survive_the_trip_to_json(recipe: Callable[[], FinetuneConfig]) -> None:
    config = recipe()
    assert configs.from_dict(FinetuneConfig, configs.to_dict(config)) == config


def test_the_recipe_of_the_builtin_model_keeps_the_dictionary_small() -> None:
    mix = recipes.builtin().mix
    dictionary = sum(row.weight for row in mix if row.source == "open_english_wordnet")
    assert dictionary <= 0.15 * sum(row.weight for row in mix)
    assert max(row.passage_tokens for row in mix) >= 512


@pytest.mark.parametrize("name", ["texts.utf8", "ends.i64", "rows.i64", "keys.i64", "known.i64", "store.json"])
def test_a_damaged_store_is_named(data: Path, tmp_path: Path, name: str) -> None:
    config = toy_config(loop=LoopConfig(num_steps=2))
    run(config, data, tmp_path / "run")
    path = tmp_path / "run" / "examples" / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="examples is damaged"):
        run(config, data, tmp_path / "run", resume=True)
