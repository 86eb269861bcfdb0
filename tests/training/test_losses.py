"""Losses by name: against the papers' formulas in plain numbers, what reaches which vector, what cannot go together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffembed.data.batches import Batch
from diffembed.data.mix import Group
from diffembed.errors import ConfigError
from diffembed.readout.spec import Readout, masks
from diffembed.training.gradcache import Laid
from diffembed.training.losses import LossConfig, batch_loss

WIDTH = 4
GROUP = Group(0, "toy", "k")


def some_batch(negatives: int = 2, **changes) -> Batch:
    batch = Batch(
        GROUP,
        queries=["q0", "q1"],
        passages=["p0", "p1"],
        negatives=[tuple(f"n{query} {i}" for i in range(negatives)) for query in range(2)],
        known=[(), ()],
    )
    return replace(batch, **changes)


def texts_of(batch: Batch, per_query: int = 1, per_passage: int = 1) -> list[Laid]:
    def laid(vectors: int) -> Laid:
        return Laid([1] * vectors, np.arange(vectors), vectors)

    return [*(laid(per_query) for _ in batch.queries), *(laid(per_passage) for _ in batch.candidates)]


def states(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def value(rows: torch.Tensor, batch: Batch, config: LossConfig, **changes) -> torch.Tensor:
    given = {"texts": texts_of(batch), "batch": batch, "config": config, "readout": Readout()} | changes
    return batch_loss(rows, **given).loss


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def cross_entropy(logits: list[float], own: int) -> float:
    return math.log(sum(math.exp(each - logits[own]) for each in logits))


def test_hard_negatives_of_all_queries_are_candidates_at_scale_50() -> None:
    """HardNegativeNLLLoss: 50 x [s(q, p_1..p_B), s(q, n_1..n_B)], own column, mean."""
    batch, rows = some_batch(1), states(6)
    q, p, n = (part.tolist() for part in rows.split(2))
    wanted = [cross_entropy([50 * cosine(q[i], each) for each in [*p, *n]], i) for i in range(2)]
    assert value(rows, batch, LossConfig(temperature=0.02)).item() == pytest.approx(sum(wanted) / 2, rel=1e-5)


def test_queries_may_have_different_numbers_of_negatives() -> None:
    batch, rows = replace(some_batch(), negatives=[("n0 0", "n0 1"), ()]), states(6)
    q, p, n = (part.tolist() for part in rows.split(2))
    wanted = [cross_entropy([10 * cosine(q[i], each) for each in [*p, *n]], i) for i in range(2)]
    assert value(rows, batch, LossConfig(temperature=0.1)).item() == pytest.approx(sum(wanted) / 2, rel=1e-5)


def test_explicit_negatives_are_ones_own_and_scores_are_divided_by_the_width() -> None:
    """RepllamaLoss: softmax over q.d / D of the own passage and the own negatives, nothing scaled to unit length."""
    batch, rows = some_batch(2), states(8)
    q, p, n = rows[:2].tolist(), rows[2:4].tolist(), rows[4:].unflatten(0, (2, 2)).tolist()
    wanted = 0.0
    for i in range(2):
        scores = [sum(x * y for x, y in zip(q[i], each, strict=True)) / WIDTH for each in [p[i], *n[i]]]
        wanted += cross_entropy(scores, 0) / 2
    config = LossConfig(name="explicit", temperature=1.0)
    assert value(rows, batch, config).item() == pytest.approx(wanted, rel=1e-5)


def test_a_candidate_that_is_known_to_answer_is_left_out() -> None:
    batch, rows = some_batch(1, known=[(3,), ()]), states(6)  # candidate 3 is the negative of query 1
    config = LossConfig(temperature=0.1)
    q, p, n = (part.tolist() for part in rows.split(2))
    first = cross_entropy([10 * cosine(q[0], each) for each in [*p, n[0]]], 0)
    second = cross_entropy([10 * cosine(q[1], each) for each in [*p, *n]], 1)
    assert value(rows, batch, config).item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["margin_mse", "kl"])
def test_scores_of_a_teacher(name: str) -> None:
    batch, rows = some_batch(2, scores=[(3.0, 1.0, 2.0), (0.5, 0.25, -1.0)]), states(8)
    q, p, n = rows[:2].tolist(), rows[2:4].tolist(), rows[4:].unflatten(0, (2, 2)).tolist()
    wanted = 0.0
    for i, teacher in enumerate(batch.scores or []):
        scores = [cosine(q[i], each) / 0.5 for each in [p[i], *n[i]]]
        if name == "margin_mse":
            for j in (1, 2):
                wanted += ((scores[0] - scores[j]) - (teacher[0] - teacher[j])) ** 2 / 4
        else:
            target = [math.exp(each / 2) for each in teacher]
            target = [each / sum(target) for each in target]
            total = math.log(sum(math.exp(each) for each in scores))
            wanted += sum(t * (math.log(t) - (s - total)) for t, s in zip(target, scores, strict=True)) / 2
    config = LossConfig(name=name, temperature=0.5, teacher_temperature=2.0)  # type: ignore[arg-type]
    assert value(rows, batch, config).item() == pytest.approx(wanted, rel=1e-5)


def test_vectors_of_a_teacher() -> None:
    batch, rows = some_batch(0), states(4)
    teacher = torch.nn.functional.normalize(states(4, seed=1).detach()[:, :3], dim=1)
    wanted = 0.0
    for own, other in zip(rows.tolist(), teacher.tolist(), strict=True):
        norm = math.hypot(*own[:3])
        wanted += sum((x / norm - y) ** 2 for x, y in zip(own[:3], other, strict=True)) / 4
    config = LossConfig(name="vectors", temperature=1.0, teacher="some", teacher_dims=3)
    loss = value(rows, batch, config, teacher_VE=teacher)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert gradient[:, 3].abs().max() == 0


def chunked(share_done: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two documents: chunks of 1 and 3 tokens, the second answers; and one chunk of 2."""
    batch = some_batch(0, chunks=[("a", "p0"), ("p1",)])
    documents = [Laid([1] * 4, np.array([0, 1, 1, 1]), 2, own=1), Laid([1] * 2, np.array([0, 0]), 1)]
    queries = [Laid([1], np.zeros(1, np.int64)) for _ in range(2)]
    rows = states(5)
    config = LossConfig(name="contextual", temperature=0.1)
    return rows, value(rows, batch, config, texts=[*queries, *documents], share_done=share_done)


