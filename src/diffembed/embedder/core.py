"""The public face: texts in, unit vectors out."""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffembed import hardware
from diffembed.backbone import DIRECTIONS, Backbone, Direction
from diffembed.backbone.adapter import Adapter
from diffembed.backbone.compact import pack_weights, unpack_weights
from diffembed.backbone.fused import FusedBackbone
from diffembed.backbone.legacy import LegacyBackbone
from diffembed.embedder import adapters, folder, golden
from diffembed.embedder.chunks import Chunk, ChunkLayout, Chunks, lay_out_chunks
from diffembed.embedder.chunks import batches as batches_of_chunks
from diffembed.embedder.explain import Explanation, TokenShare, check_texts, share_out
from diffembed.embedder.forecast import Forecast, forecast
from diffembed.embedder.layout import OVERFLOWS, Layout, Overflow, count, lay_out, read_chunks, sum_up
from diffembed.embedder.locate import fingerprint
from diffembed.embedder.model import Model
from diffembed.embedder.placement import number_format, place
from diffembed.embedder.reading import Batches, Reader
from diffembed.embedder.report import Encoded, Report
from diffembed.embedder.workers import Workers
from diffembed.errors import CheckpointError, ConfigError
from diffembed.readout.numbers import calibrate, to_precision
from diffembed.readout.spec import Precision, Readout, check_output
from diffembed.text.instructions import DEFAULT_PROMPTS, ROLES, Role
from diffembed.text.tokenizer import Tokenizer


