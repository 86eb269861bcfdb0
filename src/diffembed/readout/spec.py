"""Which states a text's vector is made of, and in which numbers it is written. Costs neither torch nor numpy."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from diffembed.errors import ConfigError

Pooling = Literal["mean", "weighted_mean", "last", "masks"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
Codes = Literal["row", "calibrated", "tanh"]
CODES: tuple[Codes, ...] = get_args(Codes)
Precision = Literal["float32", "float16", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SKIPPED = -1
"""Row of a token that no vector counts."""

# As many as DiffRetriever tried, times four: each is a token more of every text.
MOST_MASKS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Readout:
    """How the states of a text become its vector, or its vectors."""

    pooling: Pooling = "mean"
    """`mean` of the counted tokens; `weighted_mean`, where the n-th token of a sequence counts n times (SGPT,
    arXiv:2202.08904); `last`, the state of a sequence's last token; `masks`, the states that predict mask tokens
    appended to the text (DiffRetriever, arXiv:2605.07210). Over several windows, the last two are means of the
    windows' own."""
    counts_prompt: bool = False
    """Means count the tokens around the text too (prompt, instruction, template), as the paper's code does."""
    query_masks: int = 1
    """`masks`: how many are appended to a query, Kq."""
    document_masks: int = 1
    """`masks`: how many are appended to any other text, Kp."""
    multi: bool = False
    """`masks`: a vector for each mask, to be compared by MaxSim; otherwise their mean is the one vector."""
    codes: Codes = "row"
    """What int8 is. `row`: each vector times 127 / its largest magnitude. `calibrated`: every vector times `scale`, so
    that products of codes compare as products of vectors do. `tanh`: round(127 tanh(x)) of the state that is not yet
    scaled to unit length, and the model's vectors in float32 are these codes scaled to unit length: for models trained
    so (pplx-embed, arXiv:2602.11151, which writes the codes as they are)."""
    scale: float | None = None
    """`calibrated`: what `Embedder.calibrate` found for whole vectors; the first n of D dims take sqrt(n / D) of it."""

    def __post_init__(self) -> None:
        for name, allowed in {"pooling": POOLINGS, "codes": CODES}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", hint=f"allowed: {', '.join(allowed)}")
        for name in ("counts_prompt", "multi"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", hint="allowed: True, False")
        for name in ("query_masks", "document_masks"):
            count = getattr(self, name)
            if type(count) is not int or not 1 <= count <= MOST_MASKS:
                raise ConfigError(f"{name} is {count!r}", hint=f"allowed: 1 to {MOST_MASKS}")
        if self.multi and self.pooling != "masks":
            raise ConfigError(f"multi is for masks, and pooling is {self.pooling!r}", hint="use pooling='masks'")
        if (self.codes == "calibrated") != (self.scale is not None):
            raise ConfigError(
                f"codes is {self.codes!r} and scale {self.scale!r}", hint="Embedder.calibrate(texts) sets both"
            )
        if self.scale is not None and not (isinstance(self.scale, float) and 0 < self.scale < math.inf):
            raise ConfigError(f"scale is {self.scale!r}", hint="a positive number; Embedder.calibrate(texts) finds it")

    @property
    def is_linear(self) -> bool:
        """Whether a vector is a weighted sum of states, scaled: then a score splits over tokens."""
        return self.codes != "tanh" and not self.multi

    @property
    def is_mean(self) -> bool:
        """Whether each counted token of a text has a weight, so that a chunk of it has a vector too."""
        return self.pooling in ("mean", "weighted_mean")

    def num_masks(self, role: str | None) -> int:
        """Mask tokens behind a text of that role."""
        if self.pooling != "masks":
            return 0
        return self.query_masks if role == "query" else self.document_masks

    def num_vectors(self, role: str | None) -> int:
        """Vectors of a text of that role."""
        return self.num_masks(role) if self.multi else 1

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults; JSON values."""
        plain = asdict(Readout())
        return {key: value for key, value in asdict(self).items() if value != plain[key]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Readout":
        """Inverse of `to_dict`.

        Raises:
            ConfigError: There is no such readout.
        """
        if unknown := sorted(set(data) - set(asdict(cls()))):
            raise ConfigError(f"there is no {unknown[0]} in a readout", hint="upgrade diffembed")
        return cls(**data)


def masks(query: int = 1, document: int = 1, *, multi: bool | None = None) -> Readout:
    """DiffRetriever's readout: its best (query, document) are (4, 16) for Dream and (4, 4) for LLaDA.

    Its prompts are `diffembed.backbone.families.mask_prompts`.

    Args:
        query: Mask tokens behind a query.
        document: Mask tokens behind any other text.
        multi: A vector for each mask; when absent, if there is more than one.
    """
    multi = max(query, document) > 1 if multi is None else multi
    return Readout(pooling="masks", query_masks=query, document_masks=document, multi=multi)


def check_output(dims: int | None, precision: str, *, width: int) -> None:
    """Refuse dims and precisions that there are none of.

    Raises:
        ConfigError: dims is no whole number from 1 to the width, or the precision is unknown.
    """
    if dims is not None and (isinstance(dims, bool) or not isinstance(dims, int) or not 1 <= dims <= width):
        raise ConfigError(f"dims is {dims!r}", hint=f"allowed: 1 to {width}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}", hint=f"allowed: {', '.join(PRECISIONS)}")
