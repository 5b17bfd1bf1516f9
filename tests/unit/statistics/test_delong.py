"""Paired DeLong against the definition in O(n^2), published values and its own limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from medge.errors import DataError
from medge.statistics.delong import paired_auc, paired_macro_auc


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


@settings(max_examples=50, deadline=None)
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
        passed += found.lower > -0.01
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
