"""What takes an index minutes: many kills, and the longest text that it takes. `make soak` runs it before a release."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from diffembed.library.index import Index
from diffembed.library.reading.document import LONGEST_TEXT
from tests.library.conftest import save_model
from tests.library.test_kill import survive
from tests.memory import STATUS
from tests.tiny_embedders import SENTENCE

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

MEASURED = (
    STATUS
    + """
import json, sys
import torch
torch.set_num_threads(1)
from diffembed.library.update import index_files
model, to, *paths = sys.argv[1:]
grown = []
for path in paths:
    index_files([path], to, model=model)
    grown.append(status("VmHWM"))
print(json.dumps(grown))
"""
)


@pytest.mark.parametrize("seed", [1, 2])
def test_an_index_survives_many_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    survive(tmp_path, save_model(tmp_path / "model"), kills=40, seed=seed)


def test_the_longest_text_in_bounded_memory(tmp_path: Path) -> None:
    """One that takes a single piece comes first: what a model and its batches need isn't what is measured."""
    line = f"{SENTENCE}.\n\n"
    for name, size in (("short", 1_000_000), ("long", LONGEST_TEXT)):
        (tmp_path / f"{name}.txt").write_text((line * (size // len(line) + 1))[:size])
    paths = [tmp_path / f"{name}.txt" for name in ("short", "long")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURED), save_model(tmp_path / "model"), tmp_path / "index", *paths],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    short, long = json.loads(done.stdout)
    # A few copies of the text, its vectors, and SQLite's; as one piece it would take a hundred bytes and more of each.
    assert long - short < 40 * LONGEST_TEXT
    with Index.open(tmp_path / "index") as index:
        assert index.check() == []
        spans = [row[2:4] for row in index.read(lambda snapshot: snapshot.contents()) if row[0] == str(paths[1])]
    assert spans[0][0] == 0 and spans[-1][1] == LONGEST_TEXT
    assert all(stop == start for (_, stop), (start, _) in zip(spans, spans[1:], strict=False))
