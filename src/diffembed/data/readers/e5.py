"""The Public E5 sub-sets, as the echo-embeddings collection lays them out."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from diffembed.data.examples import Example
from diffembed.data.readers.layouts import ROW_LAYOUTS
from diffembed.data.readers.parts import Part, Reading
from diffembed.data.sources import Row, read_rows, rows_file
from diffembed.errors import DataError

E5_ROWS = 8_000
"""First rows of each sub-set that the paper trains on (DiffEmbed `E5Data.py`)."""
_WIKIPEDIA = "Given a question, retrieve Wikipedia passages that answer the question"
E5_INSTRUCTIONS = {
    "allnli": (
        "Given a premise, retrieve a hypothesis that is entailed by the premise",
        "Retrieve semantically similar text",
    ),
    "eli5_question_answer": ("Provided a user question, retrieve the highest voted answers on Reddit ELI5 forum",),
    "fever": ("Given a claim, retrieve documents that support or refute the claim",),
    "hotpot_qa": ("Given a multi-hop question, retrieve documents that can help answer the question",),
    "miracl": (_WIKIPEDIA,),
    "mrtydi": (_WIKIPEDIA,),
    "msmarco_passage": ("Given a web search query, retrieve relevant passages that answer the query",),
    "msmarco_document": ("Given a web search query, retrieve relevant documents that answer the query",),
    "nq": (_WIKIPEDIA,),
    "quora_duplicates": (
        "Given a question, retrieve questions that are semantically equivalent to the given question",
        "Find questions that have the same meaning as the input question",
    ),
    "squad": ("Retrieve Wikipedia passages that answer the question",),
    "trivia_qa": ("Retrieve Wikipedia passages that answer the question",),
}
"""The paper's twelve sub-sets, file name -> what its queries are told (DiffEmbed `E5Data.py`, which has it from LLM2Vec
and E5-Mistral, arXiv 2401.00368). Where there are two, they take turns row by row. Queries alone get them: that code
means to put them before both sides of symmetric sets, but asks for file names which none of the twelve has."""
E5_CHINESE = {
    name: ("Given a Chinese search query, retrieve web passages that answer the question",)
    for name in ("dureader", "t2ranking")
}
"""Sub-sets of the collection that the paper leaves out."""


def e5_parts(folder: Path, *, whole: bool) -> list[Part]:
    """The sub-sets of a folder in the layout of the echo-embeddings collection: `NAME.jsonl` with rows
    `{query, positive, negative}`.

    Args:
        folder: May lack some of them.
        whole: Take all rows and the Chinese sub-sets; else what the paper takes.

    Raises:
        DataError: None of them is there.
    """
    wanted = E5_INSTRUCTIONS | E5_CHINESE if whole else E5_INSTRUCTIONS
    found = [(name, path) for name in wanted if (path := rows_file(folder, name))]
    if not found:
        raise DataError(f"none of the E5 sub-sets is in {folder}", hint=f"they are {', '.join(wanted)} (.jsonl)")
    return [
        Part(name, (path,), _e5_reader(name, path, wanted[name], None if whole else E5_ROWS)) for name, path in found
    ]


def is_e5(folder: Path) -> bool:
    """Whether all of the paper's sub-sets are there; with fewer, files of these names could be anyone's."""
    return all(rows_file(folder, name) for name in E5_INSTRUCTIONS)


def _e5_reader(
    name: str, path: Path, instructions: tuple[str, ...], num_rows: int | None
) -> Callable[[Reading], Iterator[Example]]:
    layout = ROW_LAYOUTS["rows"]

    def rows() -> Iterator[Row]:
        for number, row in enumerate(islice(read_rows(path), num_rows)):
            yield Row({**row.values, "instruction": instructions[number % len(instructions)]}, row.place)

    return lambda reading: reading.each(rows(), lambda row: [layout.example(row, name)])
