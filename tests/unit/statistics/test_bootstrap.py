"""Resampling by group: values against scikit-learn, coverage in simulation, bounded memory, fixed by its seed."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from medge.statistics import bootstrap


def test_ranking_at_any_weights_is_what_scikit_learn_gives():
    rng = np.random.default_rng(0)
    for levels in (3, 12, 10_000):
        scores = rng.integers(0, levels, 80).astype(float)
        positive = rng.random(80) < 0.4
        index = rng.integers(0, 30, 80)
        weights = rng.integers(0, 4, size=(6, 30)).astype(float)
        found = bootstrap.ranking(scores, positive, index)(weights)
        for row, weight in zip(found, weights, strict=True):
            known = {"sample_weight": weight[index]}
            expected = roc_auc_score(positive, scores, **known), average_precision_score(positive, scores, **known)
            assert row == pytest.approx(expected, abs=1e-12)


def test_a_resample_without_a_class_is_not_a_number():
    scores, positive, index = np.arange(4.0), np.array([True, True, False, False]), np.arange(4)
    weights = np.array([[2.0, 2, 0, 0], [0, 0, 2, 2]])
    assert np.isnan(bootstrap.ranking(scores, positive, index)(weights)).all()


def test_draws_are_of_whole_groups_and_fixed_by_the_seed():
    index, groups = bootstrap.group_index(["b", "a", "b", "c"])
    assert (index.tolist(), groups) == ([1, 0, 1, 2], 3)
    both = bootstrap.totals(np.eye(4), index, groups)
    first, again = (bootstrap.resample([both], groups, images=4, resamples=300, seed=5)[0] for _ in range(2))
    assert np.array_equal(first, again)
    assert np.array_equal(first[:, 0], first[:, 2])  # rows of one group come together
    assert set((first[:, 0] + first[:, 1] + first[:, 3]).tolist()) == {3.0}


def test_interval_of_a_mean_covers_it_as_often_as_it_says_although_groups_are_alike_inside():
    # 100 patients with 3 images each that agree with each other: resampling images would cover far too seldom.
    rng, covered, cases = np.random.default_rng(1), 0, 300
    index = np.repeat(np.arange(100), 3)
    for case in range(cases):
        values = np.repeat(rng.normal(size=100), 3) + 0.2 * rng.normal(size=300)
        draws = bootstrap.resample(
            [bootstrap.totals(np.stack([values, np.ones(300)], axis=1), index, 100)],
            100, images=300, resamples=400, seed=case,
        )[0]  # fmt: skip
        lower, upper = bootstrap.percentiles(draws[:, 0] / draws[:, 1], alpha=0.025)
        covered += lower <= 0 <= upper
    assert 0.91 <= covered / cases <= 0.98


def test_interval_of_an_auc_covers_it_as_often_as_it_says():
    rng, covered, cases = np.random.default_rng(2), 0, 250
    truth = norm.cdf(1.5 / np.sqrt(2))
    positive, index = np.arange(200) < 100, np.arange(200)
    for case in range(cases):
        scores = rng.normal(size=200) + 1.5 * positive
        draws = bootstrap.resample(
            [bootstrap.ranking(scores, positive, index)], 200, images=200, resamples=400, seed=case
        )[0]
        lower, upper = bootstrap.percentiles(draws[:, 0], alpha=0.025)
        covered += lower <= truth <= upper
    assert 0.91 <= covered / cases <= 0.98


def test_memory_does_not_grow_with_the_number_of_resamples(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bootstrap, "_WORKERS", 1)  # how far two workers overlap differs from run to run
    scores, positive, index = np.arange(20_000.0), np.arange(20_000) % 3 == 0, np.arange(20_000)
    statistic = bootstrap.ranking(scores, positive, index)
    peaks = []
    for resamples in (60, 600):
        tracemalloc.start()
        bootstrap.resample([statistic], 20_000, images=20_000, resamples=resamples, seed=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 75e6  # of each worker; all 600 draws at once would be 96 MB an array


def test_percentiles_leave_out_what_does_not_exist():
    values = np.concatenate([np.arange(100.0), np.full(20, np.nan)])
    assert bootstrap.percentiles(values, alpha=0.05) == pytest.approx((4.95, 94.05))
    assert np.isnan(bootstrap.percentiles(np.full(10, np.nan), alpha=0.05)).all()


def test_accelerated_bounds_agree_with_scipy():
    values = np.random.default_rng(3).exponential(size=60)
    draws = bootstrap.resample(
        [bootstrap.totals(np.stack([values, np.ones(60)], axis=1), np.arange(60), 60)],
        60, images=60, resamples=20_000, seed=0,
    )[0]  # fmt: skip
    left_out = (values.sum() - values) / 59
    found = bootstrap.accelerated(draws[:, 0] / draws[:, 1], values.mean(), left_out, alpha=0.05)
    expected = scipy_bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.01)


def test_accelerated_bounds_of_a_difference_without_spread_are_the_difference():
    assert bootstrap.accelerated(np.zeros(500), 0.0, np.zeros(30), alpha=0.05) == (0.0, 0.0)
    assert np.isnan(bootstrap.accelerated(np.full(10, np.nan), 0.0, np.zeros(3), alpha=0.05)).all()
