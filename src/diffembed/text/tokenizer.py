"""Strings <-> token ids, with Hugging Face's `tokenizers`: a BPE of our own, or that of another family."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Encoding, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer

from diffembed.errors import CheckpointError, ConfigError, DataError, DiffembedError
from diffembed.files import write_whole
from diffembed.text.tokenizer_files import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    build_tokenizer,
    read_tokenizer_config,
    special_names,
)

PAD, EOS, MASK, QUERY = "<|pad|>", "<|eos|>", "<|mask|>", "<|query|>"
SPECIAL_TOKENS = (PAD, EOS, MASK, QUERY)
OWN_NAMES = {"pad": PAD, "eos": EOS, "mask": MASK, "query": QUERY}

# Words with their leading space, runs of up to three digits, punctuation, white space: the cut that GPT-4 and Qwen made
# common. Short digit runs keep the table from filling up with numbers.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Framed(NamedTuple):
    """A text between what stands around it, as token ids."""

    before: list[int]
    ids: list[int]
    """Those that hold a character of the text."""
    after: list[int]
    spans: list[tuple[int, int]]
    """Characters [start, end) of the text that each of its tokens covers; empty where they were not asked for."""


class Tokenizer:
    """A tokenizer, its special tokens, and what it puts around every text.

    `encode` adds nothing: the caller's layout puts `prefix` before a text and its prompt, and `suffix` behind.

    Args:
        raw: The tokenizer. Its post-processor says what stands around a text.
        names: Special tokens by kind (`pad`, `eos`, `mask`, `query`); what is not named is ours if it is there.
    """

    def __init__(self, raw: RawTokenizer, names: Mapping[str, str] | None = None) -> None:
        raw.no_truncation()
        raw.no_padding()
        self.raw = raw
        self.names = {kind: token for kind, token in {**OWN_NAMES, **(names or {})}.items() if _has(raw, token)}
        """Special tokens by kind; those that there are."""
        self.prefix, self.suffix = _frame(raw)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn a byte-level BPE.

        Args:
            texts: Training text; read once.
            vocab_size: Size of the table, special tokens and the 256 bytes included.

        Raises:
            ConfigError: vocab_size cannot hold the bytes and the special tokens.
        """
        least = 256 + len(SPECIAL_TOKENS)
        if vocab_size < least:
            raise ConfigError(
                f"vocab_size must be at least {least} (bytes and special tokens), got {vocab_size}",
                hint="16,384 serves English",
            )
        raw = RawTokenizer(models.BPE())
        # NFC makes composed and decomposed accents the same text.
        raw.normalizer = normalizers.NFC()
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        raw.train_from_iterator(texts, trainer)
        # Every text ends in EOS, so that an empty one has a state too.
        eos_id = raw.token_to_id(EOS)
        raw.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, eos_id)])
        return cls(raw)

    @classmethod
    def load(cls, folder: Path | str, mask: str | None = None) -> "Tokenizer":
        """Read tokenizer.json from a model folder, or vocab.json and merges.txt where Qwen's relatives ship those.

        Args:
            folder: The model's.
            mask: Token that hides others if the files name none: LLaDA's don't.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        folder = Path(folder)
        config = read_tokenizer_config(folder)
        names = ({} if mask is None else {"mask": mask}) | special_names(config)
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            return cls(build_tokenizer(folder, config), names)
        try:
            return cls(RawTokenizer.from_file(str(path)), names)
        except (DiffembedError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the Rust side raises bare Exception, and BaseException when it panics
            raise CheckpointError(f"{path} is not a readable tokenizer: {error}", hint="restore the file") from None

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json`, then `tokenizer_config.json`; Hugging Face libraries read both."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TOKENIZER_FILE, self.raw.to_str(pretty=True))
        config = {
            # Any other class makes transformers 5 rebuild its own pre-tokeniser over ours.
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{kind}_token": token for kind, token in self.names.items() if kind != "query"},
            "additional_special_tokens": [token for kind, token in self.names.items() if kind == "query"],
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
        }
        write_whole(folder / TOKENIZER_CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    @property
    def pad_id(self) -> int:
        return self._id("pad")

    @property
    def eos_id(self) -> int:
        return self._id("eos")

    @property
    def mask_token_id(self) -> int:
        return self._id("mask")

    @property
    def query_id(self) -> int:
        return self._id("query")

    @property
    def stand_in(self) -> list[int]:
        """What is read in place of a text without tokens, where no suffix gives it a state."""
        return [] if self.suffix else self.filler

    @property
    def filler(self) -> list[int]:
        """A special token that stands for no text."""
        return [self._id(next((kind for kind in ("eos", "pad", "mask") if kind in self.names), "eos"))]

    def is_special(self, token_id: int) -> bool:
        """Whether a token is an added special one, which no text merges with."""
        token = self.raw.get_added_tokens_decoder().get(token_id)
        return token is not None and token.special

    @property
    def vocab_size(self) -> int:
        return self.raw.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without EOS.

        Raises:
            DataError: A text is not a string, or not valid Unicode.
        """
        return [encoding.ids for encoding in self._encode(texts)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of each text and the characters [start, end) that each token covers."""
        return [(encoding.ids, encoding.offsets) for encoding in self._encode(texts)]

    def frame(self, texts: Sequence[str], before: str = "", after: str = "", *, spans: bool = False) -> list[Framed]:
        """Token ids of texts with the same strings around each.

        Where those end and begin in special tokens, nothing merges with them. Otherwise each whole string is cut, as
        other libraries do, and a token that reaches over the seam belongs to the text.

        Args:
            texts: Strings.
            before: Stands before each of them.
            after: Stands behind.
            spans: Whether the tokens' characters are asked for.

        Raises:
            DataError: A text is not a string, or not valid Unicode.
        """
        [before_ids, after_ids] = self.encode([before, after])
        is_apart = not before_ids or self.is_special(before_ids[-1])
        if is_apart and (not after_ids or self.is_special(after_ids[0])):
            cuts = self._encode(texts)
            return [Framed(before_ids, cut.ids, after_ids, cut.offsets if spans else []) for cut in cuts]
        wholes = self._encode([f"{before}{text}{after}" if isinstance(text, str) else text for text in texts])
        return [
            _seams(cut, len(before), len(before) + len(text), spans) for cut, text in zip(wholes, texts, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""
        return self.raw.decode(list(ids), skip_special_tokens=False)

    def _encode(self, texts: Sequence[str]) -> list:
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"text {number} is {type(text).__name__}, not a string", hint="pass a list of strings")
        try:
            return self.raw.encode_batch(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            number = next(i for i, text in enumerate(texts) if not _is_unicode(text))
            raise DataError(
                f"text {number} holds half a surrogate pair, which is no Unicode text",
                hint="decode the source with errors='replace'",
            ) from None

    def find_id(self, kind: str) -> int | None:
        """The special token of a kind (`pad`, `eos`, `mask`, `query`), if there is one."""
        return self.raw.token_to_id(self.names[kind]) if kind in self.names else None

    def _id(self, kind: str) -> int:
        found = self.find_id(kind)
        if found is None:
            raise CheckpointError(
                f"the tokenizer has no {kind} token",
                hint="use a folder saved by diffembed, or of a family that has one",
            )
        return found


def _seams(cut: Encoding, start: int, stop: int, spans: bool) -> Framed:
    """Divide the tokens of a string in which a text stands from `start` to `stop`."""
    ids, offsets = cut.ids, cut.offsets
    first = next((number for number, (_, end) in enumerate(offsets) if end > start), len(ids))
    last = next((number for number in range(len(ids), first, -1) if offsets[number - 1][0] < stop), first)
    own = [(max(a, start) - start, min(b, stop) - start) for a, b in offsets[first:last]] if spans else []
    return Framed(ids[:first], ids[first:last], ids[last:], own)


def _has(raw: RawTokenizer, token: str) -> bool:
    return raw.token_to_id(token) is not None


def _frame(raw: RawTokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a text, as the post-processor has them."""
    framed = raw.encode("a", add_special_tokens=True)
    bare = raw.encode("a", add_special_tokens=False).ids
    for start in range(len(framed.ids) - len(bare) + 1):
        stop = start + len(bare)
        if framed.ids[start:stop] == bare and not any(framed.special_tokens_mask[start:stop]):
            return framed.ids[:start], framed.ids[stop:]
    raise CheckpointError("the tokenizer puts no plain frame around a text", hint="use one with a template of its own")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
