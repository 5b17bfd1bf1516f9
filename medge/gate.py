"""The gate: what must hold of engine minus float, each as a check with a verdict.

A difference passes where its one-sided lower bound is above the margin, fails where its upper bound is below it,
and is inconclusive in between, with the number of images of each class that would decide. Where two bounds are made,
the plain one and one that knows of groups (and, for the AUC, of skewness), the worse of both decides. Flips and ECE are
decided by the value itself against their limit; their intervals are only shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from medge.metrics import Model
from medge.sections import ValidateSection
from medge.statistics.bootstrap import accelerated, acceleration, percentiles
from medge.statistics.calibration import confidence, expected_calibration_error
from medge.statistics.delong import PairedAuc, paired_macro_auc
from medge.statistics.intervals import design_effect, newcombe, tango, wilson
from medge.statistics.samplesize import LARGEST, factor_for_difference, images_for_proportions
from medge.statistics.scores import one_vs_rest

__all__ = ["Beside", "Check", "auc_check", "cautions", "checks", "share_check", "worst"]

Floats = NDArray[np.float64]
Number = float
_BY_GROUP = "bootstrap by group"
_SKEWED = "DeLong with skewness"
_CLUSTERED_AUC = "DeLong clustered by group, with skewness"
Resampled = Mapping[str, Mapping[str, Floats]]  # model -> metric -> [resamples]


@dataclass(frozen=True)
class Beside:
    """Another interval of the same difference, at the same level. One that decides is also in the check's
    `decided_by`; the rest are reported only."""

    method: str
    lower: float
    upper: float


@dataclass(frozen=True)
class Check:
    """One line of the gate. difference = engine - float; lower and upper are one-sided bounds at the recipe's alpha.

    needed: images of each class that would decide an inconclusive check with 80 % power if what was seen is true;
    None where the check is decided, or where the difference sits on the margin and no number would.
    lower and upper are by `method`; the verdict is by decided_lower and decided_upper, the wider of these and of
    the interval of `decided_by`, which is in `beside`. None and empty where `method` decides alone.
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
    decided_lower: Number | None = None
    decided_upper: Number | None = None
    decided_by: str = ""


