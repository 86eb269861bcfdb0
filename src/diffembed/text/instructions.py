"""What stands around a text: the prompt of its role or an instruction, and the template of a chat model."""

from typing import Literal, get_args

from diffembed.errors import ConfigError
from diffembed.text.tokenizer import QUERY

Role = Literal["query", "document"]
ROLES: tuple[Role, ...] = get_args(Role)

# A prompt ends in an added special token with nothing after it. Then its tokens are the same with any text behind it,
# and other libraries, which count the tokens of the prompt alone, skip exactly those.
DEFAULT_PROMPTS: dict[str, str] = {"query": QUERY, "document": ""}


# Where the slot is, the text goes; a prompt without one stands before the text.
TEXT_SLOT = "{text}"
# Where the slot is, the instruction goes.
SLOT = "{instruction}"
OWN_FORMAT = f"{SLOT}{QUERY}"
# For models of other families, which have no such token: as DiffEmbed and LLM2Vec put it before a query.
FOREIGN_FORMAT = f"{SLOT} "


def instruction_prompt(instruction: str, layout: str = OWN_FORMAT) -> str:
    """The prompt of a query with an instruction.

    Args:
        instruction: What the query asks for.
        layout: What stands around it, with a slot.

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
    return layout.replace(SLOT, instruction)


def around(template: str, prompt: str, instruction: str | None = None, layout: str = OWN_FORMAT) -> tuple[str, str]:
    """What stands before a text and what behind.

    Args:
        template: Stands around everything; has one TEXT_SLOT.
        prompt: Of the text's role; may have one TEXT_SLOT.
        instruction: In place of the prompt; where that has a slot, within it and before the text.
        layout: What stands around an instruction, with a slot.

    Raises:
        ConfigError: The instruction is no text.
    """
    outer_before, _, outer_after = template.partition(TEXT_SLOT)
    before, slot, after = prompt.partition(TEXT_SLOT)
    if instruction is not None:
        own = instruction_prompt(instruction, layout)
        before, after = (before + own, after) if slot else (own, "")
    return outer_before + before, after + outer_after
