"""From logits to probabilities and a decision."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np

from medge.runtime.bundle import OperatingPoint

__all__ = ["decide", "probabilities"]

Array = Any


def probabilities(logits: Array, *, temperature: float) -> Array:
    """softmax(logits / temperature), float64 [..., classes].

    Operation for operation medge.statistics.scores.softmax, so that an image on the threshold is decided as it was
    validated.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    top = scaled.max(axis=-1, keepdims=True)
    return np.exp(scaled - (top + np.log(np.exp(scaled - top).sum(axis=-1, keepdims=True))))


def decide(probability: Sequence[float], *, labels: Sequence[str], point: OperatingPoint) -> str:
    """The positive class where its probability reaches the threshold, else the other; without a threshold the most
    probable class (the first of equals)."""
    if point.threshold is None:
        return labels[int(np.argmax(probability))]
    positive: Optional[str] = point.positive
    index = list(labels).index(str(positive))
    return labels[index] if probability[index] >= point.threshold else labels[1 - index]
