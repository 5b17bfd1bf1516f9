"""Fitting the refusal of unlike images: pure functions over an engine's own pooled features.

Fitted on training images, the threshold on validation images; scored by medge.runtime.ood, on the host as on the
device. Chosen by measurement (docs/decisions/0007): of the full, low-rank and relative Mahalanobis distances and k
nearest neighbours, the low-rank Mahalanobis distance refused most of what should be, with the smallest table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from medge.errors import DataError
from medge.runtime.ood import Detector, normalised, scores
from medge.statistics.intervals import wilson

__all__ = [
    "BANK",
    "DIRECTIONS",
    "Threshold",
    "blank_images",
    "fit",
    "noise_images",
    "refusals",
    "scores",
    "threshold_of",
    "with_threshold",
]

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]
DIRECTIONS = 64  # of the covariance that keep a variance of their own
BANK = 1000  # features that the nearest neighbours are looked for in
NEIGHBOURS = 10


@dataclass(frozen=True)
class Threshold:
    """`value` is the `order`-th smallest of the `images` validation scores. `upper`: one-sided 95 % bound of the share
    of like images that it refuses. `guaranteed`: whether there were enough images for the named rate at all."""

    value: float
    order: int
    images: int
    upper: float
    guaranteed: bool


def fit(method: str, features: NDArray[Any], labels: NDArray[np.int64], *, seed: int) -> Detector:
    """A detector without a threshold (infinite) from training features [N, D] and class indices [N].

    Raises DataError where there are fewer than three images or a feature is not finite.
    """
    if len(features) < 3 or not np.isfinite(features).all():
        raise DataError(
            f"Unlike images cannot be told from {len(features)} training images, or a feature is not finite.",
            fix="Raise stress.ood.train_images, or leave it out: stress.ood=null.",
        )
    x = normalised(features)
    return _neighbours(x, seed) if method == "knn" else _mahalanobis(x, labels)


def threshold_of(validation: Floats, rate: float) -> Threshold:
    """The threshold that refuses a like image with a probability of at most `rate`.

    The ceil((1 - rate)(n + 1))-th smallest of n validation scores: a new score from the same source exceeds it with a
    probability of at most `rate` whatever the distribution (conformal prediction: Papadopoulos et al., ECML 2002; Lei
    et al., J. Am. Stat. Assoc. 113 (2018) 1094-1111). That is over the draw of the validation images too; given
    these ones the share refused is Beta(n + 1 - order, order), whose 95 % quantile is `upper` (Vovk, ACML 2012). With
    n < 1 / rate - 1 no order statistic keeps the rate: the largest is taken, and `guaranteed` is False. Images of one
    patient are not independent, which neither figure knows. Raises DataError for no score or one that is no number.
    """
    images = len(validation)
    if images == 0 or not np.isfinite(validation).all():
        raise DataError("A threshold needs validation scores that are numbers.", fix="Add validation images.")
    wanted = ceil((1 - rate) * (images + 1) - 1e-9)
    order = min(wanted, images)
    value = float(np.sort(validation)[order - 1])
    return Threshold(value, order, images, float(beta.ppf(0.95, images + 1 - order, order)), wanted <= images)


def refusals(found: Floats, threshold: float) -> dict[str, Any]:
    """{images, refused, rate, lower, upper}: how many of these scores are refused, with Wilson's 95 % interval."""
    refused = int((~(found <= threshold)).sum())
    lower, upper = wilson(refused, len(found))
    return {
        "images": len(found),
        "refused": refused,
        "rate": refused / len(found),
        "lower": lower,
        "upper": upper,
    }


def blank_images(height: int, width: int) -> Images:
    """Frames of one grey each, from black to white: uint8 [18, height, width, 3]."""
    return np.stack([np.full((height, width, 3), grey, dtype=np.uint8) for grey in range(0, 256, 15)])


def noise_images(height: int, width: int, *, seed: int) -> Images:
    """Uniform noise and normal noise of means 64, 128, 192 and deviations 10, 25, 50, 80, one plane copied to all
    channels and three planes, twice each: uint8 [52, height, width, 3]."""
    random = np.random.default_rng([seed, 7])
    drawn = []
    for planes in (1, 3):
        shape = (height, width, planes)
        for _ in range(2):
            drawn.append(random.uniform(0, 256, shape))
            drawn += [random.normal(mean, spread, shape) for mean in (64, 128, 192) for spread in (10, 25, 50, 80)]
    return np.stack([np.broadcast_to(np.clip(x, 0, 255), (height, width, 3)).astype(np.uint8) for x in drawn])


def _mahalanobis(x: Floats, labels: NDArray[np.int64]) -> Detector:
    """Means of the classes, and the covariance within them, shrunk (Ledoit and Wolf, J. Multivar. Anal. 88 (2004)
    365-411), of which the DIRECTIONS of most variance are kept and the rest is levelled."""
    from sklearn.covariance import ledoit_wolf

    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([x[index == k].mean(axis=0) for k in range(len(classes))])
    covariance, _ = ledoit_wolf(x - means[index], assume_centered=True)
    variances, vectors = np.linalg.eigh(covariance)
    variances, vectors = np.maximum(variances[::-1], 1e-12), vectors[:, ::-1]
    kept = min(DIRECTIONS, x.shape[1] - 1)
    rest = float(variances[kept:].mean())
    rows = (vectors[:, :kept] * np.sqrt(np.maximum(0, 1 - rest / variances[:kept]))).T
    table = np.concatenate([means, rows]).astype(np.float32)
    return Detector("mahalanobis", float("inf"), table, means=len(means), variance=rest)


def _neighbours(x: Floats, seed: int) -> Detector:
    rows = np.sort(np.random.default_rng([seed, 11]).permutation(len(x))[:BANK])
    table = x[rows].astype(np.float32)
    return Detector("knn", float("inf"), table, neighbours=min(NEIGHBOURS, len(table)))


def with_threshold(detector: Detector, threshold: Threshold) -> Detector:
    """The same detector, refusing above the threshold."""
    return replace(detector, threshold=threshold.value)
