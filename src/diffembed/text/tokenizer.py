"""Strings <-> token ids, for the tokenizers that Hugging Face's `tokenizers` library reads."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as RawTokenizer

from diffembed.errors import CheckpointError, ConfigError, DataError
from diffembed.files import write_whole

PAD, EOS, MASK, QUERY = "<|pad|>", "<|eos|>", "<|mask|>", "<|query|>"
SPECIAL_TOKENS = (PAD, EOS, MASK, QUERY)

# Words with their leading space, runs of up to three digits, punctuation, white space: the cut that GPT-4 and Qwen made
# common. Short digit runs keep the table from filling up with numbers.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"


class Tokenizer:
    """A byte-level BPE with our four special tokens; `encode` adds none of them, the caller's layout does."""

    def __init__(self, raw: RawTokenizer) -> None:
        raw.no_truncation()
        raw.no_padding()
        self.raw = raw
        ids = [self._special_id(token) for token in SPECIAL_TOKENS]
        self.pad_id, self.eos_id, self.mask_token_id, self.query_id = ids

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
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read `tokenizer.json` from a model folder.

        Raises:
            CheckpointError: The file is missing, damaged, or lacks one of our special tokens.
        """
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(f"{folder} has no {TOKENIZER_FILE}", hint="point to a complete model folder")
        try:
            raw = RawTokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise CheckpointError(f"{path} is not a readable tokenizer: {error}", hint="restore the file") from None
        return cls(raw)

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json`, then `tokenizer_config.json`; Hugging Face libraries read both."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TOKENIZER_FILE, self.raw.to_str(pretty=True))
        config = {
            # Any other class makes transformers 5 rebuild its own pre-tokeniser over ours.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "eos_token": EOS,
            "mask_token": MASK,
            "additional_special_tokens": [QUERY],
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
        }
        write_whole(folder / TOKENIZER_CONFIG_FILE, json.dumps(config, indent=2) + "\n")

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

    def _special_id(self, token: str) -> int:
        token_id = self.raw.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no {token} token", hint="use a folder saved by diffembed")
        return token_id


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
