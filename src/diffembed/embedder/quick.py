"""Vectors of a few short texts without torch: a search from the command line is answered before torch is imported."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffembed.backbone.config import DIRECTIONS, Direction
from diffembed.backbone.quick import QuickBackbone, Unsupported
from diffembed.embedder.golden import LEAST_COSINE, LEAST_NORM
from diffembed.embedder.sidecar import SIDECAR_FILE, check_digests, read_golden, read_readout, read_sidecar
from diffembed.errors import ConfigError, DataError, DiffembedError
from diffembed.readout.spec import Readout
from diffembed.text.instructions import ROLES, TEXT_SLOT, instruction_prompt
from diffembed.text.tokenizer import Tokenizer
from diffembed.text.tokenizer_files import TOKENIZER_FILE

__all__ = ["QuickEncoder", "Unsupported"]

# Tokens that are computed at a time, and in a text at most: they bound the memory.
BATCH_TOKENS = 2_048


class QuickEncoder:
    """Gives the vectors of an `Embedder` in fp32 on the CPU, for short texts and small models, with numpy alone.

    Whatever it cannot do it refuses with `Unsupported`; an `Embedder` of the same folder then does it, or says what is
    wrong.

    Use `open` to make one.
    """

    def __init__(
        self, backbone: QuickBackbone, tokenizer: Tokenizer, *, prompts: Mapping[str, str], max_tokens: int
    ) -> None:
        self._backbone = backbone
        self._tokenizer = tokenizer
        self._prompts = dict(prompts)
        self._max_tokens = max_tokens

    @classmethod
    def open(cls, folder: Path, direction: Direction | None = None) -> "QuickEncoder":
        """Read a folder that `Embedder.save` wrote, and replay the first text whose vector was saved with it.

        Args:
            folder: As `diffembed.embedder.locate.find` gives it.
            direction: Overrules the model's own, after the replay.

        Raises:
            ConfigError: There is no such direction.
            Unsupported: The folder is no such one, or damaged; its weights are neither fp32 nor our int8, or too large;
                or numpy gives another vector than the saved one.
        """
        if direction is not None and direction not in DIRECTIONS:
            raise ConfigError(f"direction is {direction!r}", hint=f"allowed: {', '.join(DIRECTIONS)}")
        backbone = QuickBackbone.open(folder)
        try:
            tokenizer = Tokenizer.load(folder)
            sidecar = read_sidecar(folder / SIDECAR_FILE, backbone.config)
            check_digests(folder, sidecar, [TOKENIZER_FILE, backbone.weights_file])
            golden = read_golden(folder / SIDECAR_FILE, sidecar)
            prompts, max_tokens = sidecar["prompts"], sidecar.get("max_tokens", 0)
            readout, template = read_readout(folder / SIDECAR_FILE, sidecar)
            if replace(readout, codes="row", scale=None) != Readout() or readout.codes == "tanh":
                raise Unsupported(f"{folder / SIDECAR_FILE} asks for another readout than the mean")
            if not golden or template != TEXT_SLOT or not _do_fit(backbone, tokenizer, prompts, max_tokens):
                raise Unsupported(f"{folder / SIDECAR_FILE} does not fit the model, or holds no vector to replay")
            encoder = cls(backbone, tokenizer, prompts=prompts, max_tokens=max_tokens)
            role, text, vector = golden[0]
            encoder._replay(text, prompts.get(role, ""), vector)
        except (DiffembedError, OSError) as error:
            raise Unsupported(f"{folder} cannot be used: {error}") from None
        if direction is not None:
            backbone.look(direction)
        return encoder

    @property
    def dims(self) -> int:
        """Length of a vector."""
        return self._backbone.config.width

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text, prompt and EOS included."""
        return min(self._max_tokens, BATCH_TOKENS)

    @property
    def direction(self) -> Direction:
        return self._backbone.config.direction

    def encode_query(self, texts: list[str], instruction: str | None = None) -> NDArray[np.float32]:
        """Vectors of queries.

        Args:
            texts: Strings.
            instruction: What they ask for, in place of the model's own prompt.

        Returns:
            (texts, dims) unit rows.

        Raises:
            ConfigError: The instruction is no text.
            DataError: A text is no string, or no Unicode.
            Unsupported: A text is too long, or the model gives no finite vector for it.
        """
        prompt = self._prompts.get("query", "") if instruction is None else instruction_prompt(instruction)
        return self._encode(texts, prompt)

    def encode_document(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors of what is searched. See `encode_query`."""
        return self._encode(texts, self._prompts.get("document", ""))

    def _encode(self, texts: list[str], prompt: str) -> NDArray[np.float32]:
        if not isinstance(texts, list):
            raise DataError(
                f"texts must be a list of strings, got {type(texts).__name__}",
                hint="pass a list of strings, [text] for one text",
            )
        before = self._tokenizer.encode([prompt])[0]
        sequences = [[*before, *ids, *self._tokenizer.suffix] for ids in self._tokenizer.encode(texts)]
        # Room for one token of text must be left, even if there is none in it.
        longest = max([len(before) + 2, *map(len, sequences)])
        if longest > self.max_tokens:
            raise Unsupported(f"a text has {longest} tokens with prompt and EOS, the limit is {self.max_tokens}")
        means_ND = np.zeros((len(texts), self.dims), dtype=np.float32)
        for rows in _batches([len(each) for each in sequences]):
            states_TD = self._backbone(sequences[rows])
            start = 0
            for row in range(rows.start, rows.stop):
                stop = start + len(sequences[row])
                means_ND[row] = states_TD[start + len(before) : stop].mean(axis=0)
                start = stop
        return _unit_rows(means_ND)

    def _replay(self, text: str, prompt: str, vector: Sequence[float]) -> None:
        with np.errstate(all="ignore"):  # a damaged file may say 1e300
            cosine = float(self._encode([text], prompt)[0] @ np.array(vector, dtype=np.float32))
        if not cosine >= LEAST_COSINE:
            raise Unsupported(f"numpy gives another vector than was saved for {text!r} (cosine {cosine:.3f})")


def _do_fit(backbone: QuickBackbone, tokenizer: Tokenizer, prompts: Mapping[str, Any], max_tokens: Any) -> bool:
    """Whether the parts are such that an `Embedder` could be made of them."""
    config = backbone.config
    if "query" not in tokenizer.names or tokenizer.prefix or len(tokenizer.suffix) != 1:  # not one of ours
        return False
    if tokenizer.vocab_size > config.vocab_size or not set(prompts) <= set(ROLES):
        return False
    if type(max_tokens) is not int or not 2 < max_tokens <= config.max_positions:
        return False
    if any(isinstance(prompt, str) and TEXT_SLOT in prompt for prompt in prompts.values()):
        return False
    for ids in tokenizer.encode(list(prompts.values())):
        if len(ids) > max_tokens - 2 or (ids and not tokenizer.is_special(ids[-1])):
            return False
    return True


def _batches(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbouring texts of at most BATCH_TOKENS tokens together."""
    start, total = 0, 0
    for stop, length in enumerate(lengths):
        if total + length > BATCH_TOKENS:
            yield slice(start, stop)
            start, total = stop, 0
        total += length
    if lengths:
        yield slice(start, len(lengths))


def _unit_rows(means_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        norms_N = np.linalg.norm(means_ND, axis=1, keepdims=True)
    if not (np.isfinite(norms_N) & (norms_N > LEAST_NORM)).all():
        raise Unsupported("the model gives no finite vector with a direction")
    return means_ND / norms_N
