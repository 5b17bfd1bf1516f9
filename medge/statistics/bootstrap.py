"""Resampling by group (patient, lesion), the same resamples for every statistic, in bounded memory.

Drawing G groups with replacement gives each group a weight; every statistic here is a function of these weights, so
no image is ever copied. Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals; whole
groups are drawn because images of one patient are not independent (Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistic", "group_index", "percentiles", "ranking", "resample", "totals"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Statistic = Callable[[Floats], Floats]  # weights [resamples, groups] -> values [resamples, k]

_ELEMENTS = 1 << 19  # weights x images held at once by a worker: 4 MiB an array
_WORKERS = 2  # numpy leaves the interpreter lock while it sums


def group_index(groups: Sequence[str]) -> tuple[Ints, int]:
    """Number of each row's group [N], in the groups' alphabetical order, and how many groups there are."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index.astype(np.int64), len(names)


def resample(statistics: Sequence[Statistic], groups: int, *, images: int, resamples: int, seed: int) -> list[Floats]:
    """Each statistic's values [resamples, k] over the same `resamples` draws of `groups` groups.

    `images` bounds the memory: at most about 12 arrays of 2^19 numbers for each of two workers. The draws depend on
    the seed, `groups` and `images` alone.
    """
    size = max(1, _ELEMENTS // max(images, groups))
    starts = range(0, resamples, size)
    seeds = np.random.SeedSequence(seed).spawn(len(starts))

    def block(start: int, block_seed: np.random.SeedSequence) -> list[Floats]:
        count = min(size, resamples - start)
        drawn = np.random.default_rng(block_seed).integers(0, groups, size=(count, groups))
        drawn += np.arange(count)[:, None] * groups
        weights = np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)
        return [statistic(weights) for statistic in statistics]

    with ThreadPoolExecutor(_WORKERS) as pool:
        blocks = list(pool.map(block, starts, seeds))
    return [np.concatenate([values[k] for values in blocks]) for k in range(len(statistics))]


def totals(values: Floats, index: Ints, groups: int) -> Statistic:
    """Weighted sums [resamples, k] of per-image values [N, k]: counts of decisions, squared errors."""
    sums = np.stack([np.bincount(index, weights=column, minlength=groups) for column in values.T], axis=1)
    return lambda weights: np.asarray(weights @ sums, dtype=np.float64)


def ranking(scores: Floats, positive: Bools, index: Ints) -> Statistic:
    """AUC (ties count half) and average precision, [resamples, 2], from one sort of the scores [N].

    Average precision is the sum over thresholds of precision times the gain in recall, as scikit-learn has it. A
    resample without both classes is NaN.
    """
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    ends = np.flatnonzero(np.append(ascending[1:] != ascending[:-1], True))  # the last row of each tie
    who, positives = index[order], positive[order].astype(np.float64)
    tied = len(ends) < len(scores)

    def statistic(weights: Floats) -> Floats:
        rows = np.take(weights, who, axis=1)
        seen = np.cumsum(rows, axis=1)
        rows *= positives
        found = np.cumsum(rows, axis=1)
        if tied:
            seen, found = seen[:, ends], found[:, ends]
            rows = np.diff(found, axis=1, prepend=0.0)
        # `rows` now holds the positives of each tie, `seen` and `found` images and positives up to and with it
        all_images, all_positives = seen[:, -1:].copy(), found[:, -1:].copy()
        here = np.diff(seen, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            negatives_below = seen - found - 0.5 * (here - rows)
            area = np.einsum("ij,ij->i", rows, negatives_below)
            area /= (all_positives * (all_images - all_positives))[:, 0]
            seen -= here
            found -= rows
            precision = (all_positives - found) / np.maximum(all_images - seen, 1.0)
            average = np.einsum("ij,ij->i", rows, precision) / all_positives[:, 0]
        return np.stack([area, average], axis=1)

    return statistic


def percentiles(values: Floats, *, alpha: float) -> tuple[float, float]:
    """The alpha and 1 - alpha quantiles of resampled values, resamples in which they do not exist left out.

    NaN where more than half of them do not.
    """
    if np.isnan(values).mean() > 0.5:
        return float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=RuntimeWarning)
        lower, upper = np.nanquantile(values, [alpha, 1 - alpha])
    return float(lower), float(upper)
