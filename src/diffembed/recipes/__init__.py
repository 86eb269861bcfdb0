"""Full configurations as functions, named on the command line; a variant calls another and replaces fields."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from diffembed.errors import ConfigError

AUTOREGRESSIVE = ["llama3", "mistral", "qwen2.5"]
"""Bases of LLM2Vec's recipes."""


def pretraining() -> dict[str, Callable[[], Any]]:
    """Recipes of `diffembed pretrain`, by name."""
    from diffembed.recipes import pretrain

    return {
        "smoke": pretrain.smoke,
        "builtin": pretrain.builtin,
        "builtin-ar": pretrain.builtin_ar,
        "builtin-gpu": pretrain.builtin_gpu,
        "adapt": pretrain.adapt,
        **_for_bases("llm2vec-mntp", pretrain.llm2vec_mntp, AUTOREGRESSIVE),
    }


def finetuning() -> dict[str, Callable[[], Any]]:
    """Recipes of `diffembed finetune`, by name; those of a paper come for each base that it compares."""
    from diffembed.recipes import finetune, llm2vec, paper, pplx

    found: dict[str, Callable[[], Any]] = {
        "smoke": finetune.smoke,
        "builtin": finetune.builtin,
        "builtin-scratch": finetune.builtin_scratch,
        "builtin-gpu": finetune.builtin_gpu,
    }
    bases = list(paper.BASES)
    for name, recipe in (
        ("diffembed-long", paper.diffembed_long),
        ("diffembed-reason", paper.diffembed_reason),
        ("diffembed-instruct", paper.diffembed_instruct),
    ):
        found |= _for_bases(name, recipe, bases)
    for name, recipe in (
        ("llm2vec-simcse", llm2vec.llm2vec_simcse),
        ("llm2vec-supervised", llm2vec.llm2vec_supervised),
    ):
        found |= _for_bases(name, recipe, AUTOREGRESSIVE)
    return found | {
        "pplx-pairs": pplx.pplx_pairs,
        "pplx-contextual": pplx.pplx_contextual,
        "pplx-triplets": pplx.pplx_triplets,
    }


def _for_bases(name: str, recipe: Callable[..., Any], bases: list[Any]) -> dict[str, Callable[[], Any]]:
    """The bare name is that of the first base."""
    return {name: partial(recipe, bases[0])} | {f"{name}-{base}": partial(recipe, base) for base in bases[1:]}


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
