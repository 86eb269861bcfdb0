"""Losses that make a model agree with a teacher: on scores, or on the vectors themselves.

Shape letters: B queries, C candidates of a query (its own passage first), N texts, E features of the teacher's vectors.
"""

import torch.nn.functional as F
from torch import Tensor


def margin_mse(scores_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Mean squared error of the margins: by how much the own passage scores above each other candidate.

    Source: Hofstaetter et al. 2020 (arXiv:2010.02666, equation 4). The scales of teacher and model must be alike.

    Args:
        scores_BC: The model's, own passage first, C >= 2.
        teacher_BC: The teacher's.

    Raises:
        ValueError: The shapes differ or there is no other candidate.
    """
    _check(scores_BC, teacher_BC)
    return F.mse_loss(scores_BC[:, :1] - scores_BC[:, 1:], teacher_BC[:, :1] - teacher_BC[:, 1:])


def score_kl(scores_BC: Tensor, teacher_BC: Tensor, *, temperature: float, teacher_temperature: float = 1.0) -> Tensor:
    """KL divergence of the model's softmax over a query's candidates from the teacher's: the mean, in nats.

    Source: knowledge distillation (arXiv:1503.02531) over the candidates of a query, as rerankers are distilled into
    retrievers (arXiv:2010.11386). Deviates: the two have temperatures of their own, and none multiplies the loss.

    Args:
        scores_BC: The model's.
        teacher_BC: The teacher's; -inf for a candidate that it has not scored.
        temperature: Divides the model's scores; positive.
        teacher_temperature: Divides the teacher's; positive.

    Raises:
        ValueError: The shapes differ, there is one candidate only, or a temperature is not positive.
    """
    _check(scores_BC, teacher_BC)
    if not (temperature > 0 and teacher_temperature > 0):
        raise ValueError(f"temperatures must be positive, got {temperature} and {teacher_temperature}")
    wanted_BC = (teacher_BC / teacher_temperature).softmax(dim=1)
    return F.kl_div((scores_BC / temperature).log_softmax(dim=1), wanted_BC, reduction="batchmean")


def vector_distance(vectors_NE: Tensor, teacher_NE: Tensor) -> Tensor:
    """Squared Euclidean distance of the model's vectors from the teacher's, mean over the texts.

    Source: LEAF (arXiv:2509.12539): the student is drawn to the teacher's vectors themselves, so that either can query
    what the other has embedded.

    Args:
        vectors_NE: The model's, projected to the teacher's width; scaled to unit length or not, LEAF leaves it open.
        teacher_NE: Unit rows.

    Raises:
        ValueError: The shapes differ.
    """
    if vectors_NE.shape != teacher_NE.shape:
        raise ValueError(f"got {tuple(vectors_NE.shape)} vectors, and {tuple(teacher_NE.shape)} of the teacher")
    return (vectors_NE - teacher_NE).square().sum(dim=1).mean()


def _check(scores_BC: Tensor, teacher_BC: Tensor) -> None:
    if scores_BC.shape != teacher_BC.shape or scores_BC.dim() != 2 or scores_BC.shape[1] < 2:
        raise ValueError(f"got {tuple(scores_BC.shape)} scores, and {tuple(teacher_BC.shape)} of the teacher")