class Embedder:
    """Turns texts into vectors of unit length with a backbone that reads each text on its own.

    A text's vector is the mean of its token states after the final norm, scaled to unit length. Its prompt is read
    but not counted; the EOS that ends it is. It doesn't depend on the other texts of a call. A special token written
    out in a text (`<|eos|>`) is read as that token, as sentence-transformers does. `with_readout` reads other states.

    Use `load` or `from_backbone` to make one.
    """

    def __init__(self, model: Model, *, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._dtype, self._device = dtype, device
        self._reader = Reader(cache(lambda: FusedBackbone(model.backbone, dtype=dtype, device=device)), model.readout)
        self._workers: Workers | None = None
        self._adapter: Adapter | None = None
        self._has_warned = False
        self.folder: Path | None = None
        """From which it was loaded; None for one that was made in memory."""
        self.fingerprint: str | None = None
        """Of that folder when it was loaded; see `diffembed.embedder.locate.fingerprint`."""
        self.last_report: Report | None = None
        """Of the latest `encode*` call. Use `embed` where several threads share an embedder."""

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str] = "builtin",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        direction: Direction | None = None,
        adapter: str | os.PathLike[str] | None = None,
        devices: Sequence[str | torch.device] | None = None,
    ) -> "Embedder":
        """Load a model; nothing but safetensors and JSON is read.

        Args:
            name: `builtin`, a folder, or a hub id (owner/name; needs the extra `hub`, and only then the network). The
                folder of an adapter stands for its base with the adapter in it.
            device: Where to compute; a GPU if there is one when absent.
            dtype: `float32` or `bfloat16`; when absent bf16 where the hardware multiplies it fast, else fp32.
            direction: Overrules the model's own: both, forward (causal) or backward.
            adapter: Folder or hub id of a LoRA adapter in the layout of `peft`, which is merged into the weights. It
                looks where it was trained to if we saved it; `peft` itself forgets that.
            devices: In place of `device`, several: a process on each, which share the texts of `embed` and `encode*`.
                One that dies is reported by a warning, and its texts are embedded again. Chunks and explanations are
                the business of this process, on the first of them. `close` ends the processes.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
            ConfigError: An argument, or a JSON file of the model, cannot be used.
            MissingExtraError: A hub id, and no hub client is installed.
        """
        if direction is not None and direction not in DIRECTIONS:
            raise ConfigError(f"direction is {direction!r}", hint=f"allowed: {', '.join(DIRECTIONS)}")
        if devices is not None and (device is not None or isinstance(devices, str) or not len(devices)):
            raise ConfigError(
                f"device is {device!r} and devices {devices!r}", hint='name one device, or a list: ["cuda:0", "cuda:1"]'
            )
        on = place(device if devices is None else devices[0])
        if on.type == "cpu":
            hardware.limit_threads()
        as_type = number_format(dtype, on)
        found, model, merged = adapters.load_with_adapter(name, adapter, direction)
        embedder = cls(model, dtype=as_type, device=on)
        if merged is None:
            embedder.folder, embedder.fingerprint = found, fingerprint(found)
        embedder._adapter = merged
        if devices is None:
            golden.replay(embedder, embedder._model.golden)
        else:  # each of them replays for itself
            embedder._workers = Workers(name, devices, dtype=dtype, direction=direction, adapter=adapter)
        return embedder

    def close(self) -> None:
        """End the processes of `devices`, if there are any; this embedder then computes by itself."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def from_backbone(
        cls,
        backbone: Backbone,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        prompts: Mapping[str, str] | None = None,
        trained: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> "Embedder":
        """Make an embedder of a backbone as it is now; training it further does not change the embedder.

        Args:
            backbone: Copied in fp32.
            tokenizer: Its tokenizer.
            max_tokens: Limit of a sequence, prompt and EOS included.
            prompts: By role; absent means ours (`<|query|>` before a query).
            trained: Facts about the training that travel with the model; JSON values.
            device: As for `load`.
            dtype: As for `load`.

        Raises:
            CheckpointError: The parts do not fit each other.
        """
        on = place(device)
        weights = {n: p.detach().to("cpu", torch.float32, copy=True) for n, p in backbone.named_parameters()}
        model = Model(
            backbone=Backbone.from_weights(backbone.config, weights).requires_grad_(False).eval(),
            tokenizer=tokenizer,
            prompts=dict(DEFAULT_PROMPTS if prompts is None else prompts),
            max_tokens=max_tokens,
            trained=dict(trained or {}),
        )
        return cls(model, dtype=number_format(dtype, on), device=on)

    def with_readout(
        self,
        readout: Readout | None = None,
        *,
        prompts: Mapping[str, str] | None = None,
        template: str | None = None,
    ) -> "Embedder":
        """The same model, read out another way; the weights are shared.

        Args:
            readout: Which states make a vector, and in which codes it is written; see `Readout` and `masks`. The
                model's own when absent.
            prompts: By role. Each stands before a text, or around it where it has a `{text}`. The model's own when
                absent.
            template: Stands around every text with its prompt, and has a `{text}`: that of a chat model
                (`diffembed.backbone.families`). The model's own when absent.

        Raises:
            CheckpointError: The model can't be read so: it has no mask token, or looks ahead only.
        """
        model = replace(
            self._model,
            readout=self._model.readout if readout is None else readout,
            prompts=self._model.prompts if prompts is None else dict(prompts),
            template=self._model.template if template is None else template,
            golden=(),
        )
        other = copy(self)
        other._model, other._reader = model, self._reader.reading(model.readout)
        other._has_warned, other.last_report = False, None
        if model != replace(self._model, golden=()):  # what lies in the folder is read another way
            other.folder = other.fingerprint = None
        return other

    def with_legacy_padding(self, batch_rows: int) -> "Embedder":
        """The same model, padded as DiffEmbed's published code pads: to repeat its numbers, and for nothing else.

        Padding stands on the left and is seen like any token, so a vector depends on the others of its batch. It is
        slower, and holds the weights once more. See `diffembed.backbone.legacy`.

        Args:
            batch_rows: Texts that go through the model together; they are sorted by their number of tokens.

        Raises:
            CheckpointError: The tokenizer has no padding token.
            ConfigError: The model looks one way only, or batch_rows is no number of texts.
        """
        if type(batch_rows) is not int or batch_rows < 1:
            raise ConfigError(f"batch_rows is {batch_rows!r}", hint="8 is usual")
        backbone, pad_id = self._model.backbone, self.tokenizer.pad_id
        engine = LegacyBackbone(backbone, pad_id, dtype=self.dtype, device=self.device)
        other = self.with_readout()
        other._reader, other._workers = Reader(lambda: engine, self.readout, batch_rows=batch_rows), None
        other.folder = other.fingerprint = None
        return other

    def calibrate(self, texts: Iterable[str], role: Role | None = "document") -> "Embedder":
        """The same model with one scale for all int8 codes, found on texts; `save` keeps it.

        Products of two such codes order texts as cosines do, in any store that compares int8 by products.

        Args:
            texts: A few hundred like those to be embedded.
            role: What they are.

        Raises:
            ConfigError: There is no text, or the model's vectors are codes already (pplx-embed).
        """
        if self.readout.codes == "tanh":
            raise ConfigError("this model's vectors are int8 codes by themselves", hint="use precision='int8'")
        scale = calibrate(self.embed(texts, role).vectors)
        return self.with_readout(replace(self.readout, codes="calibrated", scale=scale))

    @property
    def dims(self) -> int:
        """Length of a full vector."""
        return self._model.backbone.config.width

    @property
    def max_tokens(self) -> int:
        """Tokens read at a time, prompt and EOS included; what happens to longer texts is `overflow`."""
        return self._model.max_tokens

    @property
    def document_tokens(self) -> int:
        """Tokens of a document that are read at a time: the limit without prompt and suffix."""
        return self._model.frame("document").room(self.tokenizer.frame([""], *self._around("document", None))[0])

    @property
    def direction(self) -> Direction:
        return self._model.backbone.config.direction

    @property
    def readout(self) -> Readout:
        """Which states make a vector, and how it is written."""
        return self._model.readout

    @property
    def prompts(self) -> dict[str, str]:
        """By role."""
        return dict(self._model.prompts)

    @property
    def trained(self) -> dict[str, Any]:
        """Facts about the training, as they were saved."""
        return dict(self._model.trained)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    @property
    def dtype(self) -> torch.dtype:
        """In which the products run; pooling and vectors are fp32 always."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        return self._device

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Embedder(dims={self.dims}, max_tokens={self.max_tokens}, {self.direction}, {dtype} on {self.device})"

    def encode(
        self,
        texts: Iterable[str],
        dims: int | None = None,
        precision: Precision = "float32",
        overflow: Overflow = "window",
    ) -> NDArray[Any]:
        """Vectors of texts that have no role: no prompt. See `embed`."""
        return self._remember(self.embed(texts, role=None, dims=dims, precision=precision, overflow=overflow))

    def encode_query(
        self,
        texts: Iterable[str],
        instruction: str | None = None,
        dims: int | None = None,
        precision: Precision = "float32",
        overflow: Overflow = "window",
    ) -> NDArray[Any]:
        """Vectors of queries; `instruction` says what they ask for, in place of the model's own prompt. See `embed`."""
        return self._remember(
            self.embed(texts, "query", instruction=instruction, dims=dims, precision=precision, overflow=overflow)
        )

    def encode_document(
        self,
        texts: Iterable[str],
        dims: int | None = None,
        precision: Precision = "float32",
        overflow: Overflow = "window",
    ) -> NDArray[Any]:
        """Vectors of what is searched. See `embed`."""
        return self._remember(self.embed(texts, "document", dims=dims, precision=precision, overflow=overflow))

    def encode_chunks(self, document: str, chunk_tokens: int = 256) -> list[Chunk]:
        """A document's contextual chunks, in order; no text is left out. See `embed_chunks`."""
        chunks = self.embed_chunks(document, chunk_tokens)
        self.last_report = chunks.report
        return [Chunk(vector, *span) for vector, span in zip(chunks.vectors, chunks.spans, strict=True)]

    def embed(
        self,
        texts: Iterable[str],
        role: Role | None = "document",
        *,
        instruction: str | None = None,
        dims: int | None = None,
        precision: Precision = "float32",
        overflow: Overflow = "window",
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Encoded:
        """Turn texts into vectors and say what was done to them. Safe to call from several threads.

        Args:
            texts: Strings; a single one must be put in a list.
            role: What they are; None for no prompt.
            instruction: For queries, in place of the model's own prompt.
            dims: Keep the first dims, then scale to unit length again.
            precision: float32; float16; int8: each row times 127 / its largest magnitude, so that a row divided by its
                length is the vector again, unless the readout's `codes` say otherwise; binary: a bit per dimension,
                eight in a uint8 (np.packbits of vector > 0).
            overflow: What happens to a text over the limit. `window`: it is read in overlapping windows, and each token
                counts once, from the window where it stands farther from an edge. `truncate`: its beginning counts, and
                a warning is given once. `error`: DataError, for an empty text too.
            progress: Called now and then with the numbers of texts that are done and of all, None where that isn't
                known. What it raises ends the call.

        Returns:
            Vectors in the order of the texts, and the report. A readout with several vectors a text has (texts,
            vectors, dims); compare them by `diffembed.readout.numbers.maxsim`.

        Raises:
            ConfigError: An argument cannot be used.
            DataError: A text is no string, or in mode `error` empty or too long.
            CheckpointError: The model gave numbers that make no vector.
        """
        check_output(dims, precision, width=self.dims)
        if overflow not in OVERFLOWS:
            raise ConfigError(f"overflow is {overflow!r}", hint=f"allowed: {', '.join(OVERFLOWS)}")
        around, frame = self._around(role, instruction), self._model.frame(role)
        if self._workers is not None:
            encoded = self._workers.embed(
                texts,
                role,
                instruction=instruction,
                dims=dims,
                precision=precision,
                overflow=overflow,
                readout=self.readout,
                prompts=self.prompts,
                template=self._model.template,
                progress=progress,
            )
            self._warn_once(encoded.report)
            return encoded
        started = time.perf_counter()
        each = self.readout.num_vectors(role) if self.readout.multi else None
        layouts: list[Layout] = []
        nothing = np.empty((0, dims or self.dims) if each is None else (0, each, dims or self.dims), np.float32)
        parts = [to_precision(nothing, precision)]
        total = count(texts)
        for first, chunk in read_chunks(texts):
            layout = lay_out(self.tokenizer.frame(chunk, *around), frame, first=first, overflow=overflow)
            read = self._read(layout, first, total, progress)
            parts.append(self._reader.vectors(read, layout.texts, dims, precision, each=each, first=first))
            layout.pieces.clear()
            layouts.append(layout)
        report = sum_up(layouts, time.perf_counter() - started)
        self._warn_once(report)
        return Encoded(vectors=np.concatenate(parts), report=report)

    def _read(
        self, layout: Layout, first: int, total: int | None, progress: Callable[[int, int | None], None] | None
    ) -> Batches:
        done = first
        for batch in self._reader.batches(layout.pieces):
            yield [piece.ids for piece in batch], self._reader.count(batch)
            done += sum(piece.window.is_last for piece in batch)
            if progress is not None:
                progress(done, total)

    def estimate(self, texts: Sequence[str], role: Role | None = "document") -> Forecast:
        """What `embed` will take for texts: tokens, windows, seconds, memory. Some of the texts are embedded to know.

        Args:
            texts: All of them. They are cut into tokens, which takes a hundredth of the time of embedding.
            role: What they are.

        Raises:
            DataError: A text is no string.
        """
        layouts, lengths = [], []
        around, frame = self._around(role, None), self._model.frame(role)
        for first, chunk in read_chunks(texts):
            layout = lay_out(self.tokenizer.frame(chunk, *around), frame, first=first, overflow="window")
            lengths += [len(piece.ids) for piece in layout.pieces]
            layouts.append(layout)
        counts = sum_up(layouts, 0.0)
        return forecast(self, texts, role, counts, lengths)

    def embed_chunks(
        self,
        document: str,
        chunk_tokens: int = 256,
        *,
        headings: Sequence[int] = (),
        contextual: bool = True,
        dims: int | None = None,
    ) -> Chunks:
        """Cut a document into chunks and turn each into a vector. On a CPU the same document gives the same bits.

        Args:
            document: A text of any length. An empty one has no chunk; white space alone is text.
            chunk_tokens: Most tokens of a chunk, from 8 to what fits into `max_tokens` with prompt and EOS.
            headings: Characters where a section begins, ascending; a chunk ends there rather than elsewhere.
            contextual: The document is read as a whole, as `embed` reads it (in windows over the limit), and a chunk is
                the mean of its own tokens; the EOS counts for the last one. Otherwise `embed` reads each chunk alone.
            dims: Keep the first dims, then scale to unit length again.

        Returns:
            The chunks' spans in characters and vectors, and the report. A single chunk has the vector that `embed`
            gives to the document.

        Raises:
            ConfigError: An argument cannot be used.
            DataError: The document is no Unicode string.
            CheckpointError: The model gave numbers that make no vector.
        """
        [chunks] = self.embed_documents([(document, headings)], chunk_tokens, contextual=contextual, dims=dims)
        return chunks

    def embed_documents(
        self,
        documents: Sequence[tuple[str, Sequence[int]]],
        chunk_tokens: int = 256,
        *,
        contextual: bool = True,
        dims: int | None = None,
    ) -> list[Chunks]:
        """`embed_chunks` for several documents and their headings, with the same bits and faster where they are short.

        They go through the model together where that leaves every bit as it is, and on a GPU; else one by one.
        """
        check_output(dims, "float32", width=self.dims)
        if contextual and not self.readout.is_mean:
            raise ConfigError(
                f"contextual chunks are means of their tokens' states, and the readout is {self.readout.pooling!r}",
                hint="use contextual=False, or a readout that is a mean",
            )
        if self.readout.multi:
            raise ConfigError("the readout gives several vectors a text", hint="masks(..., multi=False) gives one")
        together = self._reader.engine.is_batch_exact or self.device.type != "cpu"
        size = len(documents) if together else 1
        chunks: list[Chunks] = []
        for start in range(0, len(documents), max(size, 1)):
            chunks += self._embed_together(documents[start : start + size], chunk_tokens, contextual, dims)
        return chunks

    def _embed_together(
        self, documents: Sequence[tuple[str, Sequence[int]]], chunk_tokens: int, contextual: bool, dims: int | None
    ) -> list[Chunks]:
        started = time.perf_counter()
        around, frame = self._around("document", None), self._model.frame("document")
        layouts = [
            lay_out_chunks(
                document,
                self.tokenizer,
                around=around,
                frame=frame,
                chunk_tokens=chunk_tokens,
                headings=headings,
            )
            for document, headings in documents
        ]
        if not contextual:
            return [self._embed_apart(text, layout, dims) for (text, _), layout in zip(documents, layouts, strict=True)]
        total = sum(len(layout.spans) for layout in layouts)
        read = batches_of_chunks(layouts, self.readout, self._reader.budget)
        vectors = self._reader.vectors(read, total, dims, "float32", unit="chunk")
        seconds = time.perf_counter() - started
        cuts = np.cumsum([len(layout.spans) for layout in layouts])[:-1]
        return [
            Chunks(spans=layout.spans, vectors=rows, report=layout.report(seconds * len(rows) / max(total, 1)))
            for layout, rows in zip(layouts, np.split(vectors, cuts), strict=True)
        ]

    def _embed_apart(self, document: str, layout: ChunkLayout, dims: int | None) -> Chunks:
        if not layout.spans:
            return Chunks(spans=[], vectors=np.empty((0, dims or self.dims), np.float32), report=layout.report(0.0))
        encoded = self.embed([document[start:end] for start, end in layout.spans], dims=dims)
        return Chunks(spans=layout.spans, vectors=encoded.vectors, report=encoded.report)

    def explain(
        self, query: str, document: str, *, instruction: str | None = None, centred: bool = False
    ) -> Explanation:
        """Split the score of a query and a document over their tokens: the document's, and another time the query's.

        A share is what is carried at a token's position, and not what the token caused: its state tells of the tokens
        around it too. The prompt is read and not counted, so it has no share; the EOS has one. A text over the limit is
        read in windows, and all of it is listed.

        Args:
            query: Read as `encode_query` reads it.
            document: Read as `encode_document` reads it.
            instruction: What the query asks for, in place of the model's own prompt.
            centred: Subtract from each share the mean of its text. What is left says where the score is above and
                below that, and adds up to 0.

        Returns:
            The cosine, and the tokens of both texts with their shares, which add up to it on each side.

        Raises:
            ConfigError: The instruction cannot be used, or the readout is not linear: codes by tanh, several vectors.
            DataError: A text is no Unicode string.
            CheckpointError: The model gave numbers that make no vector.
        """
        check_texts(query, document)
        if not self.readout.is_linear:
            found, way_out = "codes by tanh", "with_readout(Readout()) has none"
            if self.readout.multi:
                found, way_out = "several vectors a text", "with_readout(masks(..., multi=False)) gives one"
            raise ConfigError(f"a score splits over tokens of one mean, and this readout is {found}", hint=way_out)
        asked = self.embed([query], "query", instruction=instruction).vectors[0]
        found = self.embed([document]).vectors[0]

        def shares(text: str, role: Role, own: NDArray[np.float32], other: NDArray[np.float32]) -> list[TokenShare]:
            around = self._around(role, instruction if role == "query" else None)
            [framed] = self.tokenizer.frame([text], *around, spans=True)
            return share_out(text, framed, self._model.frame(role), own, other, reader=self._reader, centred=centred)

        return Explanation(
            score=float(asked @ found),
            query=shares(query, "query", asked, found),
            document=shares(document, "document", found, asked),
        )

    def save(self, path: str | os.PathLike[str], *, weights: folder.Weights = "float32") -> None:
        """Write a model folder, whole or not at all.

        sentence-transformers >= 6 loads it offline, without remote code, and gives the same vectors. Vectors of a few
        texts are written with it, so that any later copy can be checked.

        Args:
            path: A new or empty folder, or one that holds nothing but what `save` wrote, which is replaced.
            weights: `float32`, or `int8` for a quarter of the space, which only diffembed reads.

        Raises:
            CheckpointError: The folder holds something else or cannot be written, or no other library could tell the
                model's direction (backward).
            ConfigError: `weights` is unknown, or `path` is neither string nor path.
        """
        if weights not in folder.WEIGHTS:
            raise ConfigError(f"weights is {weights!r}", hint=f"allowed: {', '.join(folder.WEIGHTS)}")
        model = self._model
        if weights == "int8":  # the golden vectors are those of the weights that will be read back
            rounded = unpack_weights(pack_weights(dict(model.backbone.named_parameters())))
            model = replace(model, backbone=Backbone.from_weights(model.backbone.config, rounded).eval())
        exact = Embedder(model, dtype=torch.float32, device=torch.device("cpu"))
        folder.write_model(model, path, golden.make(exact), weights)

    def save_adapter(self, path: str | os.PathLike[str]) -> None:
        """Write the adapter that this embedder was loaded with, in the layout of `peft`, beside what it is part of.

        Args:
            path: A new or empty folder.

        Raises:
            CheckpointError: There is no adapter, or the folder holds something.
        """
        if self._adapter is None:
            raise CheckpointError("this embedder was loaded without an adapter", hint="use save")
        exact = Embedder(self._model, dtype=torch.float32, device=torch.device("cpu"))
        adapters.write_adapter(self._adapter, self._model, Path(path), golden.make(exact))

    def _around(self, role: Role | None, instruction: str | None) -> tuple[str, str]:
        """What stands before and behind a text."""
        if role is not None and role not in ROLES:
            raise ConfigError(f"role is {role!r}", hint=f"allowed: {', '.join(ROLES)}, None")
        if instruction is not None and role != "query":
            raise ConfigError(f"an instruction belongs to queries, and the role is {role}", hint="use encode_query")
        return self._model.around(role, instruction)

    def _remember(self, encoded: Encoded) -> NDArray[Any]:
        self.last_report = encoded.report
        return encoded.vectors

    def _warn_once(self, report: Report) -> None:
        if report.truncated and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{report.truncated} of {report.texts} texts were cut to {self.max_tokens} tokens; this is said once, "
                "the report counts them (overflow='window' would read all of each text)",
                stacklevel=4,
            )
