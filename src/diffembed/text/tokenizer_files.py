"""What lies beside or in place of tokenizer.json: names of special tokens, and vocab.json with merges.txt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer

from diffembed.configs import read_json
from diffembed.errors import CheckpointError

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
KINDS = ("pad", "eos", "mask")

# How Qwen2's tokenizer cuts words (transformers, `tokenization_qwen2.py`): ours but for digits, which stand alone.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Classes whose vocab and merges are Qwen2's. Others cut words another way.
QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json; empty where there is none.

    Raises:
        CheckpointError: It is damaged.
    """
    path = folder / TOKENIZER_CONFIG_FILE
    return read_json(path, CheckpointError) if path.is_file() else {}


def special_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by kind, from tokenizer_config.json, which spells them as strings or objects."""
    names = {}
    for kind in KINDS:
        token = config.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            names[kind] = token
    return names


def build_tokenizer(folder: Path, config: Mapping[str, Any]) -> RawTokenizer:
    """Make Qwen2's tokenizer of vocab.json, merges.txt and the added tokens of tokenizer_config.json.

    Args:
        folder: Where the files are.
        config: Content of its tokenizer_config.json.

    Raises:
        CheckpointError: A file is missing or damaged, or belongs to another kind of tokenizer.
    """
    vocab_path, merges_path = folder / VOCAB_FILE, folder / MERGES_FILE
    if not (vocab_path.is_file() and merges_path.is_file()):
        raise CheckpointError(
            f"{folder} has no {TOKENIZER_FILE}, and not both of {VOCAB_FILE} and {MERGES_FILE}",
            hint="point to a complete model folder",
        )
    if (kind := config.get("tokenizer_class")) not in QWEN2_CLASSES:
        raise CheckpointError(
            f"{folder} has {VOCAB_FILE} of a {kind}",
            hint=f"known: {', '.join(QWEN2_CLASSES)}; others: {TOKENIZER_FILE}",
        )
    vocab = read_json(vocab_path, CheckpointError)
    try:
        raw = RawTokenizer(models.BPE(vocab=vocab, merges=_read_merges(merges_path)))
    except Exception as error:  # the Rust side raises bare Exception
        raise CheckpointError(
            f"{vocab_path} and {MERGES_FILE} make no tokenizer: {error}", hint="copy them again"
        ) from None
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.post_processor = processors.ByteLevel(trim_offsets=False)
    raw.decoder = decoders.ByteLevel()
    _add_tokens(raw, config, folder)
    return raw


def _add_tokens(raw: RawTokenizer, config: Mapping[str, Any], folder: Path) -> None:
    """Add the tokens that training put behind the vocabulary, each under the id that it had there."""
    path = folder / TOKENIZER_CONFIG_FILE
    added = config.get("added_tokens_decoder", {})
    try:
        rows = sorted((int(number), token) for number, token in added.items())
        tokens = [
            (
                number,
                AddedToken(
                    token["content"],
                    single_word=token.get("single_word", False),
                    lstrip=token.get("lstrip", False),
                    rstrip=token.get("rstrip", False),
                    normalized=token.get("normalized", False),
                    special=token.get("special", False),
                ),
            )
            for number, token in rows
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has no usable `added_tokens_decoder`: {error}", hint="copy it again") from None
    for number, token in tokens:
        raw.add_special_tokens([token]) if token.special else raw.add_tokens([token])
        if raw.token_to_id(token.content) != number:
            raise CheckpointError(
                f"{path} gives {token.content!r} the id {number}, and its place is {raw.token_to_id(token.content)}",
                hint="the files must come from the same model",
            )


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint="copy it again") from None
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if not all(len(pair) == 2 for pair in pairs):
        raise CheckpointError(f"{path} has a line that is no pair", hint="copy it again")
    return pairs  # type: ignore[return-value]
