"""Texts of a batch as the backbone reads them: exactly as the embedder that is saved will read them."""

from collections.abc import Sequence

import numpy as np
import torch

from diffembed.data.batches import Batch
from diffembed.data.mix import MixRow
from diffembed.embedder.chunks import ChunkLayout
from diffembed.embedder.layout import Frame, count_tokens
from diffembed.embedder.model import Model
from diffembed.errors import ConfigError, DataError
from diffembed.text.instructions import Role
from diffembed.text.tokenizer import Framed
from diffembed.text.windows import Window
from diffembed.training.gradcache import Laid


class Prompts:
    """Lays texts out for training: role's prompt or instruction, text, what the readout appends, EOS.

    Args:
        model: What is trained, with its tokenizer, prompts, template and readout.
        mix: Its rows have instructions and the limits of passages.
        query_tokens: Queries are cut to this, EOS included, prompt and mask tokens not; passages likewise.
        instruction_share: Part of the queries that carry their instruction; the others have the model's own prompt.
    """

    def __init__(self, model: Model, mix: Sequence[MixRow], *, query_tokens: int, instruction_share: float) -> None:
        self.model, self.mix = model, mix
        self.query_tokens, self.instruction_share = query_tokens, instruction_share

    def check_fit(self) -> None:
        """Refuse a mix whose longest texts the model has no room for.

        Raises:
            ConfigError: Queries or passages may get too long.
        """
        for row in self.mix:
            if (needed := self._needed(row)) > self.model.max_tokens:
                raise ConfigError(
                    f"the mix row {row.source} {row.kind} needs {needed} tokens, and max_tokens is "
                    f"{self.model.max_tokens}",
                    hint="lower query_tokens or the row's passage_tokens, shorten the instruction, or set max_tokens",
                )

    def apply(self, batch: Batch, generator: torch.Generator) -> list[Laid]:
        """All queries of a batch, then its passages, then the negatives of each query.

        Args:
            batch: Its texts, and the row of the mix that they belong to.
            generator: Draws which queries carry the instruction.

        Raises:
            ConfigError: An instruction of the data leaves no room for a query.
            DataError: A document's chunk has no token of its own.
        """
        row = self.mix[batch.group.row]
        instruction = (row.instruction if batch.group.instruction is None else batch.group.instruction) or None
        is_told = (torch.rand(len(batch.queries), generator=generator) < self.instruction_share).tolist()
        told, plain = (
            iter(
                self.lay_out(
                    [query for query, carries in zip(batch.queries, is_told, strict=True) if carries == wanted],
                    "query",
                    instruction if wanted else None,
                    self.query_tokens,
                )
            )
            for wanted in (True, False)
        )
        queries = [next(told if carries else plain) for carries in is_told]
        if batch.chunks is None:
            return [*queries, *self.lay_out(batch.candidates, "document", None, row.passage_tokens)]
        documents = zip(batch.chunks, batch.passages, strict=True)
        return [*queries, *(self._lay_out_chunks(chunks, own, row.passage_tokens) for chunks, own in documents)]

    def lay_out(
        self, texts: Sequence[str], role: Role, instruction: str | None = None, limit: int | None = None
    ) -> list[Laid]:
        """Texts of one role, cut to a limit; None: to what the model reads.

        Raises:
            ConfigError: The instruction leaves no room for them.
        """
        if not texts:
            return []
        frame = self.model.frame(role)
        framed = self.model.tokenizer.frame(texts, *self.model.around(role, instruction))
        room = self.model.max_tokens - self._num_around(frame, framed[0])
        limit = room if limit is None else limit
        if limit > room:
            raise ConfigError(
                f"the instruction {str(instruction)[:60]!r} takes {self._num_around(frame, framed[0])} tokens and "
                f"leaves no room for {limit}",
                hint="lower query_tokens, or shorten it in the data",
            )
        vectors, shift = self.model.readout.num_vectors(role), self.model.backbone.config.logit_shift
        laid = []
        for text in framed:
            text = text._replace(ids=text.ids[: self._room(limit)])
            piece = frame.piece(0, text, _whole(len(text.ids or frame.stand_in)))
            counted = count_tokens([piece], self.model.readout, looks_before=shift)
            laid.append(Laid(piece.ids, counted.rows_T, vectors))
        return laid

    def _lay_out_chunks(self, chunks: Sequence[str], answer: str, limit: int) -> Laid:
        """A document in pieces; what doesn't fit is left out at its end, and before that at its beginning if the piece
        that answers would not be read otherwise.
        """
        own, room = chunks.index(answer), self._room(limit)
        counts = np.bincount(self._chunk_numbers(self._framed(chunks), chunks), minlength=len(chunks))
        first = 0
        while first < own and counts[first : own + 1].sum() > room:
            first += 1
        kept = chunks[first:]
        text = self._framed(kept)
        present, chunks_T = np.unique(self._chunk_numbers(text, kept)[:room], return_inverse=True)
        if own - first not in present:
            raise DataError(f"the chunk {answer[:60]!r} has no token of its own", hint="join it with one beside it")
        text, frame = text._replace(ids=text.ids[:room], spans=[]), self.model.frame("document")
        layout = ChunkLayout(spans=[(0, 0)] * len(present), text=text, frame=frame, chunks_T=chunks_T, windows=[])
        piece = layout.piece(_whole(len(text.ids)))
        rows = layout.rows(piece, count_tokens([piece], self.model.readout, looks_before=False), 0)
        return Laid(piece.ids, rows, len(present), int(present.searchsorted(own - first)))

    def _framed(self, chunks: Sequence[str]) -> Framed:
        return self.model.tokenizer.frame(["".join(chunks)], *self.model.around("document"), spans=True)[0]

    def _chunk_numbers(self, text: Framed, chunks: Sequence[str]) -> np.ndarray:
        """A token belongs to the chunk that it begins in, as `embedder.chunks` has it."""
        starts_C = np.cumsum([0, *(len(chunk) for chunk in chunks[:-1])])
        return starts_C.searchsorted([start for start, _ in text.spans], "right") - 1

    def _room(self, limit: int) -> int:
        return max(1, limit - len(self.model.tokenizer.suffix))

    def _needed(self, row: MixRow) -> int:
        """Tokens of the longest text of a row, with all that stands around it."""
        roles: list[tuple[Role, str | None, int]] = [
            ("query", row.instruction or None, self.query_tokens),
            ("query", None, self.query_tokens),
            ("document", None, row.passage_tokens),
        ]
        tokenizer = self.model.tokenizer
        return max(
            limit + self._num_around(self.model.frame(role), tokenizer.frame([""], *self.model.around(role, told))[0])
            for role, told, limit in roles
        )

    @staticmethod
    def _num_around(frame: Frame, text: Framed) -> int:
        """Tokens around a text, the suffix aside: the limits count that."""
        return len(frame.prefix) + len(text.before) + len(text.after) + len(frame.masks)


def _whole(num_tokens: int) -> Window:
    return Window(0, num_tokens, 0, num_tokens, True)
