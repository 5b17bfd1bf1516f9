"""Intervals of a proportion and of the difference of two proportions on the same images.

One-sided bounds at level alpha each, so that (lower, upper) is a two-sided interval at 1 - 2 alpha.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from medge.errors import DataError

__all__ = ["design_effect", "newcombe", "tango", "tango_statistic", "wilson"]


def wilson(successes: int, trials: int, *, alpha: float = 0.025) -> tuple[float, float]:
    """Wilson's score interval of a proportion (J. Am. Stat. Assoc. 22 (1927) 209-212).

    Raises DataError where there is no trial.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise DataError(f"No proportion in {successes} of {trials}.", fix="Judge at least one image.")
    z = float(norm.isf(alpha))
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    lower = 0.0 if successes == 0 else max(0.0, middle - reach)
    return lower, 1.0 if successes == trials else min(1.0, middle + reach)


def tango(gained: float, lost: float, images: float, *, alpha: float = 0.05) -> tuple[float, float]:
    """Score interval of the difference (gained - lost) / images of two paired proportions.

    gained: images right by the second model only; lost: right by the first only; all three may be effective numbers,
    divided by a `design_effect`. Tango, Statistics in Medicine 17
    (1998) 891-908. Without a discordant pair it is -+ z^2 / (images + z^2): never a point. Raises DataError where
    there is no image.
    """
    _check_table(gained, lost, images)
    z = float(norm.isf(alpha))
    estimate = (gained - lost) / images
    lower, upper = -1.0, 1.0
    if gained - lost > -images:
        lower = brentq(lambda d: tango_statistic(gained, lost, images, d) - z, -1 + 1e-12, estimate, xtol=1e-12)
    if gained - lost < images:
        upper = brentq(lambda d: tango_statistic(gained, lost, images, d) + z, estimate, 1 - 1e-12, xtol=1e-12)
    return float(lower), float(upper)


def design_effect(changes: NDArray[np.int64], index: NDArray[np.int64]) -> float:
    """By how many times alike images of a group raise the variance of the mean change: at least 1.

    changes [N]: 1 gained, -1 lost, 0 neither; index [N]: number of each image's group. The squares of the groups'
    summed deviations over those of the images (Obuchowski, Stat. Med. 17 (1998) 1495-1507); counts divided by it
    make an interval for independent images one for clustered ones (Rao and Scott, Biometrics 48 (1992) 577-585).
    Where few decisions change it cannot be seen, so that one changed image whose whole group is alike is added to
    both sums: without any change the effect is the largest possible, sum of m^2 / N with m images in a group.
    """
    _, numbers, sizes = np.unique(index, return_inverse=True, return_counts=True)
    images, groups = len(changes), len(sizes)
    if groups == images:
        return 1.0
    deviations = changes - changes.mean()
    of_groups = np.bincount(numbers, weights=deviations, minlength=groups)
    largest = float((sizes.astype(np.float64) ** 2).sum()) / images
    between = float(of_groups @ of_groups) * groups / max(groups - 1, 1)
    return max(1.0, (between + largest) / (float(deviations @ deviations) + 1.0))


def tango_statistic(gained: float, lost: float, images: float, difference: float) -> float:
    """Score statistic of the hypothesis that the true difference is `difference`; standard normal under it.

    (b - c - n d) / sqrt(n (2 q + d (1 - d))) with b gained, c lost and q the restricted maximum likelihood estimate
    of the share lost. Zero over zero (no discordant pair, d = 0) is zero.
    """
    distance = gained - lost - images * difference
    variance = restricted_variance(gained / images, lost / images, difference)
    if variance <= 0.0:
        return 0.0 if distance == 0 else (float("inf") if distance > 0 else float("-inf"))
    return float(distance / sqrt(images * variance))


def restricted_variance(gained: float, lost: float, difference: float) -> float:
    """Variance of one pair's difference when the true difference is `difference`, given the observed shares.

    2 q + d (1 - d), q the root of 2 q^2 + B q + C = 0 with B = -b - c + (2 - b + c) d and C = -c d (1 - d) (Tango,
    equation 8, divided by n). For d < 0 the table is mirrored: q must be the smaller share of the two.
    """
    if difference < 0:
        gained, lost, difference = lost, gained, -difference
    slope = -gained - lost + (2 - gained + lost) * difference
    root = sqrt(max(0.0, slope * slope + 8 * lost * difference * (1 - difference)))
    share_lost = max(0.0, (root - slope) / 4)
    return 2 * share_lost + difference * (1 - difference)


def newcombe(both: int, gained: int, lost: int, neither: int, *, alpha: float = 0.05) -> tuple[float, float]:
    """Newcombe's hybrid score interval of the paired difference (gained - lost) / n.

    Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635-2650: Wilson's limits of both margins, joined by
    the correlation phi with its continuity correction. Reported beside Tango's.
    """
    images = both + gained + lost + neither
    _check_table(gained, lost, images)
    second, first = (both + gained) / images, (both + lost) / images
    low_second, high_second = wilson(both + gained, images, alpha=alpha)
    low_first, high_first = wilson(both + lost, images, alpha=alpha)
    phi = _corrected_phi(both, gained, lost, neither)
    below, above = second - low_second, high_first - first
    lower = second - first - sqrt(max(0.0, below * below - 2 * phi * below * above + above * above))
    below, above = first - low_first, high_second - second
    upper = second - first + sqrt(max(0.0, below * below - 2 * phi * below * above + above * above))
    return max(-1.0, lower), min(1.0, upper)


def _corrected_phi(both: int, gained: int, lost: int, neither: int) -> float:
    images = both + gained + lost + neither
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    cross = float(both * neither - gained * lost)
    if cross > 0:
        cross = max(0.0, cross - images / 2)
    return cross / sqrt(margins)


def _check_table(gained: float, lost: float, images: float) -> None:
    if images < 1 or gained < 0 or lost < 0 or gained + lost > images * (1 + 1e-12):
        raise DataError(f"No pairs: {gained} gained and {lost} lost of {images}.", fix="Judge at least one image.")
