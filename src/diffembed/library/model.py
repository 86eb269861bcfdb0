"""The model of an index: found by the name that the index keeps, believed by its fingerprint, loaded when needed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffembed import builtin, hardware
from diffembed.backbone.config import Direction
from diffembed.backbone.families import from_hugging_face
from diffembed.embedder.locate import find, fingerprint
from diffembed.embedder.quick import QuickEncoder, Unsupported
from diffembed.errors import CheckpointError, ConfigError, IndexFormatError
from diffembed.index.shards import PRECISIONS, Precision
from diffembed.index.snapshot import Settings

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

CHUNK_TOKENS = 256


class LibraryModel:
    """Embeds queries and documents for an index.

    Queries go through the small engine that needs no torch, where it knows the model; documents through `Embedder`.

    Args:
        name: What `Embedder.load` takes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._embedder: Embedder | None = None
        self._quick: QuickEncoder | None = None
        self._is_known = False

    @classmethod
    def of(cls, model: "str | os.PathLike[str] | Embedder") -> "LibraryModel":
        """The model of that name, or the one that is loaded already.

        Raises:
            ConfigError: The embedder was made in memory, or looks another way than the model in its folder, so that no
                index could find it again.
        """
        if isinstance(model, str | os.PathLike):
            folder = find(model)
            if folder == builtin.FOLDER:
                return cls("builtin")
            return cls(str(folder.absolute()) if Path(model).is_dir() else str(model))
        if model.folder is None:
            raise ConfigError("the embedder is in no folder, so an index can't find it again", hint="save and load it")
        if model.direction != (own := _own_direction(model.folder)):
            raise ConfigError(
                f"the embedder looks {model.direction}, but the model in its folder {own}",
                hint="load it without a direction of your own",
            )
        named = cls.of(model.folder)
        named._embedder = model
        return named

    @classmethod
    def of_index(cls, settings: Settings, model: "str | os.PathLike[str] | Embedder | None") -> "LibraryModel":
        """The model of an index: `model` if that is it, else the one of the name that the index keeps.

        Raises:
            IndexFormatError: `model` is another one.
        """
        if model is None:
            return cls(settings.model)
        given = cls.of(model)
        given.expect(settings)
        return given

    @property
    def fingerprint(self) -> str:
        return fingerprint(find(self.name))

    def expect(self, settings: Settings) -> None:
        """See that this is the model whose vectors an index holds.

        Raises:
            IndexFormatError: It is another one.
        """
        if self._is_known:
            return
        try:
            found = self.fingerprint
        except CheckpointError as error:
            raise CheckpointError(
                f"the model of the index can't be found: {error.message}",
                hint="put it back, or search by words alone (--mode lexical)",
            ) from None
        if found != settings.fingerprint:
            raise IndexFormatError(
                f"the index holds vectors of another model than {self.name} is now "
                f"(fingerprint {settings.fingerprint}, not {found})",
                hint=f"use the model it was made with ({settings.model}), or index again into a new folder",
            )
        self._is_known = True

    @property
    def embedder(self) -> "Embedder":
        """The full engine; loaded on first use."""
        if self._embedder is None:
            from diffembed.embedder import Embedder

            hardware.limit_threads()
            self._embedder = Embedder.load(self.name)
        return self._embedder

    def queries(self, texts: Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
        """(texts, dims) unit vectors of questions."""
        if quick := self._open_quick():
            try:
                return quick.encode_query(list(texts), instruction)
            except Unsupported:  # one of them is too long for a single window
                pass
        return self.embedder.embed(texts, "query", instruction=instruction).vectors

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, dims) unit vectors of short texts that are searched."""
        if quick := self._open_quick():
            try:
                return quick.encode_document(list(texts))
            except Unsupported:
                pass
        return self.embedder.embed(texts, "document").vectors

    def _open_quick(self) -> QuickEncoder | None:
        if self._embedder is not None:  # loaded anyway, and faster
            return None
        if self._quick is None:
            try:
                self._quick = QuickEncoder.open(find(self.name))
            except Unsupported:
                _ = self.embedder
        return self._quick


def _own_direction(folder: Path) -> Direction:
    from diffembed.backbone.checkpoint import read_config  # brings torch, which whoever has an embedder has already

    return from_hugging_face(read_config(folder))[1].direction


def new_settings(
    model: LibraryModel, precision: Precision = "float16", chunk_tokens: int | None = None, contextual: bool = True
) -> Settings:
    """Settings of an index to be made; see `Index.create`.

    Raises:
        ConfigError: One of them can't be used.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}", hint=f"allowed: {', '.join(PRECISIONS)}")
    embedder = model.embedder
    if chunk_tokens is None:
        chunk_tokens = min(CHUNK_TOKENS, embedder.document_tokens)
    embedder.embed_chunks("", chunk_tokens)  # refuses a size that the model can't have
    return Settings(
        model=model.name,
        fingerprint=model.fingerprint,
        dims=embedder.dims,
        precision=precision,
        chunk_tokens=chunk_tokens,
        contextual=contextual,
    )