@pytest.mark.parametrize(("share_done", "weight"), [(0.0, 0.2), (0.5, 0.35), (1.0, 0.5)])
def test_chunks_answer_within_their_document_and_over_the_batch(share_done: float, weight: float) -> None:
    rows, loss = chunked(share_done)
    (q0, q1, c0, c1, c2) = rows.tolist()
    within = cross_entropy([10 * cosine(q0, each) for each in (c0, c1)], 1)  # the other document has one chunk: 0
    over = cross_entropy([10 * cosine(q0, each) for each in (c0, c1, c2)], 1)
    over += cross_entropy([10 * cosine(q1, each) for each in (c0, c1, c2)], 2)
    chunks = 0.2 * within / 2 + 0.8 * over / 2
    whole = [x + 3 * y for x, y in zip(c0, c1, strict=True)]
    documents = cross_entropy([10 * cosine(q0, each) for each in (whole, c2)], 0)
    documents += cross_entropy([10 * cosine(q1, each) for each in (whole, c2)], 1)
    assert loss.item() == pytest.approx((1 - weight) * chunks + weight * documents / 2, rel=1e-5)


def test_prefixes_are_summed() -> None:
    batch, rows = some_batch(1), states(6)
    config = LossConfig(temperature=0.1)
    parts = [value(rows[:, :dims], batch, config).item() for dims in (1, 2, WIDTH)]
    both = value(rows, batch, replace(config, matryoshka_dims=(1, 2)))
    assert both.item() == pytest.approx(sum(parts), rel=1e-5)
    assert value(rows, batch, replace(config, matryoshka_dims=(1, 2, WIDTH))).item() == pytest.approx(sum(parts))


