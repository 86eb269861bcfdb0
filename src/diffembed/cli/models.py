"""`diffembed models`: which families of checkpoints are read, and which of them lie on the hub."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from diffembed.cli.frame import talk

GIGABYTE = 1e9


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one object a family or checkpoint.")] = False,
) -> None:
    """List the families of checkpoints that are read, and known ones on the hub."""
    from diffembed.backbone.families import FAMILIES
    from diffembed.backbone.known import KNOWN

    families = [
        {
            "kind": "family",
            "name": family.name,
            "title": family.title,
            "model_types": list(family.model_types),
            "direction": family.direction,
            "logit_shift": family.logit_shift,
            "mask_token": family.mask_token,
            "trained_tokens": family.trained_tokens,
        }
        for family in FAMILIES
    ]
    checkpoints = [
        {
            "kind": "checkpoint",
            "id": known.id,
            "family": known.family.name,
            "parameters": known.parameters,
            "context": known.context,
            "bf16_bytes": known.bf16_bytes,
            "licence": known.licence,
            "note": known.note,
        }
        for known in KNOWN
    ]
    if as_json:
        for row in [*families, *checkpoints]:
            print(json.dumps(row, ensure_ascii=False))
        return
    _print_table(
        ("family", "model_type", "looks", "shift", "mask token", "trained tokens"),
        [
            (
                row["title"],
                ", ".join(row["model_types"]),
                row["direction"],
                "yes" if row["logit_shift"] else "no",
                row["mask_token"] or "",
                _number(row["trained_tokens"]),
            )
            for row in families
        ],
    )
    print()
    _print_table(
        ("on the hub", "parameters", "tokens", "GB in bf16", "licence"),
        [
            (
                row["id"] + ("*" if row["note"] else ""),
                _number(row["parameters"]),
                _number(row["context"]),
                f"{row['bf16_bytes'] / GIGABYTE:.1f}" if row["bf16_bytes"] else "",
                row["licence"] or "",
            )
            for row in checkpoints
        ],
    )
    for row in checkpoints:
        if row["note"]:
            talk(f"* {row['id']}: {row['note']}")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
