"""How far probabilities can be believed, and the one parameter that mends most of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata

from medge.statistics.scores import log_softmax

__all__ = ["BINS", "brier", "confidence", "equal_mass_bins", "expected_calibration_error", "fit_temperature", "nll"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
TEMPERATURES = (1e-3, 1e3)  # a model that knows nothing would ask for infinity; scores from elsewhere have any scale


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """T > 0 of softmax(logits / T) that fits the labels best: temperature scaling, Guo et al., ICML 2017.

    logits [N, C], labels [N]. The cross entropy is taken against Platt's smoothed targets (Platt 1999: of n images of
    a class, (n + 1) / (n + C) for it), without which a set that is separated wholly asks for T = 0. It is convex in
    1 / T, so Brent's search on log T finds its one minimum; the answer is kept within TEMPERATURES.
    """
    classes = logits.shape[1]
    counts = np.bincount(labels, minlength=classes)[labels][:, None]
    targets = (np.eye(classes)[labels] * counts + 1.0) / (counts + classes)
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: float(-(targets * log_softmax(logits / np.exp(log_t))).sum(axis=1).mean()),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


def nll(logits: Floats, labels: Ints) -> float:
    """Mean negative log likelihood, in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def brier(probabilities: Floats, labels: Ints) -> float:
    """Brier score: mean (p - y)^2 of the positive class for two classes, of all classes summed for more.

    Brier, Monthly Weather Review 78 (1950) 1-3; the two-class form is half of the original.
    """
    if probabilities.shape[1] == 2:
        return float(np.mean((probabilities[:, 1] - labels) ** 2))
    truth = np.eye(probabilities.shape[1])[labels]
    return float(np.mean(((probabilities - truth) ** 2).sum(axis=1)))


def confidence(probabilities: Floats, labels: Ints) -> tuple[Floats, Floats]:
    """What calibration compares, both [N]: for two classes the positive probability and label, for more the top
    probability and whether the top class is right."""
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], labels.astype(np.float64)
    return probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(np.float64)


def equal_mass_bins(values: Floats, bins: int = BINS) -> Ints:
    """Bin [N] of each value, bins holding equally many; equal values share a bin, whatever their order."""
    return np.asarray(np.minimum(bins - 1, ((rankdata(values) - 0.5) * bins / len(values)).astype(np.int64)))


def expected_calibration_error(believed: Floats, happened: Floats, bins: int = BINS) -> float:
    """sum over equal-mass bins of |sum of believed - happened| / N (Nixon et al., CVPR workshops 2019, with one
    bin rule); both [N]. The estimate is biased upwards in small samples, alike for two models of like calibration."""
    gaps = np.bincount(equal_mass_bins(believed, bins), weights=believed - happened, minlength=bins)
    return float(np.abs(gaps).sum() / len(believed))
