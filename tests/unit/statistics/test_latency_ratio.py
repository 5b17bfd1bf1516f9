"""Ratios of interleaved latencies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medge.statistics.latency import paired_ratio


def test_a_slow_spell_that_hits_both_does_not_move_the_ratio() -> None:
    random = np.random.default_rng(0)
    machine = np.repeat([1.0, 3.0, 1.5], 50)
    a = 2.0 * machine * random.lognormal(0, 0.01, 150)
    b = 4.0 * machine * random.lognormal(0, 0.01, 150)
    found = paired_ratio(a, b, seed=0)
    assert found.ratio == pytest.approx(0.5, rel=0.01)
    assert found.upper - found.lower < 0.01


def test_a_series_against_itself_is_exactly_one() -> None:
    values = np.random.default_rng(1).lognormal(0, 0.3, 40)
    found = paired_ratio(values, values, seed=0)
    assert (found.ratio, found.lower, found.upper) == (1.0, 1.0, 1.0)


def test_the_inverse_is_the_ratio_the_other_way_round() -> None:
    random = np.random.default_rng(2)
    a, b = random.lognormal(0, 0.2, 60), random.lognormal(0.5, 0.2, 60)
    there, back = paired_ratio(a, b, seed=3).inverse(), paired_ratio(b, a, seed=3)
    assert there.ratio == pytest.approx(back.ratio)
    assert (there.lower, there.upper) == (pytest.approx(back.lower), pytest.approx(back.upper))


def series(random: np.random.Generator, correlation: float) -> NDArray[np.float64]:
    """60 block medians, of which each neighbours' logs correlate (an AR(1) process)."""
    logs = random.normal(0, 0.1, 110)
    for k in range(1, len(logs)):
        logs[k] += correlation * logs[k - 1]
    return np.exp(logs[50:])


@pytest.mark.parametrize(("correlation", "fewest", "most"), [(0.0, 180, 198), (0.5, 164, 190)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(correlation: float, fewest: int, most: int) -> None:
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        a, b = series(random, correlation), series(random, correlation)
        covered += paired_ratio(a, b, seed=seed, resamples=400).includes(1.0)
    assert fewest <= covered <= most


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_series_that_cannot_be_paired_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"paired series|positive"):
        paired_ratio(np.array(bad), np.array([1.0, 2.0]), seed=0)
