"""How many images would decide a check that these could not, if what they showed is the truth."""

from __future__ import annotations

from math import ceil, sqrt

from scipy.optimize import brentq
from scipy.stats import norm

from medge.statistics.intervals import restricted_variance

__all__ = ["LARGEST", "POWER", "factor_for_difference", "images_for_proportions", "power_of_difference"]

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


def power_of_difference(distance: float, reach: float, skewness: float = 0.0) -> float:
    """How often a bound that lies `reach` below its estimate leaves the margin behind, `distance` below the truth.

    All in standard errors. Where the estimate is skewed its spread moves with it, s = 1 + skewness z / 2 for an
    estimate z standard errors from the truth (the covariance of mean and variance is the third moment: Johnson, J. Am.
    Stat. Assoc. 73 (1978) 536-544), so that z > reach s - distance is asked for:
    Phi((distance - reach) / (1 - reach skewness / 2)).
    """
    return float(norm.cdf((distance - reach) / max(1 - reach * skewness / 2, 0.1)))


def factor_for_difference(
    variance: float, distance: float, *, alpha: float, reach: float | None = None, skewness: float = 0.0
) -> float | None:
    """How many times as many images decide a difference with 80 % power (`power_of_difference`), at least 1.

    variance: of the estimate now. distance: difference minus margin. reach: from the estimate to the bound that is to
    leave the margin, now, in the unit of the difference; a normal one's if None, and then the answer is ((z_alpha +
    z_beta) sd / distance)^2. skewness: of the estimate now. With n times the images the skewness, and what the reach
    has beyond the normal one, shrink by the root of n. None where the distance is zero or no number decides.
    """
    if distance == 0 or variance <= 0:
        return None
    z, spread, side = float(norm.isf(alpha)), sqrt(variance), 1 if distance > 0 else -1
    excess = 0.0 if reach is None else reach / spread - z

    def missing(factor: float) -> float:
        root = sqrt(factor)
        return POWER - power_of_difference(abs(distance) / spread * root, z + excess / root, side * skewness / root)

    if missing(1.0) <= 0:
        return 1.0
    return None if missing(LARGEST) > 0 else float(brentq(missing, 1.0, LARGEST, rtol=1e-6))


def _count(reach: float, distance: float) -> int | None:
    if distance == 0:
        return None
    needed = ceil((reach / distance) ** 2)
    return needed if needed <= LARGEST else None
