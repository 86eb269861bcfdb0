"""What was done to the texts of a call."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Nothing is lost in silence: what was cut, windowed or empty is counted."""

    texts: int
    tokens: int
    """Tokens that count: the prompt, each token of a text once, and the EOS; without what was cut off."""
    truncated: int
    """Texts cut to the limit (overflow `truncate`)."""
    windowed: int
    """Texts over the limit that were read in windows (overflow `window`)."""
    windows: int
    """Windows that those texts took, all together."""
    empty: int
    """Texts without a token; their vector is that of the EOS alone."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Vectors, and how they came about."""

    vectors: NDArray[Any]
    """(texts, dims) in the order of the texts."""
    report: Report
