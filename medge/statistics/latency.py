"""Ratios of latencies measured in interleaved rounds, with an interval that a machine's moods do not narrow.

In each round every engine runs one block; the two block medians of a round share the machine's state (frequency,
neighbours), so their ratio is compared and not the medians over all rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ratio", "drift", "paired_ratio"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """exp(median(log(a / b))) over rounds, with a 95 % block-bootstrap interval."""

    ratio: float
    lower: float
    upper: float

    def inverse(self) -> Ratio:
        """The ratio of b to a: exact, because medians and quantiles of negated logs are the negated ones."""
        return Ratio(1 / self.ratio, 1 / self.upper, 1 / self.lower)

    def includes(self, value: float) -> bool:
        return self.lower <= value <= self.upper


def paired_ratio(a: Floats, b: Floats, *, seed: int, resamples: int = 2000) -> Ratio:
    """Ratio of two series [rounds] of positive block medians of the same rounds, in order of time.

    Whole runs of neighbouring rounds are drawn (circular block bootstrap, length rounds ** (1/3): Politis and Romano
    1992), because a busy neighbour or a falling clock lasts for longer than one round. In simulation, 95 % intervals of
    60 rounds cover the truth in 95 % of cases where rounds are independent, in 88 % where the logs of one engine's
    neighbouring rounds correlate by 0.5; what moves both engines alike is out of the ratio. Raises ValueError where the
    series differ in length, are empty or hold what is not a positive number.
    """
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"paired series of equal length needed, found {a.shape} and {b.shape}")
    if not (np.all(a > 0) and np.all(b > 0) and np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        raise ValueError("latencies must be positive and finite")
    logs = np.log(a) - np.log(b)
    medians = _resampled_medians(logs, np.random.default_rng(seed), resamples)
    lower, upper = np.quantile(medians, [0.025, 0.975])
    return Ratio(math.exp(float(np.median(logs))), math.exp(float(lower)), math.exp(float(upper)))


def drift(blocks: Floats, *, seed: int, share: float = 0.1, resamples: int = 2000) -> Ratio:
    """The median of the last tenth (`share`) of a series [blocks] of positive block medians over that of the first.

    Each tenth is resampled by itself as in `paired_ratio`. Raises ValueError for a series of fewer than 10 blocks, or
    one that holds what is not a positive number.
    """
    if blocks.ndim != 1 or blocks.size < 10 or not (np.all(blocks > 0) and np.all(np.isfinite(blocks))):
        raise ValueError("a drift needs 10 positive and finite block medians at least")
    size = max(1, round(blocks.size * share))
    logs, random = np.log(blocks), np.random.default_rng(seed)
    first, last = logs[:size], logs[-size:]
    differences = _resampled_medians(last, random, resamples) - _resampled_medians(first, random, resamples)
    lower, upper = np.quantile(differences, [0.025, 0.975])
    value = math.exp(float(np.median(last) - np.median(first)))
    return Ratio(value, math.exp(float(lower)), math.exp(float(upper)))


def _resampled_medians(logs: Floats, random: np.random.Generator, resamples: int) -> Floats:
    """Medians [resamples] of a series, its neighbouring values drawn in runs."""
    rounds = logs.size
    length = max(1, math.ceil(rounds ** (1 / 3)))
    starts = random.integers(0, rounds, size=(resamples, math.ceil(rounds / length)))
    drawn = (starts[:, :, None] + np.arange(length)).reshape(resamples, -1)[:, :rounds] % rounds
    return np.asarray(np.median(logs[drawn], axis=1), dtype=np.float64)
