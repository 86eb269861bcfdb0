"""Names of weights: ours, which are Hugging Face's for Qwen and Llama, and those that a family's files have."""

from collections.abc import Iterable

from diffembed.backbone.families import Family

HEAD = "lm_head.weight"


def to_theirs(name: str, family: Family, prefix: str) -> str:
    """What a family's file calls one of our weights.

    Args:
        name: Ours, `layers.0.self_attn.q_proj.weight` for one.
        family: Whose file it is.
        prefix: One of the family's.
    """
    if not family.names:
        return name if name == HEAD else prefix + name
    head, _, rest = name.partition(".")
    if head != "layers":
        return f"{prefix}{family.names[head]}.{rest}"
    number, _, rest = rest.partition(".")
    module, _, kind = rest.rpartition(".")
    return f"{prefix}{family.names[head]}.{number}.{family.names[module]}.{kind}"


def to_ours(name: str, family: Family, prefix: str) -> str | None:
    """The weight of ours that a family's file calls so; None where there is none."""
    if name == HEAD and not family.names:
        return name
    if not name.startswith(prefix):
        return None
    name = name.removeprefix(prefix)
    if not family.names:
        return None if name == HEAD else name
    head, _, rest = name.partition(".")
    if head != family.names["layers"]:
        tops = {family.names[ours]: ours for ours in ("embed_tokens", "norm", "lm_head")}
        return f"{tops[head]}.{rest}" if head in tops else None
    number, _, rest = rest.partition(".")
    module, _, kind = rest.rpartition(".")
    layer = {theirs: ours for ours, theirs in family.names.items() if ours not in ("layers", "lm_head")}
    return f"layers.{number}.{layer[module]}.{kind}" if module in layer else None


def find_prefix(wanted: Iterable[str], found: set[str], family: Family) -> str | None:
    """The prefix under which a file holds all wanted weights; None where there is none."""
    wanted = list(wanted)
    for prefix in family.prefixes:
        if all(to_theirs(name, family, prefix) in found for name in wanted):
            return prefix
    return None
