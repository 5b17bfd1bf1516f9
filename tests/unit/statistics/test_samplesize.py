"""The number of images that a verdict asks for does decide, about as often as promised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from medge.statistics.intervals import tango
from medge.statistics.samplesize import factor_for_difference, images_for_proportions, power_of_difference


def test_without_a_discordant_pair_the_answer_is_where_the_interval_clears_the_margin():
    needed = images_for_proportions(0, 0, 50, margin=-0.02, alpha=0.05)
    z = norm.isf(0.05)
    assert needed == np.ceil(z * z * 0.98 / 0.02)
    assert tango(0, 0, needed)[0] > -0.02 - 1e-9
    assert tango(0, 0, needed - 1)[0] < -0.02


@pytest.mark.parametrize(("gained", "lost", "images"), [(1, 1, 100), (2, 3, 200), (0, 1, 120), (0, 8, 100)])
def test_with_the_images_it_asks_for_at_least_about_four_of_five_trials_decide(gained, lost, images):
    needed = images_for_proportions(gained, lost, images, margin=-0.02, alpha=0.05)
    b, c = gained / images, lost / images
    tables = np.random.default_rng(0).multinomial(needed, [b, c, 1 - b - c], size=800)
    bounds = [tango(int(x), int(y), needed) for x, y, _ in tables]
    decided = np.mean([lower > -0.02 if b - c > -0.02 else upper < -0.02 for lower, upper in bounds])
    assert 0.72 <= decided <= 0.95


def test_a_difference_on_the_margin_has_no_answer():
    assert images_for_proportions(0, 2, 100, margin=-0.02, alpha=0.05) is None
    assert factor_for_difference(0.1, 0.0, alpha=0.05) is None


def test_factor_scales_the_variance_to_eighty_percent_power():
    factor = factor_for_difference(0.02**2, 0.03, alpha=0.05)
    error = 0.02 / np.sqrt(factor)
    assert norm.sf(norm.isf(0.05) - 0.03 / error) == pytest.approx(0.8)


def test_the_power_of_a_normal_bound_is_the_textbooks() -> None:
    assert power_of_difference(1.6449 + 0.8416, 1.6449) == pytest.approx(0.8, abs=1e-4)
    assert power_of_difference(0.0, 1.6449) == pytest.approx(0.05, abs=1e-4)


def test_a_spread_that_grows_with_the_loss_needs_more_images() -> None:
    """At the same reach; towards the other side of the margin the spread shrinks, and fewer do."""
    for side in (1, -1):
        even, worse, better = (
            factor_for_difference(0.02**2, side * 0.03, alpha=0.05, reach=0.04, skewness=side * skewness)
            for skewness in (0.0, -0.5, 0.5)
        )
        assert even is not None
        assert worse is not None
        assert better is not None
        assert worse > even > better > 1


def test_a_skewed_mean_leaves_the_margin_as_often_as_predicted() -> None:
    """Means of 50 negated exponentials by the plain bound: their spread grows with the loss."""
    rng = np.random.default_rng(0)
    n, distance, z = 50, 0.35, 1.6449
    drawn = 1 - rng.exponential(size=(20_000, n))
    passed = drawn.mean(axis=1) - z * drawn.std(axis=1, ddof=1) / np.sqrt(n) > -distance
    skewness = -2 / np.sqrt(n)
    seen, naive = passed.mean(), power_of_difference(distance * np.sqrt(n), z)
    predicted = power_of_difference(distance * np.sqrt(n), z, skewness)
    assert abs(seen - predicted) < 0.03
    assert abs(seen - predicted) < abs(seen - naive)
