"""Fine-tuning from end to end in its rarer forms: teachers, several vectors, chunks, codes, validation, odd data."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffembed import Embedder, configs
from diffembed.errors import ConfigError, DataError
from diffembed.readout.numbers import maxsim
from diffembed.readout.spec import Readout, masks
from diffembed.training.finetune import main
from diffembed.training.finetune_config import FinetuneConfig
from diffembed.training.loop_config import LoopConfig
from diffembed.training.losses import LossConfig
from diffembed.training.validation import ValidationConfig
from tests.tiny_embedders import make
from tests.training import rank_processes
from tests.training.test_finetune import OTHERS, WORDS, run, toy_config
from tests.training.tiny_runs import CHILD

LONG_RUN = LoopConfig(num_steps=60)


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def asked(i: int, j: int) -> str:
    return f"about {WORDS[i]} and {WORDS[j]}"


def told(i: int, j: int) -> str:
    return f"The {OTHERS[j]} is near the {OTHERS[i]}, they say."


PLACES = [(i, j) for i in range(len(WORDS)) for j in range(len(WORDS)) if i != j]


def rows_of(**more) -> list[dict]:
    return [
        {"query": asked(i, j), "positives": [told(i, j)], **{key: make(i, j) for key, make in more.items()}}
        for i, j in PLACES
    ]


def logged(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def falls(rows: list[dict]) -> bool:
    return np.mean([row["loss"] for row in rows[-5:]]) < 0.7 * np.mean([row["loss"] for row in rows[:5]])


def accuracy_of(model: Path) -> float:
    """How often a query finds its own passage among all."""
    embedder = Embedder.load(model, dtype="float32")
    queries, passages = (
        embedder.encode_query([asked(*place) for place in PLACES]),
        embedder.encode_document([told(*place) for place in PLACES]),
    )
    scores = maxsim(queries, passages) if queries.ndim == 3 else queries @ passages.T
    return float((scores.argmax(1) == np.arange(len(scores))).mean())


LOSSES = {
    "info_nce": LossConfig(temperature=0.05),
    "both ways": LossConfig(temperature=0.05, symmetric=True, include_queries=True, matryoshka_dims=(8, 16)),
    "explicit": LossConfig(name="explicit", temperature=0.05),
    "margin_mse": LossConfig(name="margin_mse", temperature=0.1),
    "kl": LossConfig(name="kl", temperature=0.1, teacher_temperature=0.2),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_each_loss_is_learnt_with_hard_negatives(loss: LossConfig, tmp_path: Path) -> None:
    data = write(
        tmp_path / "data",
        rows_of(
            negatives=lambda i, j: [told(i, k) for k in range(len(WORDS)) if k not in (i, j)][:3],
            scores=lambda i, j: [1.0, 0.2, 0.1, 0.0],
        ),
    )
    config = toy_config(loss=loss, negatives=3, loop=LONG_RUN)
    assert falls(run(config, data, tmp_path / "run"))
    assert logged(tmp_path / "run")[0]["candidates"] == (48 if loss.name == "info_nce" else 4)
    assert np.mean([row["accuracy"] for row in logged(tmp_path / "run")[-5:]]) > 0.6


READOUTS = {
    "masks": masks(2, 2),
    "one mask": masks(1, 1),
    "last": Readout(pooling="last"),
    "tanh": Readout(codes="tanh"),
}


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_each_readout_is_learnt_and_saved(readout: Readout, tmp_path: Path) -> None:
    config = toy_config(readout=readout, loop=LONG_RUN, loss=LossConfig(temperature=0.05))
    assert falls(run(config, write(tmp_path / "data", rows_of()), tmp_path / "run"))
    model = tmp_path / "run" / "model"
    assert Embedder.load(model).readout == readout
    assert accuracy_of(model) > 3 / len(PLACES)


def test_chunks_are_learnt_in_their_document(tmp_path: Path) -> None:
    data = write(tmp_path / "data", rows_of(chunks=lambda i, j: [told(j, i) + " ", told(i, j)]))
    config = toy_config(loss=LossConfig(name="contextual", temperature=0.05), loop=LONG_RUN, readout=Readout())
    config = replace(config, mix=(replace(config.mix[0], passage_tokens=60),))
    assert falls(run(config, data, tmp_path / "run"))


def test_a_small_model_learns_the_vectors_of_a_large_one(tmp_path: Path) -> None:
    """Its queries then search what the teacher has embedded."""
    teacher = tmp_path / "teacher"
    make(max_tokens=40).save(teacher)
    loss = LossConfig(name="vectors", temperature=1.0, teacher=str(teacher), teacher_dims=16)
    config = toy_config(loss=loss, loop=LONG_RUN, instruction_share=0.0)
    rows = run(config, write(tmp_path / "data", rows_of()), tmp_path / "run")
    assert falls(rows)
    texts = [asked(*place) for place in PLACES[:20]]
    student, large = Embedder.load(tmp_path / "run" / "model", dtype="float32"), Embedder.load(teacher, dtype="float32")
    cosines = (student.embed(texts, "query", dims=16).vectors * large.embed(texts, "query", dims=16).vectors).sum(1)
    assert cosines.mean() > 0.8


def test_a_teacher_with_more_dims_than_asked_is_refused(tmp_path: Path) -> None:
    loss = LossConfig(name="vectors", temperature=1.0, teacher="builtin")
    with pytest.raises(ConfigError, match="384 dims are to be learnt"):
        run(toy_config(loss=loss), write(tmp_path / "data", rows_of()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def write_task(task: Path) -> tuple[list[dict], list[dict]]:
    (task / "qrels").mkdir(parents=True)
    places = PLACES[:30]
    corpus = [{"_id": str(n), "title": "", "text": told(*place)} for n, place in enumerate(places)]
    queries = [{"_id": str(n), "text": asked(*place)} for n, place in enumerate(places)]
    (task / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (task / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (task / "qrels" / "test.tsv").write_text("".join(f"{n}\t{n}\t1\n" for n in range(30)))
    return corpus, queries


def test_a_task_is_measured_now_and_then(tmp_path: Path) -> None:
    task = tmp_path / "task"
    corpus, queries = write_task(task)
    config = toy_config(loop=LONG_RUN, validation=ValidationConfig(folder=str(task), every_steps=25))
    rows = run(config, write(tmp_path / "data", rows_of()), tmp_path / "run")
    measured = {row["step"]: row["nDCG@10"] for row in rows if "nDCG@10" in row}
    assert list(measured) == [25, 50, 60]
    assert measured[60] > 0.5
    embedder = Embedder.load(tmp_path / "run" / "model", dtype="float32")
    scores = (
        embedder.encode_query([q["text"] for q in queries]) @ embedder.encode_document([d["text"] for d in corpus]).T
    )
    ranks = (scores > scores.diagonal()[:, None]).sum(1) + 1
    wanted = np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks])
    assert measured[60] == pytest.approx(wanted, abs=0.02)
    with pytest.raises(ConfigError, match="several"):
        run(replace(config, readout=masks(2, 2)), tmp_path / "data", tmp_path / "several")


@pytest.mark.parametrize("shard", [False, True])
def test_ranks_share_teacher_and_task(tmp_path: Path, shard: bool) -> None:
    teacher, task = tmp_path / "teacher", tmp_path / "task"
    make(max_tokens=40).save(teacher)
    write_task(task)
    config = toy_config(
        loss=LossConfig(name="vectors", temperature=1.0, teacher=str(teacher), teacher_dims=16),
        loop=LoopConfig(num_steps=4, shard=shard),
        validation=ValidationConfig(folder=str(task), every_steps=2),
        recompute=True,
    )
    data = write(tmp_path / "data", rows_of())
    one = run(config, data, tmp_path / "one")
    (tmp_path / "settings.json").write_text(json.dumps(configs.to_dict(config)))
    rank_processes.finish(CHILD, [tmp_path / "settings.json", data, tmp_path / "two", "finetune"], 2)
    for own, other in zip(logged(tmp_path / "two"), one, strict=True):
        assert own["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert own.get("nDCG@10") == pytest.approx(other["nDCG@10"], abs=0.02) if "nDCG@10" in other else True


def test_bad_rows_end_the_run_or_are_counted(tmp_path: Path) -> None:
    rows = rows_of()
    data = write(tmp_path / "data", [*rows[:5], {"query": "no answer"}, *rows[5:]])
    config = toy_config(loop=LoopConfig(num_steps=1))
    with pytest.raises(DataError, match=r"rows\.jsonl:6"):
        run(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(replace(config, on_bad_row="skip"), data, tmp_path / "run")
    dropped = json.loads((tmp_path / "run" / "result.json").read_text())["dropped"]
    assert sum(dropped.values()) == 1


@pytest.mark.parametrize("name", ["kl", "margin_mse", "contextual"])
def test_a_loss_that_needs_more_than_the_rows_have_is_refused_before_the_run(name: str, tmp_path: Path) -> None:
    rows = rows_of(negatives=lambda i, j: ["a stone"])
    for row, (i, j) in list(zip(rows, PLACES, strict=True))[1:]:
        row |= {"scores": [1.0, 0.0], "chunks": [told(j, i), told(i, j)]}
    data = write(tmp_path / "data", rows)
    config = toy_config(loss=LossConfig(name=name, temperature=0.1), negatives=int(name != "contextual"))  # type: ignore[arg-type]
    config = replace(config, mix=(replace(config.mix[0], passage_tokens=60),))
    what = "chunks" if name == "contextual" else "scores"
    with pytest.raises(DataError, match=f"1 of 132 examples of rows query->passage have no {what}"):
        run(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_scores_and_chunks_are_passed_over_where_the_loss_has_no_use_for_them(tmp_path: Path) -> None:
    rows = rows_of()
    plain = run(toy_config(loop=LoopConfig(num_steps=2)), write(tmp_path / "plain", rows), tmp_path / "one")
    for row, (i, j) in zip(rows[::2], PLACES[::2], strict=True):
        row |= {"negatives": ["a stone"], "scores": [1.0, 0.0], "chunks": [told(j, i), told(i, j)]}
    found = run(toy_config(loop=LoopConfig(num_steps=2)), write(tmp_path / "more", rows), tmp_path / "two")
    assert len(plain) == len(found) == 2 and all(np.isfinite(row["loss"]) for row in found)
    assert found[0]["candidates"] == 12


def test_a_recipe_without_data_says_so(tmp_path: Path) -> None:
    config: FinetuneConfig = toy_config()
    with pytest.raises(ConfigError, match="needs examples"):
        main(config, data=None, out=tmp_path / "run", command=["test"])
