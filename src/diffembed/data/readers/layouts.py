"""Layouts of rows: which keys a row has, and the example that it makes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from diffembed.data.examples import Example
from diffembed.data.pairs import ready_pair
from diffembed.data.readers import fields
from diffembed.data.readers.fields import KIND, Keys
from diffembed.data.readers.files import EXTRA_CELLS, read_file
from diffembed.data.sources import Row
from diffembed.errors import DataError

SIMCSE = "simcse"
"""Kind of a text that is its own positive: the two differ by dropout only (SimCSE, arXiv 2104.08821)."""
SENTENCES = "sentence->sentence"
"""Kind of two texts of which neither asks."""
INSTRUCTION_NEGATIVES = 3
"""At most so many of a row's `new_negatives` are taken (DiffEmbed `MSMARCO.py`)."""
MSMARCO_INSTRUCTION = "Retrieve text based on user query"
"""Of every query of MS MARCO with instructions; what is wanted of the single one is part of the query itself."""
NUM_LOOKED_AT = 100
"""Rows of a file from which its layout is found."""

_ASKS = ("query", "anchor", "question", "sentence1")
_ANSWERS = ("positives", "positive", "answer", "sentence2")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLayout:
    """One way to write examples as rows."""

    name: str
    needs: Keys
    """A file is of the first layout of which it has a key out of each."""
    takes: Keys
    """Further keys that are read."""
    make: Callable[[Row, str], Example]
    """Gives the example of a row; takes the name of the source."""

    def example(self, row: Row, source: str) -> Example:
        """Make the example of a row.

        Raises:
            DataError: The row makes none; names its place.
        """
        if EXTRA_CELLS in row.values:
            raise DataError(
                f"{row.place}: there are more cells than columns: {str(row.values[EXTRA_CELLS])[:60]}",
                hint="quote cells that hold the separator, or write JSON lines",
            )
        fields.refuse_misspelt(row, self.needs + self.takes)
        return self.make(row, source)


def layout_of(path: Path) -> RowLayout:
    """Find the layout of a file by the keys of its first rows; one bad row doesn't hide it.

    Raises:
        DataError: The file has no row, or its rows are of no known layout.
    """
    error = DataError(f"{path} has no row", hint="remove the file, or fill it")
    for number, row in enumerate(islice(read_file(path), NUM_LOOKED_AT)):
        for layout in ROW_LAYOUTS.values():
            if layout.needs and all(set(names) & row.values.keys() for names in layout.needs):
                return layout
        if number == 0:
            error = _unknown(row)
    raise error


def _unknown(row: Row) -> DataError:
    hint = "see docs/data.md for the layouts that are read, or name one"
    for layout in ROW_LAYOUTS.values():
        found = fields.misspelt(tuple(row.values), layout.needs)
        if found:
            hint = f"did you mean `{found[1]}` by `{found[0]}`? Else {hint}"
            break
    keys = ", ".join(f"`{key}`" for key in list(row.values)[:12])
    return DataError(f"{row.place}: rows with the keys {keys or '(none)'} are of no known layout", hint=hint)


def _rows(row: Row, source: str) -> Example:
    query, positives = fields.text(row, *_ASKS), fields.texts(row, *_ANSWERS)
    label = fields.numbers(row, "label")
    if label not in (None, (1.0,)):
        raise DataError(
            f"{row.place}: the label {row.values['label']!r} says that its texts are no pair",
            hint="leave the row out; a teacher's grade belongs in `score`",
        )
    chunks = fields.texts(row, "chunks")
    is_symmetric = row.values.get("sentence1") is not None
    return fields.example(
        row,
        query=query,
        positives=positives,
        negatives=fields.texts(row, "negatives", "negative") + _numbered_negatives(row),
        source=fields.maybe_text(row, "source") or source,
        kind=fields.maybe_text(row, "kind") or (SENTENCES if is_symmetric else KIND),
        instruction=fields.maybe_text(row, "instruction", may_be_blank=True),  # blank: none, whatever the mix says
        topic=fields.maybe_text(row, "topic"),
        scores=fields.numbers(row, "scores", "score"),
        chunks=chunks or None,
    )


def _numbered_negatives(row: Row) -> tuple[str, ...]:
    found = sorted((int(match[1]), key) for key in row.values if (match := fields.NUMBERED.fullmatch(key)))
    return tuple(text for _, key in found if (text := fields.maybe_text(row, key)) is not None)


