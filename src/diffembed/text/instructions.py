"""What stands before a text: the prompt of its role, or an instruction. Pooling skips it."""

from typing import Literal, get_args

from diffembed.errors import ConfigError
from diffembed.text.tokenizer import QUERY

Role = Literal["query", "document"]
ROLES: tuple[Role, ...] = get_args(Role)

# A prompt ends in an added special token with nothing after it. Then its tokens are the same with any text behind it,
# and other libraries, which count the tokens of the prompt alone, skip exactly those.
DEFAULT_PROMPTS: dict[str, str] = {"query": QUERY, "document": ""}


def instruction_prompt(instruction: str) -> str:
    """The prompt of a query with an instruction.

    Raises:
        ConfigError: The instruction is not a string, or no Unicode text.
    """
    if not isinstance(instruction, str):
        raise ConfigError(
            f"an instruction must be a string, got {type(instruction).__name__}", hint="say in a sentence what to find"
        )
    try:
        instruction.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "the instruction holds half a surrogate pair, which is no Unicode text",
            hint="decode its source with errors='replace'",
        ) from None
    return f"{instruction}{QUERY}"
