"""What `pretrain` and `finetune` share: a verb that runs a recipe."""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from diffembed.cli.frame import talk
from diffembed.errors import ConfigError, DiffembedError

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe, for example `smoke`, which needs no data.")
]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="What to train on: see the data page in docs/.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; the model ends in DIR/model.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one field of the recipe. Repeatable.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the whole configuration as JSON, and on stderr what it takes; then stop."),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write the curves to DIR/tensorboard too, while it runs.")
]


def verb(name: str, summary: str) -> Callable[..., None]:
    """Make the command that runs `main` of `diffembed.training.NAME` with one of the recipes for it."""

    def command(
        recipe: Recipe,
        data: Data = None,
        out: Out = None,
        resume: Resume = False,
        settings: Settings = None,
        tensorboard: TensorBoard = False,
        dry_run: DryRun = False,
    ) -> None:
        from diffembed import configs, recipes

        settings = [*(settings or []), *(["loop.tensorboard=true"] if tensorboard else [])]
        config = configs.override(recipes.load(recipes.TABLES[name](), recipe), settings)
        if dry_run:
            print(json.dumps(configs.to_dict(config), indent=2), flush=True)
            _summarise(name, config)
            return
        if out is None:
            raise ConfigError("--out is missing", hint="name a run directory that does not exist yet: --out runs/first")
        main = import_module(f"diffembed.training.{name}").main
        model = main(config, data=data, out=out, resume=resume, command=["diffembed", *sys.argv[1:]])
        if _is_main_rank():
            _draw(out)
        print(model)

    command.__doc__ = summary
    return command


def _summarise(name: str, config: Any) -> None:
    from diffembed.training.plan_summary import SUMMARIES

    plan = SUMMARIES[name](config)
    for line in plan.lines() if plan else ["what it takes depends on a model that is not on this machine: set init"]:
        talk(line)


def _is_main_rank() -> bool:
    """As `training.distributed.connect` sees it."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _draw(out: Path) -> None:
    """Draw the curves. The model is there already, so that nothing here makes the run fail."""
    from diffembed.reporting.curves import draw_curves

    try:
        talk(f"the curves are in {draw_curves(out)}")
    except DiffembedError as error:
        talk(f"no picture of the curves: {error.message} ({error.hint})")
    except OSError as error:
        talk(f"no picture of the curves: {error.strerror or error}")
