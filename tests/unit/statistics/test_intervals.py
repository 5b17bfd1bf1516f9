"""Paired intervals against published examples and an inversion of the score test by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from medge.errors import DataError
from medge.statistics.intervals import design_effect, newcombe, restricted_variance, tango, tango_statistic, wilson
from medge.statistics.mcnemar import exact_p

GRID = np.linspace(0, 1, 400_001)


def restricted_by_grid(gained, lost, images, difference):
    """Share lost that makes the table most likely when the true difference is given: no formula, every value tried."""
    share_lost = GRID
    share_gained = share_lost + difference
    rest = 1 - share_lost - share_gained
    possible = (share_gained >= 0) & (rest >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [(gained, share_gained), (lost, share_lost), (images - gained - lost, rest)]
        likelihood = sum(np.where(k == 0, 0.0, k * np.log(np.where(possible, p, np.nan))) for k, p in terms)
    likelihood = np.where(possible, likelihood, -np.inf)
    best = share_lost[np.nanargmax(likelihood)]
    return 2 * best + difference - difference**2


@pytest.mark.parametrize(("gained", "lost", "images"), [(1, 7, 21), (12, 2, 50), (0, 3, 40), (5, 0, 30), (4, 4, 100)])
@pytest.mark.parametrize("difference", [-0.4, -0.1, -0.02, 0.01, 0.15, 0.5])
def test_restricted_variance_is_that_of_the_most_likely_table(gained, lost, images, difference):
    expected = restricted_by_grid(gained, lost, images, difference)
    actual = restricted_variance(gained / images, lost / images, difference)
    assert actual == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("gained", "lost", "images"), [(1, 7, 21), (12, 2, 50), (0, 0, 390), (0, 3, 234), (9, 9, 60)])
def test_tango_bounds_are_where_the_score_test_begins_to_reject(gained, lost, images):
    lower, upper = tango(gained, lost, images)
    z = norm.isf(0.05)
    assert tango_statistic(gained, lost, images, lower) == pytest.approx(z, abs=1e-5)
    assert tango_statistic(gained, lost, images, upper) == pytest.approx(-z, abs=1e-5)
    for difference in np.linspace(-0.99, 0.99, 397):
        rejected = abs(tango_statistic(gained, lost, images, float(difference))) > z
        assert rejected == (difference < lower or difference > upper)


def test_intervals_give_the_published_airway_example():
    # Airway hyper-responsiveness before and after transplantation, 1, 1, 7, 12: Fagerland, Lydersen and Laake, BMC Med
    # Res Methodol 2014, 95 % intervals of the difference -0.286.
    assert tuple(round(x, 3) for x in tango(1, 7, 21, alpha=0.025)) == (-0.517, -0.026)
    assert tuple(round(x, 3) for x in newcombe(1, 1, 7, 12, alpha=0.025)) == (-0.507, -0.026)


def test_newcombe_gives_the_first_example_of_its_paper():
    # Newcombe 1998, table 36, 12, 2, 0 (n = 50), method 10: 0.0569 to 0.3404.
    assert tuple(round(x, 4) for x in newcombe(36, 12, 2, 0, alpha=0.025)) == (0.0569, 0.3404)


def test_no_discordant_pair_leaves_room_for_one():
    z = norm.isf(0.05)
    assert tango(0, 0, 390) == pytest.approx((-z * z / (390 + z * z), z * z / (390 + z * z)))
    assert tango(0, 0, 130)[0] < -0.02 < tango(0, 0, 136)[0]  # below about 135 images the margin cannot be shown


def test_exchanging_the_models_mirrors_the_intervals():
    for gained, lost, both, neither in [(3, 8, 40, 9), (0, 5, 10, 2), (6, 1, 0, 3)]:
        images = gained + lost + both + neither
        assert tango(gained, lost, images) == pytest.approx(tuple(-x for x in tango(lost, gained, images)[::-1]))
        swapped = newcombe(both, lost, gained, neither)
        assert newcombe(both, gained, lost, neither) == pytest.approx((-swapped[1], -swapped[0]))


def test_every_pair_discordant_reaches_the_end_of_the_scale():
    assert tango(10, 0, 10)[1] == 1.0
    assert tango(0, 10, 10)[0] == -1.0


def test_tango_covers_a_difference_at_the_margin_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for lost, gained in [(0.03, 0.01), (0.02, 0.0), (0.06, 0.04)]:
        tables = rng.multinomial(234, [gained, lost, 1 - gained - lost], size=1500)
        passed = np.mean([tango(int(b), int(c), 234)[0] > -0.02 for b, c, _ in tables])
        assert passed <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 1500)


def test_wilson_agrees_with_scipy():
    for successes, trials in [(0, 10), (10, 10), (3, 17), (390, 400)]:
        expected = binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mcnemar_doubles_the_binomial_tail():
    assert exact_p(0, 0) == 1.0
    assert exact_p(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)


@pytest.mark.parametrize("table", [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_a_table_of_nothing_is_refused(table):
    with pytest.raises(DataError, match="No pairs"):
        tango(*table)
    with pytest.raises(DataError, match="No proportion"):
        wilson(0, 0)


def test_design_effect_is_one_of_single_images_and_the_largest_without_a_change():
    assert design_effect(np.array([1, 0, -1, 0]), np.arange(4)) == 1.0
    assert design_effect(np.zeros(40, dtype=np.int64), np.arange(40) // 4) == pytest.approx(4.0)


def test_design_effect_of_groups_that_change_as_one_is_about_their_size():
    of_groups = np.random.default_rng(1).choice([-1, 0, 1], size=2000, p=[0.2, 0.7, 0.1])
    assert design_effect(np.repeat(of_groups, 3), np.arange(6000) // 3) == pytest.approx(3.0, rel=0.01)


def test_tango_of_effective_images_covers_the_margin_where_images_of_a_patient_change_together():
    rng, plain, clustered, cases = np.random.default_rng(2), 0, 0, 800
    index = np.arange(390) // 2
    for _ in range(cases):
        change = np.repeat(rng.choice([1, -1, 0], size=195, p=[0.01, 0.03, 0.96]), 2)
        table = np.array([(change == 1).sum(), (change == -1).sum(), 390])
        plain += tango(*table)[0] > -0.02
        clustered += tango(*(table / design_effect(change, index)))[0] > -0.02
    allowed = 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / cases)
    assert clustered / cases <= allowed < plain / cases
