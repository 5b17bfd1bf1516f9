"""How many images would decide a check that these could not, if what they showed is the truth."""

from __future__ import annotations

from math import ceil, sqrt

from scipy.stats import norm

from medge.statistics.intervals import restricted_variance

__all__ = ["LARGEST", "POWER", "factor_for_difference", "images_for_proportions"]

POWER = 0.8
LARGEST = 10_000_000  # beyond this the answer is "no number": the difference sits on the margin


def images_for_proportions(gained: int, lost: int, images: int, *, margin: float, alpha: float) -> int | None:
    """Images of the class with which Tango's interval leaves the margin with 80 % power at the observed rates.

    n = ((z_alpha sqrt(v0) + z_beta sqrt(v1)) / (d - margin))^2, v0 the variance of a pair at the margin, v1 at the
    observed difference d: Nam, Biometrics 53 (1997) 1422-1430. None where d is the margin.
    """
    difference = (gained - lost) / images
    at_margin = restricted_variance(gained / images, lost / images, margin)
    observed = max(0.0, (gained + lost) / images - difference * difference)
    return _count(norm.isf(alpha) * sqrt(at_margin) + norm.isf(1 - POWER) * sqrt(observed), difference - margin)


def factor_for_difference(variance: float, distance: float, *, alpha: float) -> float | None:
    """How many times as many images decide a normal difference with 80 % power: ((z_alpha + z_beta) sd / distance)^2.

    `variance` is that of the estimate now, `distance` difference minus margin. None where the distance is zero.
    """
    if distance == 0:
        return None
    return float(((norm.isf(alpha) + norm.isf(1 - POWER)) ** 2) * variance / distance**2)


def _count(reach: float, distance: float) -> int | None:
    if distance == 0:
        return None
    needed = ceil((reach / distance) ** 2)
    return needed if needed <= LARGEST else None
