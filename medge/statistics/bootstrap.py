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
from scipy.stats import norm

__all__ = [
    "Statistic",
    "accelerated",
    "acceleration",
    "group_index",
    "group_sums",
    "percentiles",
    "ranking",
    "resample",
    "totals",
]

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

    `images` bounds the memory: about 12 arrays of 2^19 numbers (or `images`, if more) for each of two workers. The
    draws depend on the seed, `groups` and `images` alone.
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
    sums = group_sums(values, index, groups)
    return lambda weights: np.asarray(weights @ sums, dtype=np.float64)


def group_sums(values: Floats, index: Ints, groups: int) -> Floats:
    """Sums [groups, k] of per-image values [N, k]."""
    return np.stack([np.bincount(index, weights=column, minlength=groups) for column in values.T], axis=1)


def ranking(scores: Floats, positive: Bools, index: Ints) -> Statistic:
    """AUC (ties count half) and average precision, [resamples, 2], from one sort of the scores [N].

    Average precision is the sum over thresholds of precision times the gain in recall, as scikit-learn has it. A
    resample without both classes is NaN.
    """
    order = np.argsort(-scores, kind="stable")
    yes, no = order[positive[order]], order[~positive[order]]
    down, down_no = -scores[yes], -scores[no]
    above, with_ties = (np.searchsorted(down_no, down, side=side) for side in ("left", "right"))
    last = np.searchsorted(down, down, side="right") - 1  # the last positive of each one's tie
    ties_across, ties_within = bool((above != with_ties).any()), bool((last != np.arange(len(yes))).any())
    group_of_yes, group_of_no = index[yes], index[no]

    def statistic(weights: Floats) -> Floats:
        rows = np.take(weights, group_of_yes, axis=1)
        # one zero in front: entry k holds the weight of the k highest negatives
        negatives = np.zeros((len(weights), len(no) + 1))
        np.cumsum(np.take(weights, group_of_no, axis=1), axis=1, out=negatives[:, 1:])
        found = np.cumsum(rows, axis=1)
        all_yes, all_no = found[:, -1].copy(), negatives[:, -1].copy()
        false_alarms = np.take(negatives, with_ties, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            beaten_by = np.einsum("ij,ij->i", rows, false_alarms)
            if ties_across:
                beaten_by = 0.5 * (beaten_by + np.einsum("ij,ij->i", rows, np.take(negatives, above, axis=1)))
            if ties_within:
                found = np.take(found, last, axis=1)
            false_alarms += found
            found /= np.maximum(false_alarms, 1.0, out=false_alarms)  # precision at each positive
            area = 1.0 - beaten_by / (all_yes * all_no)
            average = np.einsum("ij,ij->i", rows, found) / all_yes
        average[all_no == 0] = np.nan
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


def accelerated(values: Floats, estimate: float, left_out: Floats, *, alpha: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bounds (BCa; Efron, J. Am. Stat. Assoc. 82 (1987) 171-185), one-sided at alpha.

    values: the resampled statistic; left_out [groups]: the statistic without each group, whose skewness says how the
    spread changes with the truth. A plain percentile is too narrow where few decisions change: their number has a
    variance that grows with it. NaN where more than half of the resamples do not exist; without spread the estimate.
    """
    known = values[~np.isnan(values)]
    if len(known) <= 0.5 * len(values):
        return float("nan"), float("nan")
    skewed = acceleration(left_out)
    if skewed is None or np.ptp(known) == 0.0:
        return percentiles(known, alpha=alpha)
    below = (known < estimate).mean() + 0.5 * (known == estimate).mean()
    bias = norm.ppf(np.clip(below, 1 / (len(known) + 1), len(known) / (len(known) + 1)))
    shifted = bias + norm.ppf([alpha, 1 - alpha])
    levels = norm.cdf(bias + shifted / np.maximum(1 - skewed * shifted, 1e-6))
    lower, upper = np.quantile(known, levels)
    return float(lower), float(upper)


def acceleration(left_out: Floats) -> float | None:
    """A sixth of the skewness of a statistic, from its values without each group (Efron 1987, equation 7.3); None
    where every group says the same."""
    away = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    spread = float((away**2).sum())
    return None if spread == 0.0 else float((away**3).sum()) / (6 * spread**1.5)
