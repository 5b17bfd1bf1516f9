"""The decision threshold, by a named rule, on validation scores. A score at or above it is positive."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medge.errors import DataError, RecipeError
from medge.statistics.scores import score_of_probability

__all__ = ["Rule", "fit", "parse"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """`kind`: youden, sensitivity, specificity or fixed; `value`: the share to keep, or the fixed probability."""

    kind: str
    value: float = 0.0


def parse(text: str) -> Rule:
    """A rule from a recipe: `youden`, `sensitivity>=0.95`, `specificity>=0.90` or a probability such as `0.5`.

    Raises RecipeError for anything else.
    """
    text = text.strip()
    if text == "youden":
        return Rule("youden")
    kept = re.fullmatch(r"(sensitivity|specificity)\s*>=\s*([0-9]*\.?[0-9]+)", text)
    if kept and 0 < float(kept[2]) <= 1:
        return Rule(kept[1], float(kept[2]))
    if re.fullmatch(r"[0-9]*\.?[0-9]+", text) and 0 < float(text) < 1:
        return Rule("fixed", float(text))
    raise RecipeError(
        f"No threshold rule {text!r}.",
        fix="Write youden, sensitivity>=0.95, specificity>=0.90, or a probability between 0 and 1.",
    )


def fit(rule: Rule, scores: Floats, positive: Bools) -> float:
    """The threshold as a score (log odds), midway between two neighbouring distinct scores.

    youden: sensitivity + specificity is greatest; of equals, the most sensitive. sensitivity>=x: the most specific
    point that keeps it; specificity>=x: the most sensitive one. Counts are compared as integers, so neither
    row order nor rounding moves the choice. Raises DataError where a class is missing.
    """
    if rule.kind == "fixed":
        return score_of_probability(rule.value)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        raise DataError(
            f"A threshold needs both classes: {positives} positive, {negatives} negative.",
            fix="Add images of the other.",
        )
    levels, inverse = np.unique(scores, return_inverse=True)
    # cut k puts levels k and above on the positive side; k = 0 is all positive, k = len(levels) all negative
    missed = np.concatenate([[0], np.cumsum(np.bincount(inverse[positive], minlength=len(levels)))])
    cleared = np.concatenate([[0], np.cumsum(np.bincount(inverse[~positive], minlength=len(levels)))])
    found = positives - missed
    if rule.kind == "youden":
        k = int(np.argmax(found * negatives + cleared * positives))  # argmax takes the first: the most sensitive
    elif rule.kind == "sensitivity":
        k = int(np.flatnonzero(found >= _at_least(rule.value, positives))[-1])
    else:
        k = int(np.flatnonzero(cleared >= _at_least(rule.value, negatives))[0])
    return _between(levels, k)


def _at_least(share: float, count: int) -> int:
    """The smallest number of images that is `share` of `count`; 0.95 of 100 is 95 although 0.95 * 100 > 95."""
    return int(np.ceil(share * count - 1e-9))


def _between(levels: Floats, k: int) -> float:
    if k == 0:
        return float(levels[0]) - 1.0
    if k == len(levels):
        return float(levels[-1]) + 1.0
    middle = 0.5 * (float(levels[k - 1]) + float(levels[k]))
    return middle if middle > levels[k - 1] else float(levels[k])  # neighbours in float64 have no middle
