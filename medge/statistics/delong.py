"""Paired comparison of two areas under the ROC curve on the same images.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845; computed in n log n by midranks after Sun and Xu,
IEEE Signal Processing Letters 21 (2014) 1389-1393. Images of one patient are alike: `clustered_bounds` sums the
influence of a group before it is squared (Obuchowski, Biometrics 53 (1997) 567-578) and knows of skewness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from medge.errors import DataError

__all__ = ["PairedAuc", "auc_with_influence", "clustered_bounds", "paired_auc", "paired_macro_auc"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class PairedAuc:
    """AUC of a and b, difference b - a, its variance, and one-sided bounds at level alpha each.

    `degenerate`: both separate the classes wholly, so that no variance is seen, yet rank differently; see `_reach`.
    The clustered bounds, variance and skewness are those of `clustered_bounds`.
    """

    a: float
    b: float
    difference: float
    variance_a: float
    variance_b: float
    covariance: float
    variance: float
    lower: float
    upper: float
    degenerate: bool
    clustered_lower: float
    clustered_upper: float
    clustered_variance: float
    clustered_skewness: float


def paired_auc(
    scores_a: Floats, scores_b: Floats, positive: Bools, *, alpha: float = 0.05, index: Ints | None = None
) -> PairedAuc:
    """Compares scores [N] of two models on the same images; `positive` [N] marks the positive class, `index` [N] is
    the number of each image's group, without which every image is its own.

    Raises DataError where a class has fewer than two images.
    """
    return paired_macro_auc(scores_a[:, None], scores_b[:, None], positive[:, None], alpha=alpha, index=index)


def paired_macro_auc(
    scores_a: Floats, scores_b: Floats, targets: Bools, *, alpha: float = 0.05, index: Ints | None = None
) -> PairedAuc:
    """The same for the mean of K one-vs-rest areas: scores and targets [N, K].

    Each area's influence values sum, squared, to DeLong's variance; the mean area's are their mean, so that the
    covariance between classes is counted. With K = 1 this is DeLong's estimate exactly.
    """
    a, influence_a = _mean_influence(scores_a, targets)
    b, influence_b = _mean_influence(scores_b, targets)
    difference = influence_b - influence_a
    variance = float(difference @ difference)
    same_ranks = all(np.array_equal(rankdata(x), rankdata(y)) for x, y in zip(scores_a.T, scores_b.T, strict=True))
    # Where classes overlap, equal placements of every image are agreement; where they do not, they are no evidence.
    separated = max(a, 1 - a) >= 1 - 1e-12
    degenerate = variance < _ZERO and separated and not same_ranks
    smaller_class = int(np.minimum(targets.sum(axis=0), (~targets).sum(axis=0)).min())
    reach = _reach(0.0 if variance < _ZERO else variance, smaller_class, alpha, degenerate=degenerate)
    clustered = (b - a - reach, b - a + reach, variance, 0.0)
    if degenerate and index is not None:
        reach_of_groups = _reach(0.0, _fewest_groups(targets, index), alpha, degenerate=True)
        clustered = (b - a - reach_of_groups, b - a + reach_of_groups, variance, 0.0)
    elif variance >= _ZERO:
        clustered = clustered_bounds(b - a, difference, index, alpha=alpha)
    return PairedAuc(
        a=a,
        b=b,
        difference=b - a,
        variance_a=float(influence_a @ influence_a),
        variance_b=float(influence_b @ influence_b),
        covariance=float(influence_a @ influence_b),
        variance=variance,
        lower=max(-1.0, b - a - reach),
        upper=min(1.0, b - a + reach),
        degenerate=degenerate,
        clustered_lower=max(-1.0, clustered[0]),
        clustered_upper=min(1.0, clustered[1]),
        clustered_variance=clustered[2],
        clustered_skewness=clustered[3],
    )


def clustered_bounds(
    estimate: float, influence: Floats, index: Ints | None, *, alpha: float
) -> tuple[float, float, float, float]:
    """One-sided bounds of a difference of (mean) areas at level alpha each, its variance and its skewness, by group.

    influence [N]: of each image, as `auc_with_influence` has it; index [N]: group numbers, None where
    every image is its own. The variance is the sum of squares of the groups' summed influence (Obuchowski 1997; its
    factor I / (I - 1) with I groups for every I images is taken once, over all groups). With x the distance to a bound
    in standard errors and g the skewness of the groups' influence, x + g / 6 + g x^2 / 3 = q is solved: Johnson's
    modified t (J. Am. Stat. Assoc. 73 (1978) 536-544), x kept at 2 (q - g / 6) where there is no root. q = z +
    (z^3 + z) / (4 f) is the first term of Student's quantile (Fisher 1925), 1 / f the sum of the fourth powers of
    the groups' shares: half of Satterthwaite's degrees of freedom of the variance, which simulation asked for.
    A difference of areas near one is skewed and its variance grows with the loss, so that the plain bound passes too
    often.
    """
    z = float(norm.isf(alpha))
    summed = influence if index is None else np.bincount(index, weights=influence)
    if index is not None:
        images, groups = len(influence), len(np.unique(index))
        summed = summed * np.sqrt(groups / max(groups - 1, 1) * (images - 1) / images)
    variance = float(summed @ summed)
    if variance < _ZERO:
        return estimate, estimate, 0.0, 0.0
    spread = float(np.sqrt(variance))
    share = summed / spread
    tilt = float((share**3).sum()) / 6
    quantile = z + (z**3 + z) / 4 * float((share**4).sum())
    lower, upper = estimate - spread * _johnson(quantile, tilt), estimate + spread * _johnson(quantile, -tilt)
    return lower, upper, variance, 6 * tilt


def _johnson(quantile: float, tilt: float) -> float:
    """The x with x + tilt + 2 tilt x^2 = quantile."""
    return max(0.0, 2 * (quantile - tilt) / (1 + float(np.sqrt(max(0.0, 1 + 8 * tilt * (quantile - tilt))))))


def _fewest_groups(targets: Bools, index: Ints) -> int:
    """Of every class and its rest, the number of groups that have an image of it: the smallest."""
    sides = [side for column in targets.T for side in (column, ~column)]
    return min(len(np.unique(index[side])) for side in sides)


def auc_with_influence(scores: Floats, positive: Bools) -> tuple[float, Floats]:
    """The area (ties count half) and each image's influence on it [N], whose squares sum to DeLong's variance.

    For the m positives (V10 - AUC) / sqrt(m (m - 1)), for the n negatives (V01 - AUC) / sqrt(n (n - 1)), where V10
    and V01 are DeLong's structural components.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        raise DataError(
            f"An AUC needs at least two images of each class; here are {m} positive and {n} negative ones.",
            fix="Judge more images.",
        )
    ranks = rankdata(scores)
    influence = np.empty(len(scores), dtype=np.float64)
    placed_positive = (ranks[positive] - rankdata(scores[positive])) / n
    placed_negative = 1.0 - (ranks[~positive] - rankdata(scores[~positive])) / m
    area = float(placed_positive.mean())
    influence[positive] = (placed_positive - area) / np.sqrt(m * (m - 1.0))
    influence[~positive] = (placed_negative - area) / np.sqrt(n * (n - 1.0))
    return area, influence


_ZERO = 1e-24  # rounding of placements leaves variances of this order where the true one is zero


def _mean_influence(scores: Floats, targets: Bools) -> tuple[float, Floats]:
    pairs = [auc_with_influence(scores[:, k], targets[:, k]) for k in range(scores.shape[1])]
    return float(np.mean([area for area, _ in pairs])), np.mean([influence for _, influence in pairs], axis=0)


def _reach(variance: float, smaller_class: int, alpha: float, *, degenerate: bool) -> float:
    """How far a one-sided bound lies from the estimate.

    Two models that rank alike have no variance, and their bound is the estimate. Two that rank differently and show
    none (both separate the classes wholly) have shown no disagreement in `smaller_class` images, which is not proof
    that there is none: the bound is that of Tango's interval without a discordant pair, z^2 / (n + z^2).
    """
    z = float(norm.isf(alpha))
    return z * z / (smaller_class + z * z) if degenerate else z * float(np.sqrt(variance))
