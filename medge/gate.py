"""The gate: what must hold of engine minus float, each as a check with a verdict.

A difference passes where its one-sided lower bound is above the margin, fails where its upper bound is below it,
and is inconclusive in between, with the number of images of each class that would decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from medge.metrics import Model
from medge.recipe import ValidateSection
from medge.statistics.bootstrap import percentiles
from medge.statistics.delong import paired_macro_auc
from medge.statistics.intervals import newcombe, tango, wilson
from medge.statistics.samplesize import LARGEST, factor_for_difference, images_for_proportions
from medge.statistics.scores import one_vs_rest

__all__ = ["Beside", "Check", "checks", "worst"]

Floats = NDArray[np.float64]
Number = float
Resampled = Mapping[str, Mapping[str, Floats]]  # model -> metric -> [resamples]


@dataclass(frozen=True)
class Beside:
    """Another interval of the same difference, at the same level; reported, not decisive."""

    method: str
    lower: float
    upper: float


@dataclass(frozen=True)
class Check:
    """One line of the gate. difference = engine - float; lower and upper are one-sided bounds at the recipe's alpha.

    needed: images of each class that would decide an inconclusive check with 80 % power if what was seen is true;
    None where the check is decided, or where the difference sits on the margin and no number would.
    """

    quantity: str
    method: str
    float: Number | None
    engine: Number | None
    difference: Number
    lower: Number | None
    upper: Number | None
    margin: Number
    verdict: str
    needed: dict[str, int] | None = None
    beside: tuple[Beside, ...] = ()


def checks(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> tuple[Check, ...]:
    """Every check of the gate; `models` and `resampled` hold `float`, `carried`, `refitted`."""
    used = section.transfer
    found = [_auc(models, resampled, section)]
    if models["float"].classes == 2:
        for name, of_class, margin in (
            ("sensitivity", 1, section.margins.sensitivity),
            ("specificity", 0, section.margins.specificity),
        ):
            for at in ("carried", "refitted"):
                pair = (models["float"], models[at])
                drawn = resampled[at][name] - resampled["float"][name]
                found.append(_share(f"{name}_{at}", pair, of_class, margin=margin, alpha=section.alpha, drawn=drawn))
    else:
        pair = (models["float"], models[used])
        for k in range(models["float"].classes):
            drawn = resampled[used][f"recall_{k}"] - resampled["float"][f"recall_{k}"]
            margin = section.margins.sensitivity
            found.append(_share(f"recall_{k}", pair, k, margin=margin, alpha=section.alpha, drawn=drawn))
        drawn = resampled[used]["accuracy"] - resampled["float"]["accuracy"]
        margin = section.margins.accuracy
        found.append(_share("accuracy", pair, None, margin=margin, alpha=section.alpha, drawn=drawn))
    found.append(_f1(models, resampled, section))
    found.append(_flips(models, section))
    found.append(_ece(models, resampled, section))
    return tuple(found)


def worst(verdicts: list[str]) -> str:
    """fail, else inconclusive, else pass. Raises ValueError for no verdict at all: nothing passes unchecked."""
    if not verdicts:
        raise ValueError("no check was made")
    return next(v for v in ("fail", "inconclusive", "pass") if v in verdicts)


def _verdict(lower: float, upper: float, margin: float) -> str:
    if lower > margin:
        return "pass"
    return "fail" if upper < margin else "inconclusive"


def _auc(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> Check:
    a, b, margin, alpha = models["float"], models["carried"], section.margins.auc, section.alpha
    found = paired_macro_auc(one_vs_rest(a.logits), one_vs_rest(b.logits), a.targets, alpha=alpha)
    verdict = _verdict(found.lower, found.upper, margin)
    needed = None
    if verdict == "inconclusive" and not found.degenerate:
        factor = factor_for_difference(found.variance, found.difference - margin, alpha=alpha)
        needed = _each_class(a, factor)
    elif verdict == "inconclusive":
        # No disagreement was seen: z^2 / (n + z^2) falls below the distance to the margin at this n.
        enough = images_for_proportions(0, 0, 1, margin=margin - found.difference, alpha=alpha)
        needed = None if enough is None else _all_classes(a, enough)
    drawn = resampled["carried"]["auc"] - resampled["float"]["auc"]
    method = "paired DeLong" if a.classes == 2 else "paired DeLong, mean of one-vs-rest"
    if found.degenerate:
        method += " (no variance seen: score bound)"
    beside = (Beside("bootstrap by group", *percentiles(drawn, alpha=alpha)),)
    return Check(
        "auc", method, found.a, found.b, found.difference, found.lower, found.upper, margin, verdict, needed, beside
    )


def _share(
    quantity: str, pair: tuple[Model, Model], of_class: int | None, *, margin: float, alpha: float, drawn: Floats
) -> Check:
    """The share decided rightly, among the images of one class (of all where None)."""
    a, b = pair
    mask = np.ones(len(a.labels), dtype=bool) if of_class is None else a.labels == of_class
    first, second = (a.decisions == a.labels)[mask], (b.decisions == b.labels)[mask]
    images = int(mask.sum())
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    both = int((first & second).sum())
    lower, upper = tango(gained, lost, images, alpha=alpha)
    verdict = _verdict(lower, upper, margin)
    needed = None
    if verdict == "inconclusive":
        enough = images_for_proportions(gained, lost, images, margin=margin, alpha=alpha)
        name = "all" if of_class is None else f"class_{of_class}"
        needed = None if enough is None else {name: max(enough, images + 1)}
    hybrid = newcombe(both, gained, lost, images - both - gained - lost, alpha=alpha)
    beside = (Beside("Newcombe method 10", *hybrid), Beside("bootstrap by group", *percentiles(drawn, alpha=alpha)))
    values = (float(first.mean()), float(second.mean()), (gained - lost) / images)
    return Check(quantity, "Tango score interval", *values, lower, upper, margin, verdict, needed, beside)


def _f1(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> Check:
    margin, alpha = section.margins.f1, section.alpha
    drawn = resampled[section.transfer]["f1"] - resampled["float"]["f1"]
    first, second = _f1_of(models["float"]), _f1_of(models[section.transfer])
    lower, upper = percentiles(drawn, alpha=alpha)
    method = "paired bootstrap by group" + ("" if models["float"].classes == 2 else ", mean over classes")
    if np.isnan(lower):
        return Check("f1", method, first, second, second - first, None, None, margin, "inconclusive")
    verdict = _verdict(lower, upper, margin)
    needed = None
    if verdict == "inconclusive":
        factor = factor_for_difference(float(np.nanvar(drawn)), second - first - margin, alpha=alpha)
        needed = _each_class(models["float"], factor)
    return Check("f1", method, first, second, second - first, lower, upper, margin, verdict, needed)


def _flips(models: Mapping[str, Model], section: ValidateSection) -> Check:
    changed = int((models["float"].decisions != models[section.transfer].decisions).sum())
    images = len(models["float"].labels)
    bounds = wilson(changed, images, alpha=section.alpha)
    limit = section.margins.flips
    verdict = "pass" if changed / images <= limit else "fail"
    return Check("flips", "share against its limit", None, None, changed / images, *bounds, limit, verdict)


def _ece(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> Check:
    from medge.statistics.calibration import confidence, expected_calibration_error

    first, second = (
        expected_calibration_error(*confidence(model.calibrated, model.labels))
        for model in (models["float"], models["carried"])
    )
    bounds = percentiles(resampled["carried"]["ece"] - resampled["float"]["ece"], alpha=section.alpha)
    limit = section.margins.ece
    verdict = "pass" if second - first <= limit else "fail"
    return Check("ece", "difference against its limit", first, second, second - first, *bounds, limit, verdict)


def _f1_of(model: Model) -> float:
    from sklearn.metrics import f1_score

    average = "binary" if model.classes == 2 else "macro"
    return float(f1_score(model.labels, model.decisions, average=average, zero_division=0.0))


def _each_class(model: Model, factor: float | None) -> dict[str, int] | None:
    """The present number of images of each class times `factor`, at least one more than now."""
    counts = np.bincount(model.labels, minlength=model.classes)
    if factor is None or factor * counts.sum() > LARGEST:
        return None
    return {f"class_{k}": max(ceil(factor * int(n)), int(n) + 1) for k, n in enumerate(counts)}


def _all_classes(model: Model, images: int) -> dict[str, int]:
    return {f"class_{k}": images for k in range(model.classes)}
