"""Paired DeLong against the definition in O(n^2), published values and its own limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from medge.errors import DataError
from medge.statistics.delong import clustered_bounds, paired_auc, paired_macro_auc


def by_definition(scores_a, scores_b, positive):
    """Areas and their covariance matrix as DeLong et al. (1988) define them: every pair of images compared."""
    placed = []
    for scores in (scores_a, scores_b):
        pos, neg = scores[positive][:, None], scores[~positive][None, :]
        kernel = (pos > neg) + 0.5 * (pos == neg)
        placed.append((kernel.mean(axis=1), kernel.mean(axis=0), kernel.mean()))
    m, n = int(positive.sum()), int((~positive).sum())
    s10 = np.cov(placed[0][0], placed[1][0])
    s01 = np.cov(placed[0][1], placed[1][1])
    return placed[0][2], placed[1][2], s10 / m + s01 / n


def tables(rng):
    """Scores of two models with ties within and between them, and labels with two or more of each class."""
    count = int(rng.integers(4, 60))
    positive = rng.permutation(np.arange(count) < rng.integers(2, count - 1))
    levels = int(rng.integers(1, 30))
    first = rng.integers(0, levels + 1, count).astype(float) + positive * rng.integers(0, 3)
    second = np.where(rng.random(count) < 0.5, first, rng.integers(0, levels + 1, count).astype(float))
    return first, second, positive


def test_agrees_with_the_definition_in_a_thousand_cases_with_ties():
    rng = np.random.default_rng(1)
    for _ in range(1000):
        first, second, positive = tables(rng)
        area_a, area_b, covariance = by_definition(first, second, positive)
        found = paired_auc(first, second, positive)
        expected = [area_a, area_b, area_b - area_a, *covariance.ravel()[[0, 3, 1]]]
        actual = [found.a, found.b, found.difference, found.variance_a, found.variance_b, found.covariance]
        assert np.allclose(expected, actual, rtol=0, atol=1e-10)
        variance = max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        assert found.variance == pytest.approx(variance, abs=1e-10)
        if not found.degenerate:
            reach = norm.isf(0.05) * np.sqrt(found.variance)
            assert found.lower == pytest.approx(max(-1.0, found.difference - reach), abs=1e-10)


def test_gives_the_published_area_and_error_of_the_hanley_ratings():
    # Hanley and McNeil 1982, table I: 109 CT images rated 1 to 5. Stata's manual (roctab) prints for them the area
    # 0.8932, DeLong's standard error 0.0307 and the 95 % interval 0.83295 to 0.95339.
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    scores = np.repeat([1.0, 2, 3, 4, 5] * 2, normal + abnormal)
    positive = np.arange(109) >= sum(normal)
    found = paired_auc(scores, scores, positive)
    error = np.sqrt(found.variance_a)
    assert round(found.a, 4) == 0.8932
    assert round(error, 4) == 0.0307
    assert round(found.a - norm.isf(0.025) * error, 5) == 0.83295
    assert round(found.a + norm.isf(0.025) * error, 5) == 0.95339


def test_identical_scores_have_no_variance_and_bounds_at_zero():
    rng = np.random.default_rng(2)
    scores, positive = rng.normal(size=50), np.arange(50) < 20
    found = paired_auc(scores, np.exp(scores), positive)  # alike in rank is enough
    assert (found.difference, found.lower, found.upper, found.degenerate) == (0.0, 0.0, 0.0, False)


def test_two_models_that_both_separate_wholly_are_not_called_equal_with_certainty():
    positive = np.arange(20) >= 10
    first = np.arange(20.0)
    second = np.concatenate([np.arange(10.0)[::-1], np.arange(10.0, 20.0)])
    found = paired_auc(first, second, positive)
    z = norm.isf(0.05)
    assert found.degenerate
    assert (found.difference, found.lower) == (0.0, pytest.approx(-z * z / (10 + z * z)))


@pytest.mark.parametrize("positives", [0, 1, 9, 10])
def test_fewer_than_two_images_of_a_class_are_refused(positives):
    scores = np.arange(10.0)
    with pytest.raises(DataError, match="two images of each class"):
        paired_auc(scores, scores, np.arange(10) < positives)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_swapping_labels_and_signs_changes_nothing(seed):
    first, second, positive = tables(np.random.default_rng(seed))
    found, mirrored = paired_auc(first, second, positive), paired_auc(-first, -second, ~positive)
    assert found.lower == pytest.approx(mirrored.lower, abs=1e-12)
    assert found.variance == pytest.approx(mirrored.variance, abs=1e-14)


def test_mean_of_one_vs_rest_areas_covers_the_truth_as_often_as_it_says():
    # Three classes, two correlated models that are equally good: the true difference is 0.
    rng, outside, cases = np.random.default_rng(3), 0, 600
    for _ in range(cases):
        labels = rng.integers(0, 3, 150)
        signal = 1.2 * np.eye(3)[labels]
        common = rng.normal(size=(150, 3))
        scores = [signal + 0.9 * common + 0.45 * rng.normal(size=(150, 3)) for _ in range(2)]
        found = paired_macro_auc(*scores, labels[:, None] == np.arange(3))
        outside += found.lower > 0
    assert outside / cases == pytest.approx(0.05, abs=0.025)


def test_an_auc_at_the_margin_passes_no_more_often_than_alpha():
    # Binormal scores, correlation 0.97 within a class, 390 positives and 234 negatives; the truth is -0.01 exactly.
    rng, passed, cases = np.random.default_rng(4), 0, 600
    positive = np.arange(624) < 390
    gap_a, gap_b = (np.sqrt(2) * norm.ppf(area) for area in (0.96, 0.95))
    for _ in range(cases):
        common = np.sqrt(0.97) * rng.normal(size=624)
        own = np.sqrt(0.03) * rng.normal(size=(2, 624))
        found = paired_auc(common + own[0] + gap_a * positive, common + own[1] + gap_b * positive, positive)
        passed += min(found.lower, found.clustered_lower) > -0.01  # as the gate decides
    assert passed / cases <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / cases)
    assert passed > 0


def test_order_changed_within_a_class_alone_is_no_difference_where_classes_overlap():
    positive = np.array([False] * 10 + [True] * 10)
    first = np.concatenate([np.arange(10.0), np.arange(10.0) + 4.5])
    second = first.copy()
    second[[0, 1]] = second[[1, 0]]  # two negatives below every positive
    found = paired_auc(first, second, positive)
    assert 0.5 < found.a < 1
    assert (found.difference, found.lower, found.upper, found.degenerate) == (0.0, 0.0, 0.0, False)


# aSAH, 113 patients with an aneurysmal subarachnoid haemorrhage (Turck et al., Intensive Care Med. 36 (2010) 107-115),
# as ranks alone, which is all that an AUC sees: made from the placements that the tests of pROC (Robin et al., BMC
# Bioinformatics 12 (2011) 77; github.com/xrobin/pROC, GPL >= 3) print for its example. 41 poor outcomes, then 72 good.
# WFNS is the grade itself; of S100B twice the number of good outcomes below a poor one, and twice the number of poor
# ones above a good one, ties counted half.
WFNS_POOR = "32455552521254425552525245441442255225555"
WFNS_GOOD = "111151221221112121134141551124112212122111121211324214115422111312244111"
S100B_POOR = """81 63 103 78 130 144 140 26 123 50 26 128 126 139 144 118 144 144 144 26 144 120 0 50 116 144 118 144 38
118 81 63 74 116 144 88 144 121 144 144 130"""
S100B_GOOD = """58 55 66 80 28 52 66 66 80 73 80 70 63 77 52 77 63 58 52 80 53 55 36 70 24 28 53 77 32 28 63 73 70 73 80
58 66 55 54 80 80 70 80 70 73 53 70 73 37 63 42 77 66 39 77 80 48 34 66 54 73 55 66 77 80 52 54 28 52 54 24 27"""


def test_gives_the_published_paired_test_of_proc():
    # Published by pROC's own tests for roc.test(wfns, s100b): areas, Z, and the 95 % interval of the difference.
    wfns = np.array([float(grade) for grade in WFNS_POOR + WFNS_GOOD])
    poor, good = (np.array(text.split(), dtype=float) for text in (S100B_POOR, S100B_GOOD))
    s100b = np.concatenate([poor / 2, rankdata(-good) - 0.5])  # both: good outcomes below, ties half
    found = paired_auc(s100b, wfns, np.arange(113) < 41, alpha=0.025)
    assert (found.b, found.a) == (pytest.approx(0.823678861788618), pytest.approx(0.731368563685637))
    assert found.difference / np.sqrt(found.variance) == pytest.approx(2.20898359144091, rel=1e-8)
    assert (found.lower, found.upper) == pytest.approx((0.0104061769564846, 0.174214419249478), rel=1e-8)


def test_influence_of_a_group_is_summed_before_it_is_squared():
    rng = np.random.default_rng(6)
    positive, index = np.arange(60) < 30, np.arange(60) // 2
    first = np.repeat(rng.normal(size=30), 2) + positive
    second = first + np.repeat(0.3 * rng.normal(size=30), 2)
    alone, alike = paired_auc(first, second, positive), paired_auc(first, second, positive, index=index)
    assert (alone.lower, alone.upper) == (alike.lower, alike.upper)
    assert alone.clustered_variance == pytest.approx(alone.variance)
    # every image twice: the same as each once, but for the divisors n - 1
    once = paired_auc(first[::2], second[::2], positive[::2])
    assert alike.clustered_variance == pytest.approx(once.variance, rel=0.06)
    assert alike.clustered_variance > 1.5 * alone.clustered_variance


def test_johnsons_bounds_solve_the_modified_t_and_are_the_plain_ones_of_many_even_groups():
    influence = np.random.default_rng(7).exponential(size=400) - 1
    lower, upper, variance, skewness = clustered_bounds(0.0, influence, None, alpha=0.05)
    assert skewness == pytest.approx((influence**3).sum() / variance**1.5)
    fourth = (influence**4).sum() / variance**2
    z = norm.isf(0.05)
    for x, sign in ((-lower / np.sqrt(variance), 1), (upper / np.sqrt(variance), -1)):
        assert x + sign * skewness * (1 / 6 + x * x / 3) == pytest.approx(z + (z**3 + z) / 4 * fourth)
    even = np.tile([1.0, -1.0], 50_000)
    assert clustered_bounds(0.0, even, None, alpha=0.05)[0] == pytest.approx(-z * np.sqrt(100_000), rel=1e-4)
    assert clustered_bounds(0.2, np.zeros(5), None, alpha=0.05) == (0.2, 0.2, 0.0, 0.0)


def test_with_two_alike_images_a_patient_the_bound_by_group_passes_no_more_often_than_alpha():
    rng, cases = np.random.default_rng(8), 500
    positive, index = np.arange(624) < 390, np.arange(624) // 2
    gaps = [np.sqrt(2) * norm.ppf(area) for area in (0.97, 0.96)]

    def noise() -> np.ndarray:
        return np.sqrt(1 / 3) * rng.normal(size=624) + np.sqrt(2 / 3) * rng.normal(size=312)[index]

    plain, clustered = 0, 0
    for _ in range(cases):
        common = np.sqrt(0.97) * noise()
        first, second = (common + np.sqrt(0.03) * noise() + gap * positive for gap in gaps)
        found = paired_auc(first, second, positive, index=index)
        plain += found.lower > -0.01
        clustered += found.clustered_lower > -0.01
    allowed = 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / cases)
    assert 0 < clustered / cases <= allowed < plain / cases
