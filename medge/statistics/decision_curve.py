"""Decision-curve analysis: what acting on a model is worth beside treating all or none, in true positives per image.

Vickers and Elkin, "Decision curve analysis: a novel method for evaluating prediction models", Medical Decision Making
26 (2006) 565-574.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medge.errors import DataError

__all__ = ["net_benefit", "treat_all"]

Floats = NDArray[np.float64]


def net_benefit(probabilities: Floats, positive: NDArray[np.bool_], thresholds: Floats) -> Floats:
    """[K]: TP / N - FP / N * p / (1 - p) at each threshold probability p, whoever has `probability >= p` is treated.

    p / (1 - p) is what a false positive costs in true positives, for who would be treated from the risk p on.
    probabilities [N] in 0..1, calibrated ones: net benefit takes them at their word. positive [N], thresholds [K] in
    0 <= p < 1, in any order. Treating none is worth 0. Takes N log N + K log N steps. Raises DataError for anything
    else: no image, probabilities outside 0..1 or not numbers, lengths that differ.
    """
    odds = _odds(thresholds)
    scores, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(positive)
    if scores.ndim != 1 or scores.shape != labels.shape or labels.dtype != np.bool_ or not len(scores):
        raise DataError(
            f"{scores.shape} probabilities and {labels.shape} {labels.dtype} labels.",
            fix="Give one probability and one true or false per image, of at least one image.",
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("Probabilities outside 0..1, or not numbers.", fix="Give softmax outputs, not logits.")
    order = np.argsort(scores, kind="stable")
    untreated = np.searchsorted(scores[order], np.asarray(thresholds, dtype=np.float64), side="left")
    hits = np.concatenate([[0], np.cumsum(labels[order])])  # positives among the lowest n
    true_positives = hits[-1] - hits[untreated]
    false_positives = len(scores) - untreated - true_positives
    worth: Floats = true_positives / len(scores) - false_positives / len(scores) * odds
    return worth


def treat_all(prevalence: float, thresholds: Floats) -> Floats:
    """[K]: net benefit of treating everyone, prevalence - (1 - prevalence) p / (1 - p); 0 where p is the prevalence.

    Raises DataError for a prevalence outside 0..1 or a threshold outside 0 <= p < 1.
    """
    if not 0 <= prevalence <= 1:
        raise DataError(f"A prevalence of {prevalence}.", fix="Give the positives' share of the images, 0..1.")
    worth: Floats = prevalence - (1 - prevalence) * _odds(thresholds)
    return worth


def _odds(thresholds: Floats) -> Floats:
    p = np.asarray(thresholds, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p < 1)).all():
        raise DataError("Threshold probabilities must lie in 0 <= p < 1.", fix="Give a list such as 0.05, 0.1 ... 0.9.")
    odds: Floats = p / (1 - p)
    return odds
