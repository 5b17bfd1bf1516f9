"""Calibration: temperature, Brier, likelihood and calibration error against definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from medge.statistics import calibration
from medge.statistics.scores import log_softmax, one_vs_rest, softmax


def drawn(seed, classes, temperature, count=4000):
    """Logits whose probabilities are true once divided by `temperature`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 2
    cumulated = softmax(logits).cumsum(axis=1)
    labels = (rng.random(count)[:, None] > cumulated).sum(axis=1).clip(max=classes - 1)
    return logits * temperature, labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(classes, temperature):
    logits, labels = drawn(0, classes, temperature)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.1)


def test_temperature_minimises_the_smoothed_cross_entropy():
    logits, labels = drawn(1, 2, 1.7, count=300)
    found = calibration.fit_temperature(logits, labels)
    counts = np.bincount(labels)
    # Platt 1999: (N+ + 1) / (N+ + 2) for a positive, 1 / (N- + 2) for a negative
    target = np.where(labels == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))

    def loss(t):
        log_p = log_softmax(logits / t)
        return -np.mean(target * log_p[:, 1] + (1 - target) * log_p[:, 0])

    assert loss(found) <= min(loss(t) for t in np.geomspace(0.1, 10, 2001)) + 1e-9


def test_a_wholly_separated_set_has_a_finite_temperature():
    labels = np.arange(40) % 2
    logits = np.stack([np.zeros(40), np.where(labels == 1, 3.0, -3.0)], axis=1)
    assert 0.5 < calibration.fit_temperature(logits, labels) < 1.5


@pytest.mark.parametrize("classes", [2, 3])
def test_brier_and_likelihood_are_scikit_learns(classes):
    logits, labels = drawn(2, classes, 1.0, count=200)
    probabilities = softmax(logits)
    assert calibration.nll(logits, labels) == pytest.approx(log_loss(labels, probabilities))
    expected = brier_score_loss(labels, probabilities[:, 1]) if classes == 2 else np.mean(
        ((probabilities - np.eye(3)[labels]) ** 2).sum(axis=1)
    )  # fmt: skip
    assert calibration.brier(probabilities, labels) == pytest.approx(expected)


def test_bins_hold_equally_many_and_equal_values_share_one():
    assert np.bincount(calibration.equal_mass_bins(np.random.default_rng(0).random(150))).tolist() == [10] * 15
    assert len(set(calibration.equal_mass_bins(np.repeat([0.2, 0.9], 50)).tolist())) == 2


def test_calibration_error_is_the_gap_that_was_put_in():
    believed = np.repeat(np.linspace(0.1, 0.8, 8), 1000)
    happened = np.concatenate([np.arange(1000) < 1000 * (p + 0.1) for p in np.linspace(0.1, 0.8, 8)]).astype(float)
    assert calibration.expected_calibration_error(believed, happened) == pytest.approx(0.1, abs=1e-3)
    assert calibration.expected_calibration_error(happened, happened) == 0.0


def test_extreme_logits_keep_their_order_and_stay_finite():
    logits = np.array([[0.0, 900.0, 1.0], [0.0, 901.0, 1.0], [-800.0, 0.0, 2.0]])
    scores = one_vs_rest(logits)
    assert np.isfinite(scores).all()
    assert scores[0, 1] < scores[1, 1]
    assert np.isfinite(log_softmax(logits)).all()
    expected = np.log(softmax(logits)[2, 2] / (1 - softmax(logits)[2, 2]))
    assert scores[2, 2] == pytest.approx(expected)
