"""The model of an index: found by the name that the index keeps, believed by its fingerprint, loaded when needed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffembed import builtin, hardware
from diffembed.backbone.config import Direction
from diffembed.backbone.config_files import from_hugging_face
from diffembed.embedder.locate import check_model, find, fingerprint
from diffembed.embedder.quick import QuickEncoder, Unsupported
from diffembed.errors import CheckpointError, ConfigError, IndexFormatError
from diffembed.index.settings import Settings
from diffembed.index.shards import PRECISIONS, Precision
from diffembed.text.chunking import check_chunk_tokens

if TYPE_CHECKING:
    from diffembed.embedder import Embedder

CHUNK_TOKENS = 256
BUILTIN = "builtin"


class LibraryModel:
    """Embeds queries and documents for an index.

    Queries go through the small engine that needs no torch, where it knows the model; documents through `Embedder`.

    Args:
        name: `builtin`, or the folder of the model.
        dtype: In which it makes the vectors of documents; what suits the machine when absent.
    """

    def __init__(self, name: str, dtype: str | None = None) -> None:
        self.name = name
        self._dtype = dtype
        self._embedder: Embedder | None = None
        self._quick: QuickEncoder | None = None
        self._expected: Settings | None = None

    @classmethod
    def of(cls, model: "str | os.PathLike[str] | Embedder") -> "LibraryModel":
        """The model of that name, or the one that is loaded already.

        Of a hub id the folder that it was downloaded to is kept, so that an index asks no network and sees no other
        revision.

        Raises:
            CheckpointError: There is no such model.
            ConfigError: The embedder was made in memory, or looks another way than the model in its folder, so that no
                index could find it again.
        """
        if isinstance(model, str | os.PathLike):
            folder = find(model).resolve()
            if folder == builtin.FOLDER.resolve():
                return cls(BUILTIN)
            check_model(folder)
            return cls(str(folder))
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
            IndexFormatError: `model` is another one, or the index names none that we would.
        """
        if model is None:
            # Anything else was not written by us, and a name with a slash would be asked for on the network.
            if settings.model != BUILTIN and not os.path.isabs(settings.model):
                raise IndexFormatError(
                    f"the index says that its model is {settings.model!r}, which is neither `{BUILTIN}` nor a folder",
                    hint="the index is damaged or from elsewhere; name the model (--model) if you trust it",
                )
            return cls(settings.model, settings.dtype)
        given = cls.of(model)
        given.expect(settings)
        given._dtype = settings.dtype
        return given

    @property
    def fingerprint(self) -> str:
        """Of the model that is loaded, or else of the folder as it is now."""
        if self._embedder is not None and self._embedder.fingerprint is not None:
            return self._embedder.fingerprint
        return fingerprint(find(self.name))

    def expect(self, settings: Settings) -> None:
        """See that this is the model whose vectors an index holds.

        Raises:
            IndexFormatError: It is another one.
        """
        if self._expected == settings:
            return
        try:
            found = self.fingerprint
        except CheckpointError as error:
            raise CheckpointError(
                f"the model of the index can't be found: {error.message}",
                hint="put it back, or search by words alone (--mode lexical)",
            ) from None
        self._compare(found, settings)
        self._expected = settings

    def expect_for_documents(self, settings: Settings) -> None:
        """See that this model makes the vectors of documents as those of an index were made.

        Raises:
            ConfigError: It computes in another number format.
            IndexFormatError: It is another model.
        """
        self.expect(settings)
        if self._embedder is not None and (own := _name(self._embedder.dtype)) != settings.dtype:
            raise ConfigError(
                f"the vectors of the index were made in {settings.dtype}, and the embedder computes in {own}",
                hint=f"load it with dtype={settings.dtype!r}, or give its folder instead",
            )

    @property
    def embedder(self) -> "Embedder":
        """The full engine; loaded on first use.

        Raises:
            IndexFormatError: The model has changed since it was looked at.
        """
        if self._embedder is None:
            from diffembed.embedder import Embedder

            hardware.limit_threads()
            loaded = Embedder.load(self.name, dtype=self._dtype)
            if self._expected is not None:
                self._compare(loaded.fingerprint, self._expected)
            self._embedder = loaded
        return self._embedder

    def _compare(self, found: str | None, settings: Settings) -> None:
        if found != settings.fingerprint:
            raise IndexFormatError(
                f"the index holds vectors of another model than {self.name} is now "
                f"(fingerprint {settings.fingerprint}, not {found})",
                hint=f"use the model it was made with ({settings.model}), or index again into a new folder",
            )

    def queries(self, texts: Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
        """(texts, dims) unit vectors of questions."""
        return self._embed(lambda engine: engine.encode_query(list(texts), instruction))

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, dims) unit vectors of short texts that are searched."""
        return self._embed(lambda engine: engine.encode_document(list(texts)))

    def _embed(self, encode: "Callable[[QuickEncoder | Embedder], NDArray[np.float32]]") -> NDArray[np.float32]:
        if quick := self._open_quick():
            try:
                return encode(quick)
            except Unsupported:  # a text is too long for a single window
                pass
        return encode(self.embedder)

    def _open_quick(self) -> QuickEncoder | None:
        if self._embedder is not None:  # loaded anyway, and faster
            return None
        if self._quick is None:
            try:
                quick = QuickEncoder.open(find(self.name))
            except Unsupported:
                _ = self.embedder
            else:
                # Once more, now that it is read: the folder may hold another model than when the index was opened.
                if self._expected is not None:
                    self._compare(fingerprint(find(self.name)), self._expected)
                self._quick = quick
        return self._quick


def _own_direction(folder: Path) -> Direction:
    from diffembed.backbone.checkpoint import read_config  # brings torch, which whoever has an embedder has already

    return from_hugging_face(read_config(folder))[1].direction


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def check_settings(precision: str, chunk_tokens: int | None) -> None:
    """Refuse what no index can be made of, before anything is read or loaded.

    Raises:
        ConfigError: The precision is unknown, or the size of chunks none.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}", hint=f"allowed: {', '.join(PRECISIONS)}")
    if chunk_tokens is not None:
        check_chunk_tokens(chunk_tokens)


def new_settings(
    model: LibraryModel, precision: Precision = "float16", chunk_tokens: int | None = None, contextual: bool = True
) -> Settings:
    """Settings of an index to be made, for which the model is loaded; the others went through `check_settings`.

    Raises:
        ConfigError: The model can't read chunks of that size.
    """
    embedder = model.embedder
    if chunk_tokens is None:
        chunk_tokens = min(CHUNK_TOKENS, embedder.document_tokens)
    check_chunk_tokens(chunk_tokens, embedder.document_tokens)
    return Settings(
        model=model.name,
        fingerprint=model.fingerprint,
        dtype=_name(embedder.dtype),
        dims=embedder.dims,
        precision=precision,
        chunk_tokens=chunk_tokens,
        contextual=contextual,
    )
