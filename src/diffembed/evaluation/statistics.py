"""Is a difference between two systems more than the luck of these queries?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError, DataError

DRAWS_AT_ONCE = 2_000_000
"""Bounds the memory of a bootstrap, whatever the number of queries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Second system minus first, over the same queries."""

    difference: float
    low: float
    high: float
    """Bounds of the percentile interval."""
    p: float
    """Two-sided, from the same resamples, never 0 (see `stratified_bootstrap`): below about 1 - confidence where the
    interval excludes 0."""
    n: int
    """Queries, over all tasks."""


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by their values for the same queries in the same order.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapters 13 (percentile interval) and 15.

    Args:
        first: One value a query.
        second: One value a query.
        resamples: Sets of queries drawn with replacement.
        confidence: Of the interval.
        seed: Of the draws.
    """
    return stratified_bootstrap([(first, second)], resamples=resamples, confidence=confidence, seed=seed)


def stratified_bootstrap(
    tasks: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by their mean over tasks, every task weighing the same.

    Queries are drawn inside each task, so the interval speaks of other queries of these tasks, not of other tasks. In p
    the data itself counts as one more draw, so it is at least 2 / (resamples + 1).

    Args:
        tasks: For each task the values of the first and the second system, one a query.
        resamples: Sets of queries drawn with replacement.
        confidence: Of the interval.
        seed: Of the draws.

    Raises:
        DataError: A task has no queries, or the two systems have different numbers of them.
        ConfigError: `resamples` or `confidence` can't be used.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"can't bootstrap with {resamples} resamples at confidence {confidence}",
            hint="at least 1 resample, and a confidence between 0 and 1",
        )
    differences = [_differences(first, second) for first, second in tasks]
    if not differences:
        raise DataError("no task to compare on", hint="give at least one")
    rng = np.random.default_rng(seed)
    means_R = np.mean([_resampled_means(each, resamples, rng) for each in differences], axis=0)
    low, high = np.quantile(means_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    # One is added on both sides of the fraction: Davison and Hinkley 1997, section 4.2.
    tail = min(np.sum(means_R <= 0), np.sum(means_R >= 0))
    return Comparison(
        difference=float(np.mean([each.mean() for each in differences])),
        low=float(low),
        high=float(high),
        p=float(min(1.0, 2 * (tail + 1) / (resamples + 1))),
        n=sum(len(each) for each in differences),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several comparisons so that the chance of any false claim among them stays bounded.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Returns:
        Adjusted values in the order given; compare each with the level meant for the whole family.
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = running
    return adjusted


def _differences(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    if len(first) != len(second) or not len(first):
        raise DataError(
            f"can't pair {len(first)} values with {len(second)}", hint="evaluate both systems on the same queries"
        )
    return np.asarray(second, np.float64) - np.asarray(first, np.float64)


def _resampled_means(values_N: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    size = len(values_N)
    at_once = max(1, DRAWS_AT_ONCE // size)
    blocks = [
        values_N[rng.integers(0, size, (min(at_once, resamples - start), size))].mean(axis=1)
        for start in range(0, resamples, at_once)
    ]
    return np.concatenate(blocks)
