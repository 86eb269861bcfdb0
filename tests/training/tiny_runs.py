"""Tiny pre-trainings: their text, their settings, and what they leave."""

import json
from dataclasses import replace
from pathlib import Path

from diffembed.recipes import pretrain as recipe
from diffembed.training.loop_config import LoopConfig
from diffembed.training.pretrain import main
from diffembed.training.pretrain_config import PretrainConfig

SENTENCE = "model token noise mask layer width state vector query text bound step loss rate"
WORDS = SENTENCE.split()

# What a child process runs: settings, data (or -), run directory and verb are its arguments. It resumes what there is.
CHILD = """
    import sys
    from importlib import import_module
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from diffembed import configs, recipes
    from diffembed.cli.frame import report
    path, data, out, verb = [*sys.argv[1:], "pretrain"][:4]
    settings = configs.from_dict(type(recipes.TABLES[verb]()["smoke"]()), configs.read_json(Path(path)))
    main = import_module(f"diffembed.training.{verb}").main
    try:
        main(settings, data=None if data == "-" else Path(data), out=Path(out), resume=True, command=["test"])
    except BaseException as error:
        sys.exit(report(error))
"""


def write_text(folder: Path) -> Path:
    """A folder of sources: enough text for a tokenizer of 300 tokens and a few steps."""
    (folder / "made").mkdir(parents=True)
    with (folder / "made" / "docs.jsonl").open("w") as file:
        for i in range(300):
            text = " ".join(WORDS[(i * k + k * k) % len(WORDS)] for k in range(20 + i % 60))
            file.write(json.dumps({"id": str(i), "title": WORDS[i % len(WORDS)], "text": text}) + "\n")
    return folder


def settings(num_steps: int = 12, *, every: int = 5, shard: bool = False, **changes) -> PretrainConfig:
    """Width 32, two layers, three micro-batches a step."""
    smoke = recipe.smoke()
    small = replace(
        smoke,
        backbone=replace(smoke.backbone, vocab_size=300, width=32, head_width=16),
        loop=LoopConfig(num_steps=num_steps, checkpoint_every_steps=every, shard=shard),
        tokens_per_step=384,
        tokens_per_micro_batch=128,
        dtype="float32",
    )
    return replace(small, **changes)


def run(out: Path, data: Path, config: PretrainConfig, *, resume: bool = False) -> Path:
    return main(config, data=data, out=out, resume=resume, command=["test"])


def rows(out: Path) -> list[dict]:
    """Without what the clock says: the rest is the same in each run."""
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("seconds", "tokens_per_s")}
        for line in (out / "metrics.jsonl").read_text().splitlines()
    ]


def losses(out: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(out)]
