"""McNemar's exact test, reported beside the gate and never used by it: p > 0.05 is not equivalence."""

from __future__ import annotations

from scipy.stats import binomtest

__all__ = ["exact_p"]


def exact_p(gained: int, lost: int) -> float:
    """Two-sided p of `gained` against `lost` discordant pairs under a fair coin (McNemar, Psychometrika 12 (1947)
    153-157, in its exact form). 1 where there is no discordant pair."""
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
