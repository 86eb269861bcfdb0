"""Gradients through rounding."""

from torch import Tensor


def straight_through(rounded: Tensor, smooth: Tensor) -> Tensor:
    """The values of `rounded`, the gradient of `smooth`.

    Source: the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432), with which pplx-embed
    (arXiv:2602.11151) is trained on its int8 codes: rounded = round(127 tanh(x)), smooth = 127 tanh(x).
    """
    return rounded.detach() + (smooth - smooth.detach())
