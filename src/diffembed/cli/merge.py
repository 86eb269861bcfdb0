"""`diffembed merge`: the model between two that were trained from the same one."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="Model folder or hub id.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another that was trained from the same model.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the merged model, new or empty.")],
    share: Annotated[float, typer.Option(help="Part of SECOND, from 0 to 1.")] = 0.5,
    way: Annotated[
        Literal["slerp", "linear"], typer.Option(help="Along the arc between them, or their mean.")
    ] = "slerp",
) -> None:
    """Merge two models that were trained from the same one into the model between them."""
    from diffembed import hardware
    from diffembed.embedder import Embedder
    from diffembed.embedder.merging import merge
    from diffembed.errors import ConfigError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):  # it may be one of the two
        raise ConfigError(f"{out} is there already", hint="name a new folder")
    hardware.limit_threads()
    merged = merge(Embedder.load(first, dtype="float32"), Embedder.load(second, dtype="float32"), share, way)
    merged.save(out)
    print(out)
