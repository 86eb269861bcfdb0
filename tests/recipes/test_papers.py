"""The papers' recipes on tiny models of each family: their curves are committed, and what they leave is whole."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RawTokenizer

from diffembed import Embedder, configs, recipes
from diffembed.embedder.merging import merge
from diffembed.recipes import llm2vec, paper, pplx
from diffembed.training.finetune import main
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.loop_config import LoopConfig
from tests import family_checkpoints
from tests.family_checkpoints import POSITIONS
from tests.family_tokenizers import VOCAB, vocab_and_merges
from tests.golden_curves import check_curve
from tests.tiny_embedders import WORDS

# peft asks transformers by a name that is going away.
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]
pytest.importorskip("peft")
pytest.importorskip("transformers")

STEPS = 6


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, trained: RawTokenizer) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for model_type in ("Dream", "qwen2", "llada", "a2d-qwen3"):
        family_checkpoints.make(model_type, folder / model_type, vocab_size=VOCAB)
        vocab_and_merges(folder / model_type, trained)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with everything that some recipe asks for: hard negatives, an instruction, chunks; and plain sentences."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, a in enumerate(WORDS):
        for j, b in enumerate(WORDS):
            if a != b:
                texts = [f"The {WORDS[-i]} is near the {WORDS[-j]} {k}." for k in range(16)]
                rows.append(
                    {"query": f"{a} {b}", "positives": texts[:1], "negatives": texts[1:], "instruction": "find"}
                )
    (folder / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chunked = [
        {**{key: row[key] for key in ("query", "positives")}, "chunks": [f"{number} ", *row["positives"]]}
        for number, row in enumerate(rows)
    ]
    (folder / "chunks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chunked))
    (folder / "sentences.txt").write_text("".join(row["positives"][0] + "\n" for row in rows))
    return folder


def tiny(config: FinetuneConfig, init: Path, **changes) -> FinetuneConfig:
    """A recipe at toy size: same data, loss, readout, adapter and optimizer; shorter texts, fewer of them and steps."""
    return replace(
        config,
        init=str(init),
        max_tokens=POSITIONS,
        mix=tuple(replace(row, passage_tokens=20, instruction=row.instruction and "find") for row in config.mix),
        query_tokens=20,
        batch_pairs=min(config.batch_pairs, 8),
        loss=replace(config.loss, matryoshka_dims=(8, 16) if config.loss.matryoshka_dims else ()),
        optimizer=replace(config.optimizer, peak_lr=3e-3, warmup_steps=min(config.optimizer.warmup_steps, 2)),
        loop=LoopConfig(num_steps=STEPS, seed=config.loop.seed),
        chunk_tokens=256,
        dtype="float32",
        **changes,
    )


def run(config: FinetuneConfig, data: Path, out: Path) -> Path:
    return main(config, data=data, out=out, command=["test"])


@pytest.mark.parametrize("model_type", ["Dream", "qwen2", "llada"])
@pytest.mark.parametrize("name", ["diffembed_long", "diffembed_reason", "diffembed_instruct"])
def test_the_papers_recipes(name: str, model_type: str, bases: Path, data: Path, tmp_path: Path) -> None:
    config = tiny(getattr(paper, name)(), bases / model_type)
    model = run(config, data / "triplets.jsonl", tmp_path / "run")
    check_curve(f"{name}_{model_type.lower()}", tmp_path / "run")
    embedder = Embedder.load(model, dtype="float32")
    assert (embedder.direction, embedder.readout.counts_prompt) == ("both", True)
    with_adapter = Embedder.load(bases / model_type, adapter=tmp_path / "run" / "adapter", dtype="float32")
    texts = ["a quick fox"]
    np.testing.assert_allclose(embedder.encode_document(texts), with_adapter.encode_document(texts), atol=1e-5)


def test_llm2vec_goes_from_sentences_to_triplets(bases: Path, data: Path, tmp_path: Path) -> None:
    simcse = tiny(llm2vec.llm2vec_simcse("qwen2.5"), bases / "qwen2")
    run(simcse, data / "sentences.txt", tmp_path / "simcse")
    check_curve("llm2vec_simcse", tmp_path / "simcse")
    first = tmp_path / "simcse" / "adapter"
    supervised = tiny(llm2vec.llm2vec_supervised("qwen2.5"), bases / "qwen2", adapter=str(first))
    run(supervised, data / "triplets.jsonl", tmp_path / "supervised")
    check_curve("llm2vec_supervised", tmp_path / "supervised")


def test_dropout_alone_tells_the_two_sides_of_simcse_apart(bases: Path, data: Path, tmp_path: Path) -> None:
    config = tiny(llm2vec.llm2vec_simcse("qwen2.5"), bases / "qwen2")
    still = replace(config, attention_dropout=0.0, lora=replace(config.lora, dropout=0.0))
    for name, each in (("dropping", config), ("still", still)):
        run(replace(each, loop=LoopConfig(num_steps=1)), data / "sentences.txt", tmp_path / name)
    found = {name: json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("dropping", "still")}
    assert found["still"]["positive"] == pytest.approx(1.0, abs=1e-5)
    assert found["dropping"]["positive"] < 0.999


def test_pplx_goes_through_three_stages_and_a_merge(bases: Path, data: Path, tmp_path: Path) -> None:
    pairs = run(tiny(pplx.pplx_pairs(), bases / "a2d-qwen3"), data / "triplets.jsonl", tmp_path / "pairs")
    contextual = run(tiny(pplx.pplx_contextual(), pairs), data / "chunks.jsonl", tmp_path / "contextual")
    triplets = run(tiny(pplx.pplx_triplets(), pairs), data / "triplets.jsonl", tmp_path / "triplets")
    for name in ("pairs", "contextual", "triplets"):
        check_curve(f"pplx_{name}", tmp_path / name)
    ends = [Embedder.load(folder, dtype="float32") for folder in (contextual, triplets)]
    merged = merge(*ends)
    assert merged.readout.codes == "tanh"
    between = merged.encode_document(["a quick fox"])[0]
    apart = [end.encode_document(["a quick fox"])[0] for end in ends]
    assert min(between @ each for each in apart) > apart[0] @ apart[1]


def test_instructions_of_the_data_reach_the_model(bases: Path, data: Path, tmp_path: Path) -> None:
    """The group of the batches has the instruction of the rows, and queries are longer by it."""
    config = tiny(paper.diffembed_long(), bases / "Dream")
    run(config, data / "triplets.jsonl", tmp_path / "with")
    run(replace(config, instruction_share=0.0), data / "triplets.jsonl", tmp_path / "without")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("with", "without")]
    assert all(": find" in name for name in results[0]["groups"])
    assert results[0]["tokens"] > results[1]["tokens"]


def test_the_numbers_of_the_paper() -> None:
    """Appendix D and the training configurations (arXiv:2505.15045)."""
    long, reason, instruct = paper.diffembed_long(), paper.diffembed_reason(), paper.diffembed_instruct()
    assert [c.loop.num_steps * c.batch_pairs for c in (long, reason, instruct)] == [16_000, 10_880, 16_000]
    assert {c.optimizer.peak_lr for c in (long, reason, instruct)} == {1e-4}
    assert {c.loop.seed for c in (long, reason, instruct)} == {42}
    assert [c.optimizer.warmup_steps for c in (long, reason, instruct)] == [100, 100, 20]
    assert [(c.lora.rank, c.lora.alpha, c.lora.dropout) for c in (long, instruct) if c.lora] == [
        (16, 32.0, 0.05),
        (32, 64.0, 0.05),
    ]
    assert 1 / long.loss.temperature == pytest.approx(50)
    assert (instruct.loss.name, instruct.loss.temperature, instruct.negatives) == ("explicit", 1.0, 15)
    assert (instruct.query_tokens, instruct.mix[0].passage_tokens) == (304, 196)
    # transformers' linear schedule: up over the warm-up, then down to 0 at the end.
    rates = [long.optimizer.rate(step, 1_000) for step in (1, 100, 101, 550, 1_000)]
    assert rates == pytest.approx([1e-6, 1e-4, 1e-4, 1e-4 * 451 / 900, 1e-4 / 900], rel=1e-6)


@pytest.mark.parametrize("name", recipes.finetuning())
def test_recipes_survive_the_trip_to_json_and_have_a_header(name: str) -> None:
    recipe = recipes.finetuning()[name]
    config = recipe()
    assert configs.from_dict(FinetuneConfig, configs.to_dict(config)) == config
    header = getattr(recipe, "func", recipe).__doc__ or ""
    assert "`diffembed " in header
    if "-" in name and not name.startswith("builtin"):
        assert "Hardware" in header
