"""What `pretrain` and `finetune` share: a verb that runs a recipe."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from diffembed.errors import ConfigError

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe, for example `smoke`, which needs no data.")
]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the training text.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; the model ends in DIR/model.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one field of the recipe. Repeatable.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the whole configuration as JSON and stop.")]


def verb(name: str, summary: str) -> Callable[..., None]:
    """Make the command that runs `main` of `diffembed.training.NAME` with one of the recipes for it."""

    def command(
        recipe: Recipe,
        data: Data = None,
        out: Out = None,
        resume: Resume = False,
        settings: Settings = None,
        dry_run: DryRun = False,
    ) -> None:
        from diffembed import configs, recipes

        config = configs.override(recipes.load(recipes.TABLES[name](), recipe), settings or [])
        if dry_run:
            print(json.dumps(configs.to_dict(config), indent=2))
            return
        if out is None:
            raise ConfigError("--out is missing", hint="name a run directory that does not exist yet: --out runs/first")
        main = import_module(f"diffembed.training.{name}").main
        print(main(config, data=data, out=out, resume=resume, command=["diffembed", *sys.argv[1:]]))

    command.__doc__ = summary
    return command
