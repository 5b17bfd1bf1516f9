"""From logits to what is ranked, decided and calibrated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

__all__ = ["log_softmax", "one_vs_rest", "positive_score", "probability_of_score", "score_of_probability", "softmax"]

Floats = NDArray[np.float64]


def positive_score(logits: Floats) -> Floats:
    """logit_1 - logit_0 [N] of binary logits [N, 2]: the log odds of the positive class, which never saturate."""
    return np.asarray(logits[:, 1] - logits[:, 0], dtype=np.float64)


def one_vs_rest(logits: Floats) -> Floats:
    """Log odds of each class against all others, [N, C]; of binary logits the positive class alone, [N, 1].

    logit_k - log sum_{j != k} exp(logit_j): strictly increasing in the softmax probability, without its rounding to 1.
    """
    if logits.shape[1] == 2:
        return positive_score(logits)[:, None]
    columns = [logits[:, k] - _log_sum_exp(np.delete(logits, k, axis=1)) for k in range(logits.shape[1])]
    return np.stack(columns, axis=1)


def log_softmax(logits: Floats) -> Floats:
    """Natural logarithm of the softmax over classes, [N, C]."""
    return np.asarray(logits - _log_sum_exp(logits)[:, None], dtype=np.float64)


def softmax(logits: Floats) -> Floats:
    """Probabilities [N, C]."""
    return np.asarray(np.exp(log_softmax(logits)), dtype=np.float64)


def probability_of_score(score: float) -> float:
    """1 / (1 + exp(-score)), without overflow."""
    return float(expit(score))


def score_of_probability(probability: float) -> float:
    """Log odds of a probability strictly between 0 and 1."""
    return float(np.log(probability) - np.log1p(-probability))


def _log_sum_exp(logits: Floats) -> Floats:
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)), dtype=np.float64)
