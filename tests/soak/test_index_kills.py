"""Many kills of an indexing run. `make soak` runs it before a release."""

from pathlib import Path

import pytest

from tests.library.conftest import save_model
from tests.library.test_kill import survive

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("seed", [1, 2])
def test_an_index_survives_many_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    survive(tmp_path, save_model(tmp_path / "model"), kills=40, seed=seed)