def _reasonaug(row: Row, source: str) -> Example:
    concepts = fields.texts(row, "instance")  # a string or a list of one
    return fields.example(
        row,
        query=fields.text(row, "user_query"),
        positives=fields.texts(row, "positive_document"),
        negatives=fields.texts(row, "hard_negative_document"),
        source=source,
        kind=fields.text(row, "task_type"),
        instruction=fields.text(row, "task"),
        topic=", ".join(concepts) or None,
    )


def _msmarco(row: Row, source: str) -> Example:
    new = fields.passages(row, "new_negatives")[:INSTRUCTION_NEGATIVES]
    example = fields.example(
        row,
        query=fields.text(row, "query"),
        positives=fields.passages(row, "positive_passages"),
        negatives=new + fields.passages(row, "negative_passages"),
        source=source,
        kind=KIND,
        instruction=MSMARCO_INSTRUCTION,
    )
    # The paper's loader takes the first positive. The others were there so that none of them was among the negatives.
    return replace(example, positives=example.positives[:1])


def _tevatron(row: Row, source: str) -> Example:
    return fields.example(
        row,
        query=fields.text(row, "query"),
        positives=fields.passages(row, "positive_passages"),
        negatives=fields.passages(row, "negative_passages"),
        source=source,
        kind=KIND,
    )


def _flagembedding(row: Row, source: str) -> Example:
    positives, negatives = fields.texts(row, "pos"), fields.texts(row, "neg")
    of_positives, of_negatives = fields.numbers(row, "pos_scores"), fields.numbers(row, "neg_scores")
    scores = None
    if of_positives is not None or of_negatives is not None:
        of_positives, of_negatives = of_positives or (), of_negatives or ()
        if (len(of_positives), len(of_negatives)) != (len(positives), len(negatives)):
            raise DataError(
                f"{row.place}: {len(of_positives)} `pos_scores` and {len(of_negatives)} `neg_scores` for "
                f"{len(positives)} `pos` and {len(negatives)} `neg`",
                hint="give one score for each text, or none at all",
            )
        scores = of_positives[:1] + of_negatives
    return fields.example(
        row,
        query=fields.text(row, "query"),
        positives=positives,
        negatives=negatives,
        source=source,
        kind=fields.maybe_text(row, "type") or KIND,
        instruction=fields.maybe_text(row, "prompt", may_be_blank=True),
        scores=scores,
    )


def _pairs(row: Row, source: str) -> Example:
    for key in ("q", "p"):
        row.filled(key)
    return ready_pair(row, source).example()


def _sentences(row: Row, source: str) -> Example:
    text = fields.text(row, "text", "sentence")
    return fields.example(row, query=text, positives=(text,), source=source, kind=SIMCSE)


_ALL = (
    RowLayout(
        name="reasonaug",
        needs=(("user_query",), ("positive_document",)),
        takes=(("hard_negative_document",), ("task",), ("task_type",), ("instance",)),
        make=_reasonaug,
    ),
    RowLayout(
        name="msmarco-instructions",
        needs=(("query",), ("positive_passages",), ("new_negatives", "only_instruction", "has_instruction")),
        takes=(("negative_passages",), ("new_negatives",)),
        make=_msmarco,
    ),
    RowLayout(
        name="tevatron",
        needs=(("query",), ("positive_passages",)),
        takes=(("negative_passages",),),
        make=_tevatron,
    ),
    RowLayout(
        name="flagembedding",
        needs=(("query",), ("pos",)),
        takes=(("neg",), ("pos_scores",), ("neg_scores",), ("prompt",), ("type",)),
        make=_flagembedding,
    ),
    RowLayout(name="pairs", needs=(("q",), ("p",)), takes=(("kind",),), make=_pairs),
    RowLayout(
        name="rows",
        needs=(_ASKS, _ANSWERS),
        takes=(("negatives", "negative"), ("scores", "score"), ("label",))
        + (("instruction",), ("kind",), ("topic",), ("chunks",), ("source",)),
        make=_rows,
    ),
    RowLayout(name="sentences", needs=(), takes=(("text", "sentence"),), make=_sentences),  # only when named
)
ROW_LAYOUTS = {layout.name: layout for layout in _ALL}
"""In the order in which they are looked for."""
