import numpy as np
import pytest

from diffembed.errors import ConfigError, DataError
from diffembed.evaluation import statistics
from diffembed.evaluation.statistics import holm, paired_bootstrap, stratified_bootstrap


def test_difference_and_interval_of_normal_data_agree_with_theory() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=400)
    second = first + rng.normal(0.1, 0.5, size=400)
    found = paired_bootstrap(first.tolist(), second.tolist())
    gap = second - first
    error = gap.std(ddof=1) / np.sqrt(400)
    assert found.difference == pytest.approx(gap.mean())
    assert found.low == pytest.approx(gap.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(gap.mean() + 1.96 * error, abs=0.1 * error)
    assert found.n == 400


def test_p_and_interval_say_the_same() -> None:
    rng = np.random.default_rng(2)
    said = set()
    for shift in np.linspace(0, 0.3, 13):
        first = rng.normal(size=60)
        found = paired_bootstrap(first, first + rng.normal(shift, 0.5, 60), resamples=4_000)
        if abs(found.p - 0.05) > 0.005:
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
            said.add(found.p < 0.05)
    assert said == {True, False}


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        gap = rng.normal(0.2, 1, 50)
        found = paired_bootstrap(np.zeros(50), gap, resamples=500, confidence=0.9)
        covered += found.low <= 0.2 <= found.high
    assert 168 <= covered <= 192  # 180 expected, standard deviation 4.2


def test_tasks_weigh_the_same_and_are_resampled_inside() -> None:
    # The large task doesn't vary at all, the small one does: only the small one gives the interval its width.
    large = (np.zeros(1_000), np.full(1_000, 0.1))
    small = (np.zeros(4), np.array([0.0, 0.0, 1.0, 1.0]))
    found = stratified_bootstrap([large, small], resamples=2_000)
    assert found.difference == pytest.approx((0.1 + 0.5) / 2)
    assert found.n == 1_004
    assert (found.low, found.high) == (pytest.approx((0.1 + 0.0) / 2), pytest.approx((0.1 + 1.0) / 2))


def test_seeds_and_order() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random(30), rng.random(30)
    one = paired_bootstrap(first, second, seed=1)
    assert paired_bootstrap(first, second, seed=1) == one
    assert paired_bootstrap(first, second, seed=2).low != one.low
    turned = paired_bootstrap(second, first, seed=1)
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-one.difference, -one.high, -one.low))
    assert turned.p == one.p


def test_equal_systems() -> None:
    found = paired_bootstrap([0.3, 0.7], [0.3, 0.7])
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 100)
    found = paired_bootstrap(np.zeros(30), np.arange(30), resamples=1_000)
    assert found.low < 14.5 < found.high


def test_refusals() -> None:
    with pytest.raises(DataError, match="2 values with 1"):
        paired_bootstrap([1, 2], [1])
    with pytest.raises(DataError, match="0 values with 0"):
        paired_bootstrap([], [])
    with pytest.raises(DataError, match="no task"):
        stratified_bootstrap([])
    for settings in ({"resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(ConfigError, match="bootstrap"):
            paired_bootstrap([1], [2], **settings)


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1 = .02 .03 .06 .04, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