def test_codes_are_compared_and_their_gradient_is_that_of_tanh() -> None:
    batch, rows = some_batch(0), states(4)
    config, readout = LossConfig(temperature=0.1), Readout(codes="tanh")
    loss = value(rows, batch, config, readout=readout)
    codes = torch.round(127 * torch.tanh(rows.detach())).requires_grad_()
    wanted = value(codes, batch, config)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    (behind,) = torch.autograd.grad(wanted, codes)
    (found,) = torch.autograd.grad(loss, rows)
    torch.testing.assert_close(found, behind * 127 * (1 - torch.tanh(rows.detach()) ** 2))


def test_several_vectors_are_compared_by_maxsim() -> None:
    batch = some_batch(0)
    rows = states(2 * 2 + 2 * 3)
    loss = value(rows, batch, LossConfig(temperature=0.1), texts=texts_of(batch, 2, 3))
    q = [rows[i * 2 : i * 2 + 2].tolist() for i in range(2)]
    p = [rows[4 + i * 3 : 4 + i * 3 + 3].tolist() for i in range(2)]
    wanted = 0.0
    for i in range(2):
        scores = [sum(max(cosine(a, b) for b in each) for a in q[i]) / 2 * 10 for each in p]
        wanted += cross_entropy(scores, i) / 2
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_what_is_logged() -> None:
    batch, rows = some_batch(1), states(6)
    found = batch_loss(rows, texts=texts_of(batch), batch=batch, config=LossConfig(temperature=0.1), readout=Readout())
    q, p, n = (part.tolist() for part in rows.split(2))
    own = [cosine(q[i], p[i]) for i in range(2)]
    others = [[cosine(q[i], each) for each in [p[1 - i], *n]] for i in range(2)]
    assert found.extra["positive"] == pytest.approx(sum(own) / 2, rel=1e-5)
    assert found.extra["negative"] == pytest.approx(sum(map(sum, others)) / 6, rel=1e-5)
    assert found.extra["accuracy"] == sum(own[i] > max(others[i]) for i in range(2)) / 2
    assert found.extra["candidates"] == 4


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"teacher_temperature": -1.0}, "teacher_temperature must be positive"),
        ({"false_negative_margin": -0.1}, "must not be negative"),
        ({"name": "explicit", "symmetric": True}, "symmetric is about the other pairs"),
        ({"name": "kl", "include_queries": True}, "include_queries is about the other pairs"),
        ({"name": "contextual", "false_negative_margin": 0.1}, "false_negative_margin is about the other pairs"),
        ({"name": "vectors"}, "the teacher None"),
        ({"teacher": "builtin"}, "the teacher builtin"),
        ({"teacher_dims": 3}, "teacher_dims is 3"),
        ({"name": "explicit", "matryoshka_dims": (2,)}, "takes none"),
        ({"matryoshka_dims": (4, 2)}, "positive and rising"),
        ({"matryoshka_dims": (0, 2)}, "positive and rising"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        LossConfig(**({"temperature": 0.1} | settings))
    assert caught.value.hint


MANY = masks(2, 3)


@pytest.mark.parametrize(
    ("settings", "readout", "negatives", "complaint"),
    [
        ({}, Readout(pooling="weighted_mean"), 0, "read, not trained"),
        ({}, Readout(codes="calibrated", scale=2.0), 0, "after training"),
        ({"name": "explicit"}, Readout(codes="tanh"), 1, "no use for the length"),
        ({"name": "explicit"}, MANY, 1, "several vectors"),
        ({"symmetric": True}, MANY, 0, "several vectors"),
        ({"include_queries": True}, MANY, 0, "several vectors"),
        ({"name": "contextual"}, Readout(pooling="last"), 0, "mean of its tokens"),
        ({"name": "kl"}, Readout(), 0, "compares with hard negatives"),
        ({"name": "contextual"}, Readout(), 3, "no use for hard negatives"),
    ],
)
def test_readouts_that_a_loss_cannot_train_are_refused(
    settings: dict, readout: Readout, negatives: int, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        LossConfig(**({"temperature": 0.1} | settings)).check_readout(readout, negatives)
    assert caught.value.hint


def test_prefixes_longer_than_a_vector_are_refused() -> None:
    with pytest.raises(ConfigError, match="a vector has 32"):
        LossConfig(temperature=0.1, matryoshka_dims=(16, 64)).check_width(32)
