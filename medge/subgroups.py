"""The same differences within subgroups (subtype, age band, sex, site): reported, never part of the gate.

Many small groups are looked at, so that one of them will look bad by chance: a verdict here is a place to look, and a
small group says inconclusive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medge.gate import Check, auc_check, share_check, worst
from medge.metrics import Model
from medge.sections import ValidateSection

__all__ = ["MOST_LEVELS", "Subgroup", "by_subgroup"]

MOST_LEVELS = 50  # a column with more values than this names images, not subgroups


@dataclass(frozen=True)
class Subgroup:
    """Images whose `column` has this `value` (`unknown` where it is empty). A quantity for which a class has too few
    images has no check; without any check at all, or with one left out, the verdict is at best inconclusive."""

    column: str
    value: str
    images: dict[str, int]
    checks: tuple[Check, ...]
    verdict: str


def by_subgroup(
    columns: Mapping[str, tuple[str, ...]], models: Mapping[str, Model], section: ValidateSection
) -> tuple[tuple[Subgroup, ...], tuple[str, ...]]:
    """Every value of every column, and the names of columns left out for having more than MOST_LEVELS values.

    models: `float` and the engine under the recipe's `transfer`.
    """
    found, left_out = [], []
    for column, values in columns.items():
        named = np.asarray([value or "unknown" for value in values])
        levels = sorted(set(named.tolist()))
        if len(levels) > MOST_LEVELS:
            left_out.append(column)
            continue
        found += [_subgroup(column, level, named == level, models, section) for level in levels]
    return tuple(found), tuple(left_out)


def _subgroup(
    column: str, value: str, rows: NDArray[np.bool_], models: Mapping[str, Model], section: ValidateSection
) -> Subgroup:
    a, b = (_rows(models[name], rows) for name in ("float", section.transfer))
    counts = np.bincount(a.labels, minlength=a.classes)
    possible = _possible(a, b, section)
    checks = [make() for enough, make in possible if enough(counts)]
    whole = len(checks) == len(possible)
    verdict = worst([check.verdict for check in checks] + ([] if whole else ["inconclusive"]))
    images = {f"class_{k}": int(n) for k, n in enumerate(counts)}
    return Subgroup(column, value, images, tuple(checks), verdict)


Counts = NDArray[np.int64]


def _possible(
    a: Model, b: Model, section: ValidateSection
) -> list[tuple[Callable[[Counts], bool], Callable[[], Check]]]:
    """Each check with what it needs of the number of images of each class."""
    margins = section.margins

    def share(name: str, of_class: int | None, margin: float) -> Callable[[], Check]:
        return lambda: share_check(name, (a, b), of_class, margin=margin, alpha=section.alpha)

    listed: list[tuple[Callable[[Counts], bool], Callable[[], Check]]] = [
        (lambda counts: bool(counts.min() >= 2), lambda: auc_check(a, b, section))
    ]
    if a.classes == 2:
        listed.append((lambda counts: bool(counts[1]), share("sensitivity", 1, margins.sensitivity)))
        listed.append((lambda counts: bool(counts[0]), share("specificity", 0, margins.specificity)))
    else:
        listed.append((lambda counts: bool(counts.sum()), share("accuracy", None, margins.accuracy)))
    return listed


def _rows(model: Model, rows: NDArray[np.bool_]) -> Model:
    return dataclasses.replace(
        model,
        labels=model.labels[rows],
        logits=model.logits[rows],
        decisions=model.decisions[rows],
        index=None if model.index is None else model.index[rows],
    )
