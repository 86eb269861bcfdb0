"""What the checks of a model folder tell each other, and the user."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffembed.backbone import Backbone, BackboneConfig
from diffembed.backbone.families import Family
from diffembed.embedder.model import Golden
from diffembed.readout.spec import Readout
from diffembed.text.instructions import TEXT_SLOT
from diffembed.text.tokenizer import Tokenizer

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    status: Status
    """`fail`: the folder can't be used, or gives wrong vectors. `warn`: it can, and perhaps not as it is meant."""
    message: str
    hint: str | None = None
    """What to do about it; there unless all is well."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Makes a finding a warning."""

    message: str
    hint: str


Verdict = str | Doubt | None
"""Of a check: all is well, a doubt, nothing to look at. What is wrong is raised."""


@dataclass(slots=True, kw_only=True)
class Facts:
    """What is known of a model so far; None where it isn't known, or can't be."""

    folder: Path
    adapter_folder: Path | None = None
    replays: bool = True
    has_failed: bool = False
    data: dict[str, Any] | None = None
    """Content of config.json."""
    family: Family | None = None
    config: BackboneConfig | None = None
    """Looks where the model looks: the adapter's word counts more than that of config.json."""
    is_compact: bool = False
    backbone: Backbone | None = None
    """Without numbers (on torch's meta device)."""
    told: Any = None
    """Direction by diffembed.json."""
    sidecar: dict[str, Any] | None = None
    """diffembed.json with the adapter's over it."""
    golden: list[Golden] = field(default_factory=list)
    is_export: bool = False
    """There are files of sentence-transformers that say how it reads the folder."""
    prompts: dict[str, str] | None = None
    readout: Readout = field(default_factory=Readout)
    template: str = TEXT_SLOT
    max_tokens: Any = None
    """As a file says; None where none does."""
    tokenizer: Tokenizer | None = None
    is_rebuilt: bool = False
    """transformers would put Qwen2's pre-tokeniser over the tokenizer."""
