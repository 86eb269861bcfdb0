"""What makes an embedder, and the checks that its parts fit each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffembed.backbone import Backbone
from diffembed.embedder.layout import Frame
from diffembed.errors import CheckpointError, DataError
from diffembed.readout.spec import Readout
from diffembed.text.instructions import DEFAULT_PROMPTS, FOREIGN_FORMAT, OWN_FORMAT, ROLES, TEXT_SLOT, Role, around
from diffembed.text.tokenizer import Tokenizer

# A prompt's last token, one of the text, EOS.
LEAST_TOKENS = 3

Golden = tuple[Role, str, list[float]]
"""Role, text, and the vector in fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A backbone and how its states become vectors."""

    backbone: Backbone
    """On the CPU and in the dtype of its files: what is saved, whatever the engine computes in."""
    tokenizer: Tokenizer
    prompts: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_PROMPTS))
    """By role; empty for none."""
    max_tokens: int
    """Longest sequence, prompt and EOS included."""
    trained: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the training: recipe, steps, data. JSON values."""
    golden: Sequence[Golden] = ()
    """What it gave when it was saved."""
    readout: Readout = field(default_factory=Readout)
    """How states become vectors."""
    template: str = TEXT_SLOT
    """What stands around every text and its prompt."""

    @property
    def is_plain(self) -> bool:
        """Whether the prompt is all that stands around a text and no mean counts it, as other libraries read it."""
        slots = [self.template != TEXT_SLOT, *(TEXT_SLOT in prompt for prompt in self.prompts.values())]
        return self.readout.is_mean and not self.readout.counts_prompt and not any(slots)

    def around(self, role: Role | None, instruction: str | None = None) -> tuple[str, str]:
        """What stands before a text of that role, and what behind."""
        prompt = "" if role is None else self.prompts.get(role, "")
        return around(self.template, prompt, instruction, self.instruction_format)

    def frame(self, role: Role | None) -> Frame:
        """What else stands around a text of that role: what the tokenizer puts there, and mask tokens."""
        tokenizer, num_masks = self.tokenizer, self.readout.num_masks(role)
        return Frame(
            prefix=tokenizer.prefix,
            masks=[tokenizer.mask_token_id] * num_masks if num_masks else [],
            suffix=tokenizer.suffix,
            stand_in=tokenizer.filler if num_masks else tokenizer.stand_in,
            max_tokens=self.max_tokens,
        )

    @property
    def instruction_format(self) -> str:
        """What stands around an instruction; our own models have a token that ends it."""
        return OWN_FORMAT if "query" in self.tokenizer.names else FOREIGN_FORMAT

    def __post_init__(self) -> None:
        config = self.backbone.config
        if self.tokenizer.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens, the embedding table {config.vocab_size}",
                hint="tokenizer.json and the weights must come from the same model",
            )
        limit = self.max_tokens
        if isinstance(limit, bool) or not isinstance(limit, int) or not LEAST_TOKENS <= limit <= config.max_positions:
            raise CheckpointError(
                f"max_tokens is {limit!r}", hint=f"allowed: {LEAST_TOKENS} to {config.max_positions} (max_positions)"
            )
        self._check_readout()
        unknown = sorted(set(self.prompts) - set(ROLES))
        if unknown:
            raise CheckpointError(f"there is no role {', '.join(unknown)}", hint=f"roles: {', '.join(ROLES)}")
        for role, prompt in self.prompts.items():  # all of them, before `is_plain` looks into any
            if not isinstance(prompt, str):
                raise CheckpointError(f"the prompt of role {role} is {prompt!r}", hint="a prompt is a string")
        for role, prompt in self.prompts.items():
            self._check_prompt(role, prompt)

    def _check_readout(self) -> None:
        direction, readout = self.backbone.config.direction, self.readout
        if readout.pooling == "masks" and "mask" not in self.tokenizer.names:
            raise CheckpointError(
                "the readout appends mask tokens, and the tokenizer has none",
                hint="use a model that was trained by diffusion, or another pooling",
            )
        if readout.pooling in ("last", "masks") and direction == "backward":
            raise CheckpointError(
                f"the tokens that pooling {readout.pooling!r} reads stand at the end, and this model looks ahead only",
                hint="use the mean, or the direction both or forward",
            )
        if not isinstance(self.template, str) or self.template.count(TEXT_SLOT) != 1:
            raise CheckpointError(f"the template is {self.template!r}", hint=f"a string with one {TEXT_SLOT}")

    def _check_prompt(self, role: str, prompt: str) -> None:
        if prompt.count(TEXT_SLOT) > 1:
            raise CheckpointError(
                f"the prompt of role {role} has {TEXT_SLOT} more than once", hint="the text stands in one place"
            )
        before, after = around(self.template, prompt)
        try:
            ids, after_ids = self.tokenizer.encode([before, after])
        except DataError:
            raise CheckpointError(
                f"the prompt of role {role} holds half a surrogate pair, which is no Unicode text", hint="write it anew"
            ) from None
        # Other libraries count the tokens of a prompt alone; anything else may merge with the text behind it (see
        # text/instructions.py).
        if ids and self.is_plain and not self.tokenizer.is_special(ids[-1]):
            raise CheckpointError(
                f"the prompt of role {role} ends in {prompt[-20:]!r}, which is no special token of the tokenizer",
                hint=f"end it in one of {' '.join(self.tokenizer.names.values()) or 'its special tokens'}",
            )
        around_it = len(ids) + len(after_ids) + self.readout.num_masks(role)
        if around_it > self.max_tokens - 2:
            raise CheckpointError(
                f"the prompt of role {role} has {around_it} tokens, max_tokens is {self.max_tokens}",
                hint="shorten it or raise max_tokens",
            )
