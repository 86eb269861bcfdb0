"""Full configurations as functions, named on the command line; a variant calls another and replaces fields."""

import difflib
from collections.abc import Callable
from typing import Any

from diffembed.errors import ConfigError


def pretraining() -> dict[str, Callable[[], Any]]:
    """Recipes of `diffembed pretrain`, by name."""
    from diffembed.recipes import pretrain

    return {
        "smoke": pretrain.smoke,
        "builtin": pretrain.builtin,
        "builtin-ar": pretrain.builtin_ar,
        "builtin-gpu": pretrain.builtin_gpu,
    }


def finetuning() -> dict[str, Callable[[], Any]]:
    """Recipes of `diffembed finetune`, by name."""
    from diffembed.recipes import finetune

    return {
        "smoke": finetune.smoke,
        "builtin": finetune.builtin,
        "builtin-scratch": finetune.builtin_scratch,
        "builtin-gpu": finetune.builtin_gpu,
    }


TABLES = {"pretrain": pretraining, "finetune": finetuning}
"""The recipes of each verb."""


def load(recipes: dict[str, Callable[[], Any]], name: str) -> Any:
    """The configuration that a recipe gives.

    Raises:
        ConfigError: There is no recipe of that name.
    """
    if name not in recipes:
        near = difflib.get_close_matches(name, recipes, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(recipes))}"
        raise ConfigError(f"unknown recipe `{name}`", hint=hint)
    return recipes[name]()
