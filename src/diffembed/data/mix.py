"""Which examples a training draws, how often, and with what instruction."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffembed.errors import ConfigError

ANY = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class MixRow:
    """What a training does with the examples of one source and kind."""

    source: str
    """Name of the source, or `*`. An example belongs to the first row that fits it."""
    kind: str
    """Kind of example, or `*`. Kinds never share a batch; they share the row's weight by their number of examples."""
    weight: float
    """Share of the batches, relative to the other rows' sum."""
    instruction: str
    """Says to the model what the query asks for; may be empty. An example's own comes before it."""
    passage_tokens: int
    """Passages are cut to this, EOS included."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(
                f"weight must be positive, got {self.weight} for {self.source} {self.kind}", hint="leave out the row"
            )
        if self.passage_tokens < 2:
            raise ConfigError(
                f"passage_tokens must be at least 2, got {self.passage_tokens}", hint="96 to 512 is usual"
            )

    def fits(self, source: str, kind: str) -> bool:
        return self.source in (ANY, source) and self.kind in (ANY, kind)


@dataclass(frozen=True, slots=True)
class Group:
    """The examples of one source, kind and instruction: those that may share a batch.

    Attributes:
        row: Number of its row of the mix.
        source: As in `Example`.
        kind: As in `Example`.
        instruction: As in `Example`.
    """

    row: int
    source: str
    kind: str
    instruction: str | None = None

    def __str__(self) -> str:
        return f"{self.source} {self.kind}" + (f": {self.instruction}" if self.instruction else "")


def find_row(mix: Sequence[MixRow], source: str, kind: str) -> int | None:
    """Number of the first row that fits, or None where none does."""
    return next((number for number, row in enumerate(mix) if row.fits(source, kind)), None)
