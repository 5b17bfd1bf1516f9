"""The trial: is an engine not worse than the float model it was made from? A pure function of predictions tables.

The protocol (margins, alpha, threshold rule, number of resamples) is the recipe's `validate` section; thresholds and
temperatures come from validation images alone, the verdict from the judged ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import flips, operating
from medge.errors import DataError
from medge.gate import Check, cautions, checks, worst
from medge.metrics import (
    Metric,
    Model,
    count_columns,
    metrics,
    rates_of_counts,
    rates_without_each_group,
    resampled_metrics,
    statistics_of,
)
from medge.pairing import Paired, pair
from medge.predictions import Predictions, read
from medge.records import sha256_of_json
from medge.sections import ValidateSection
from medge.statistics.bootstrap import group_index, resample, totals
from medge.statistics.mcnemar import exact_p
from medge.subgroups import Subgroup, by_subgroup

__all__ = ["Check", "Trial", "judge", "summary", "trial_of_files"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Trial:
    """What the trial found. Plain values only: `records.to_json` writes it.

    metrics and confusion: {"float", "engine"}, the engine at the threshold of the recipe's `transfer`; confusion rows
    are the truth. thresholds: plain probabilities before temperature (None for more than two classes); cuts: the same
    as log odds, exact where probabilities round to 0 or 1. temperature: the engine's. flips: see medge.flips.
    mcnemar: exact p of the changed rightness, reported only. images: judged images of each class; repeated: further
    copies of an image, counted once. protocol_sha256: of the section. subgroups: see medge.subgroups; columns with
    too many values are named as left out. notes: what a reader must know beside the verdict.
    """

    verdict: str
    checks: tuple[Check, ...]
    metrics: dict[str, dict[str, Metric]]
    confusion: dict[str, list[list[int]]]
    flips: dict[str, Any]
    thresholds: dict[str, float | None]
    cuts: dict[str, float | None]
    temperature: float
    temperature_float: float
    mcnemar: dict[str, float]
    images: dict[str, int]
    groups: int
    repeated: int
    protocol_sha256: str
    subgroups: tuple[Subgroup, ...] = ()
    subgroups_left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(
    float_validation: Predictions,
    engine_validation: Predictions,
    float_judged: Predictions,
    engine_judged: Predictions,
    *,
    section: ValidateSection,
    seed: int,
) -> Trial:
    """Judges an engine on `*_judged` with thresholds and temperatures fitted on `*_validation`.

    The order of rows does not matter. Raises DataError where tables do not fit together or cannot be judged (see
    medge.pairing), RecipeError for an unknown threshold rule.
    """
    validation = pair(float_validation, engine_validation, name="validation")
    same = float_judged is float_validation and engine_judged is engine_validation
    judged = validation if same else pair(float_judged, engine_judged, name="judged")
    if judged.classes != validation.classes:
        raise DataError(
            f"The tables to fit on have {validation.classes} classes, the judged ones {judged.classes}.",
            fix="Take both from the same model.",
        )
    return _judge(judged, operating.fit(validation, section.threshold), section, seed)


def trial_of_files(
    float_csv: Path,
    engine_csv: Path,
    *,
    fitted_on: tuple[Path, Path] | None = None,
    section: ValidateSection | None = None,
    seed: int = 0,
) -> Trial:
    """The trial of two predictions tables from any tool; `fitted_on` are both models' tables of validation images.

    Without them thresholds and temperatures are fitted on the judged images themselves, so that figures (not
    differences) are a little flattering. Raises DataError, also for one file that is to be both models', and for an
    image that is judged and fitted on. Rows that repeat an image with the same label and logits count once.
    """
    for first, second in ((float_csv, engine_csv), fitted_on or (float_csv, engine_csv)):
        if first.resolve() == second.resolve():
            raise DataError(
                f"{first} is named twice: it would be compared with itself.",
                fix="Name the float model's table first, then the engine's of the same images.",
            )
    judged = (read(float_csv), read(engine_csv))
    fitted = judged if fitted_on is None else (read(fitted_on[0]), read(fitted_on[1]))
    if fitted_on is not None:
        shared = set(fitted[0].sha256) & set(judged[0].sha256)
        if shared:
            raise DataError(
                f"{len(shared)} images are in {fitted_on[0]} and in {float_csv}, first {min(shared)[:12]}.",
                fix="Fit thresholds on other images than those that are judged.",
            )
    return judge(*fitted, *judged, section=section or ValidateSection(), seed=seed)


def summary(trial: Trial) -> dict[str, Any]:
    """The trial by quantity: `verdict`, then each quantity with its own verdict; lower and upper are one-sided bounds.

    Sensitivity and specificity are those at the used threshold, `carried` and `refitted` beside them, and their
    verdict is the worse of the two.
    """
    by_name = {check.quantity: check for check in trial.checks}
    found: dict[str, Any] = {"verdict": trial.verdict}
    for name, check in by_name.items():
        if not name.endswith(("_carried", "_refitted")):
            found[name] = _brief(check)
    for name in ("sensitivity", "specificity"):
        pair_of = {at: by_name[f"{name}_{at}"] for at in ("carried", "refitted") if f"{name}_{at}" in by_name}
        if pair_of:
            used = "carried" if trial.thresholds["used"] == trial.thresholds["engine_carried"] else "refitted"
            each = {at: _brief(check) for at, check in pair_of.items()}
            verdict = worst([check.verdict for check in pair_of.values()])
            found[name] = {**_brief(pair_of[used]), "verdict": verdict, **each}
    found["notes"] = list(trial.notes)
    found["flips"] = {**{k: v for k, v in trial.flips.items() if k != "rows"}, **_limit(by_name["flips"])}
    return found


def _judge(judged: Paired, at: operating.Operating, section: ValidateSection, seed: int) -> Trial:
    classes = judged.classes
    index, groups = group_index(judged.group)
    own = index if groups < len(judged) else None
    models = {name: replace(model, index=own) for name, model in operating.models(judged, at).items()}
    if groups < 2:
        raise DataError(f"All {len(judged)} images are of one group.", fix="Name the patient or lesion of each image.")
    resampled = _resampled(models, index, groups, section.bootstrap, seed)
    before, after = (rates_without_each_group(models[name], index, groups) for name in ("float", section.transfer))
    resampled["without"] = {"f1": after["f1"] - before["f1"]}
    used = models[section.transfer]
    subgroups, left_out = by_subgroup(judged.subgroups, models, section)
    made = checks(models, resampled, section)
    right_before, right_after = models["float"].decisions == judged.labels, used.decisions == judged.labels
    gained, lost = int((right_after & ~right_before).sum()), int((right_before & ~right_after).sum())
    return Trial(
        verdict=worst([check.verdict for check in made]),
        checks=made,
        metrics={
            "float": metrics(models["float"], resampled["float"]),
            "engine": metrics(used, resampled[section.transfer]),
        },
        confusion={"float": _confusion(models["float"]), "engine": _confusion(used)},
        flips=flips.ledger(judged, models["float"], used),
        thresholds=at.thresholds(section.transfer),
        cuts=at.cuts(section.transfer),
        temperature=at.temperature_engine,
        temperature_float=at.temperature_float,
        mcnemar={"gained": gained, "lost": lost, "p": exact_p(gained, lost)},
        images={f"class_{k}": int(n) for k, n in enumerate(np.bincount(judged.labels, minlength=classes))},
        groups=groups,
        repeated=judged.repeated,
        protocol_sha256=sha256_of_json(section.model_dump(mode="json")),
        subgroups=subgroups,
        subgroups_left_out=left_out,
        notes=cautions(made, alike=groups < len(judged)),
    )


def _resampled(
    models: dict[str, Model], index: Ints, groups: int, resamples: int, seed: int
) -> dict[str, Mapping[str, Floats]]:
    """Every metric of `float`, `carried` and `refitted` over the same draws; another threshold changes counts alone."""
    classes, images = models["float"].classes, len(models["float"].labels)
    after = statistics_of(models["carried"], index, groups)
    refitted = totals(count_columns(models["refitted"].labels, models["refitted"].decisions, classes), index, groups)
    *answers, counts = resample([*after, refitted], groups, images=images, resamples=resamples, seed=seed)
    carried = resampled_metrics(classes, answers)
    return {
        "float": _resampled_float(_Asked.of(models["float"], index, groups, resamples, seed)),
        "carried": carried,
        "refitted": {**carried, **rates_of_counts(counts, classes)},
    }


@dataclass(frozen=True)
class _Asked:
    """A question to `_resampled_float`; two are the same where everything that decides the answer is."""

    digest: str
    groups: int
    resamples: int
    seed: int
    model: Model = field(compare=False)
    index: Ints = field(compare=False)

    @staticmethod
    def of(model: Model, index: Ints, groups: int, resamples: int, seed: int) -> _Asked:
        digest = hashlib.sha256(f"{model.logits.shape} {model.temperature!r}".encode())
        for array in (model.labels, model.logits, model.decisions, index):
            digest.update(np.ascontiguousarray(array).tobytes())
        return _Asked(digest.hexdigest(), groups, resamples, seed, model, index)


@lru_cache(maxsize=3)  # validation, test and external: every engine is judged against the same float model
def _resampled_float(asked: _Asked) -> Mapping[str, Floats]:
    """The float model's metrics. The draws depend on the seed and the sizes, so they are those of the engine's."""
    answers = resample(
        statistics_of(asked.model, asked.index, asked.groups),
        asked.groups,
        images=len(asked.model.labels),
        resamples=asked.resamples,
        seed=asked.seed,
    )
    return MappingProxyType(resampled_metrics(asked.model.classes, answers))


def _confusion(model: Model) -> list[list[int]]:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(model.labels, model.decisions, labels=list(range(model.classes)))
    return [[int(n) for n in row] for row in matrix]


def _brief(check: Check) -> dict[str, Any]:
    names = ("float", "engine", "difference", "lower", "upper", "margin", "verdict", "needed", "method")
    decided = ("decided_lower", "decided_upper", "decided_by")
    return {name: getattr(check, name) for name in (*names, *decided)}


def _limit(check: Check) -> dict[str, Any]:
    return {"lower": check.lower, "upper": check.upper, "limit": check.margin, "verdict": check.verdict}