def checks(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> tuple[Check, ...]:
    """Every check of the gate; `models` and `resampled` hold `float`, `carried`, `refitted`. `resampled` also holds
    `without`: the difference in F1 under the recipe's `transfer` with each group left out, as `f1`."""
    drawn = resampled["carried"]["auc"] - resampled["float"]["auc"]
    shares = _binary_shares if models["float"].classes == 2 else _shares_by_class
    return (
        auc_check(models["float"], models["carried"], section, drawn=drawn),
        *shares(models, resampled, section),
        _f1(models, resampled, section),
        _flips(models, section),
        _ece(models, resampled, section),
    )


def _binary_shares(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> list[Check]:
    """Sensitivity and specificity, each at the float model's threshold carried over and at the engine's own."""
    margins = {"sensitivity": (1, section.margins.sensitivity), "specificity": (0, section.margins.specificity)}
    return [
        share_check(
            f"{name}_{at}",
            (models["float"], models[at]),
            of_class,
            margin=margin,
            alpha=section.alpha,
            drawn=resampled[at][name] - resampled["float"][name],
        )
        for name, (of_class, margin) in margins.items()
        for at in ("carried", "refitted")
    ]


def _shares_by_class(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> list[Check]:
    """Recall of each class, against the margin of sensitivity, and accuracy over all images."""
    margins = {f"recall_{k}": (k, section.margins.sensitivity) for k in range(models["float"].classes)}
    asked: dict[str, tuple[int | None, float]] = {**margins, "accuracy": (None, section.margins.accuracy)}
    return [
        share_check(
            name,
            (models["float"], models["carried"]),
            of_class,
            margin=margin,
            alpha=section.alpha,
            drawn=resampled["carried"][name] - resampled["float"][name],
        )
        for name, (of_class, margin) in asked.items()
    ]


def worst(verdicts: list[str]) -> str:
    """fail, else inconclusive, else pass. Raises ValueError for no verdict at all: nothing passes unchecked."""
    if not verdicts:
        raise ValueError("no check was made")
    return next(v for v in ("fail", "inconclusive", "pass") if v in verdicts)


def cautions(made: Sequence[Check], *, alike: bool) -> tuple[str, ...]:
    """What groups and skewness change: checks that do not pass although the plain bound would, and, where images are
    `alike` in groups, checks that pass although the bootstrap by group would not."""
    held_back = [
        f"{_said(check)} would pass by {check.method} alone, but by {check.decided_by} the difference reaches down "
        f"to {check.decided_lower:+.4f}, which is not above {check.margin:g}"
        + (": images of one patient are alike." if alike else ".")
        for check in made
        if check.decided_lower is not None
        and check.lower is not None
        and check.decided_lower <= check.margin < check.lower
    ]
    doubted = [
        f"{_said(check)} passes by {check.method}, but the {other.method} reaches down to {other.lower:+.4f}, which "
        f"is not above {check.margin:g}: images of one patient are alike."
        for check in made
        for other in check.beside
        if alike and check.verdict == "pass" and other.method == _BY_GROUP and other.lower <= check.margin
    ]
    return (*held_back, *doubted)


def _said(check: Check) -> str:
    return check.quantity.replace("_", " ")


def _verdict(lower: float, upper: float, margin: float) -> str:
    if lower > margin:
        return "pass"
    return "fail" if upper < margin else "inconclusive"


def auc_check(a: Model, b: Model, section: ValidateSection, *, drawn: Floats | None = None) -> Check:
    """Paired DeLong of engine `b` against `a`; `drawn` are resampled differences, shown beside it. Raises DataError
    where a class has fewer than two images."""
    margin, alpha = section.margins.auc, section.alpha
    found = paired_macro_auc(one_vs_rest(a.logits), one_vs_rest(b.logits), a.targets, alpha=alpha, index=a.index)
    method = "paired DeLong" if a.classes == 2 else "paired DeLong, mean of one-vs-rest"
    if found.degenerate:
        method += " (no variance seen: score bound)"
    second = Beside(_SKEWED if a.index is None else _CLUSTERED_AUC, found.clustered_lower, found.clustered_upper)
    lower, upper = min(found.lower, second.lower), max(found.upper, second.upper)
    verdict = _verdict(lower, upper, margin)
    return Check(
        "auc",
        method,
        found.a,
        found.b,
        found.difference,
        found.lower,
        found.upper,
        margin,
        verdict,
        _images_for_auc(a, found, (lower, upper), section) if verdict == "inconclusive" else None,
        (second, *_drawn(drawn, alpha)),
        lower,
        upper,
        second.method,
    )


def _images_for_auc(
    model: Model, found: PairedAuc, decided: tuple[Number, Number], section: ValidateSection
) -> dict[str, int] | None:
    margin, alpha = section.margins.auc, section.alpha
    if found.degenerate:
        # No disagreement was seen: z^2 / (n + z^2) falls below the distance to the margin at this n.
        enough = images_for_proportions(0, 0, 1, margin=margin - found.difference, alpha=alpha)
        return None if enough is None else _all_classes(model, enough)
    variance = max(found.variance, found.clustered_variance)
    return _images_to_decide(
        model, found.difference, decided, margin, alpha, variance=variance, skewness=found.clustered_skewness
    )


def _images_to_decide(
    model: Model, difference: Number, decided: tuple[Number, Number], margin: Number, alpha: Number, *,
    variance: Number, skewness: Number,
) -> dict[str, int] | None:  # fmt: skip
    """Images of each class with which the bound that decides leaves the margin with 80 % power."""
    reach = difference - decided[0] if difference > margin else decided[1] - difference
    factor = factor_for_difference(variance, difference - margin, alpha=alpha, reach=reach, skewness=skewness)
    return _each_class(model, factor)


def share_check(
    quantity: str,
    pair: tuple[Model, Model],
    of_class: int | None,
    *,
    margin: float,
    alpha: float,
    drawn: Floats | None = None,
) -> Check:
    """The share decided rightly, among the images of one class (of all where None), by Tango's interval, and by the
    same of the effective number of images where they are in groups. Raises DataError where there is no such image."""
    a, b = pair
    mask = np.ones(len(a.labels), dtype=bool) if of_class is None else a.labels == of_class
    first, second = (a.decisions == a.labels)[mask], (b.decisions == b.labels)[mask]
    images = int(mask.sum())
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    both = int((first & second).sum())
    lower, upper = tango(gained, lost, images, alpha=alpha)
    effect = 1.0 if a.index is None else design_effect(second.astype(np.int64) - first, a.index[mask])
    clustered = () if effect == 1.0 else (_of_effective((gained, lost, images), effect, alpha),)
    decided = _widest(lower, upper, clustered)
    verdict = _verdict(*decided, margin)
    needed = None
    if verdict == "inconclusive":
        enough = images_for_proportions(gained, lost, images, margin=margin, alpha=alpha)
        enough = None if enough is None else ceil(effect * enough)
        name = "all" if of_class is None else f"class_{of_class}"
        needed = None if enough is None else {name: max(enough, images + 1)}
    hybrid = newcombe(both, gained, lost, images - both - gained - lost, alpha=alpha)
    beside = (*clustered, Beside("Newcombe method 10", *hybrid), *_drawn(drawn, alpha))
    values = (float(first.mean()), float(second.mean()), (gained - lost) / images)
    method, by = "Tango score interval", clustered[0].method if clustered else ""
    found = Check(quantity, method, *values, lower, upper, margin, verdict, needed, beside)
    return replace(found, decided_lower=decided[0], decided_upper=decided[1], decided_by=by) if clustered else found


def _of_effective(table: tuple[int, int, int], effect: Number, alpha: Number) -> Beside:
    """Tango's interval of gained, lost and images, each divided by the design effect."""
    gained, lost, images = (count / effect for count in table)
    method = f"Tango score interval of effective images, design effect {effect:.2f}"
    return Beside(method, *tango(gained, lost, max(1.0, images), alpha=alpha))


def _widest(lower: Number, upper: Number, others: Sequence[Beside]) -> tuple[Number, Number]:
    return min([lower, *(o.lower for o in others)]), max([upper, *(o.upper for o in others)])


def _f1(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> Check:
    margin, alpha = section.margins.f1, section.alpha
    drawn = resampled[section.transfer]["f1"] - resampled["float"]["f1"]
    first, second = _f1_of(models["float"]), _f1_of(models[section.transfer])
    lower, upper = accelerated(drawn, second - first, resampled["without"]["f1"], alpha=alpha)
    method = "paired bootstrap by group, BCa" + ("" if models["float"].classes == 2 else ", mean over classes")
    if np.isnan(lower):
        return Check("f1", method, first, second, second - first, None, None, margin, "inconclusive")
    verdict = _verdict(lower, upper, margin)
    needed = None
    if verdict == "inconclusive":
        skewness = 6 * (acceleration(resampled["without"]["f1"]) or 0.0)
        needed = _images_to_decide(
            models["float"], second - first, (lower, upper), margin, alpha,
            variance=float(np.nanvar(drawn)), skewness=skewness,
        )  # fmt: skip
    return Check("f1", method, first, second, second - first, lower, upper, margin, verdict, needed)


def _flips(models: Mapping[str, Model], section: ValidateSection) -> Check:
    changed = int((models["float"].decisions != models[section.transfer].decisions).sum())
    images = len(models["float"].labels)
    bounds = wilson(changed, images, alpha=section.alpha)
    limit = section.margins.flips
    verdict = "pass" if changed / images <= limit else "fail"
    return Check("flips", "share against its limit", None, None, changed / images, *bounds, limit, verdict)


def _ece(models: Mapping[str, Model], resampled: Resampled, section: ValidateSection) -> Check:
    first, second = (
        expected_calibration_error(*confidence(model.calibrated, model.labels))
        for model in (models["float"], models["carried"])
    )
    bounds = percentiles(resampled["carried"]["ece"] - resampled["float"]["ece"], alpha=section.alpha)  # never NaN
    limit = section.margins.ece
    verdict = "pass" if second - first <= limit else "fail"
    return Check("ece", "difference against its limit", first, second, second - first, *bounds, limit, verdict)


def _f1_of(model: Model) -> float:
    from sklearn.metrics import f1_score

    average = "binary" if model.classes == 2 else "macro"
    return float(f1_score(model.labels, model.decisions, average=average, zero_division=0.0))


def _drawn(differences: Floats | None, alpha: float) -> tuple[Beside, ...]:
    """The resampled interval; nothing where it was not asked for or does not exist."""
    if differences is None:
        return ()
    lower, upper = percentiles(differences, alpha=alpha)
    return () if np.isnan(lower) else (Beside(_BY_GROUP, lower, upper),)


def _each_class(model: Model, factor: float | None) -> dict[str, int] | None:
    """The present number of images of each class times `factor`, at least one more than now."""
    counts = np.bincount(model.labels, minlength=model.classes)
    if factor is None or factor * counts.sum() > LARGEST:
        return None
    return {f"class_{k}": max(ceil(factor * int(n)), int(n) + 1) for k, n in enumerate(counts)}


def _all_classes(model: Model, images: int) -> dict[str, int]:
    return {f"class_{k}": images for k in range(model.classes)}
