"""What one model reaches on labelled images: point values by scikit-learn, 95 % intervals resampled by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medge.statistics.bootstrap import Statistic, group_sums, percentiles, ranking, totals
from medge.statistics.calibration import BINS, brier, confidence, equal_mass_bins, expected_calibration_error, nll
from medge.statistics.intervals import wilson
from medge.statistics.scores import log_softmax, one_vs_rest, softmax

__all__ = [
    "Metric",
    "Model",
    "count_columns",
    "metrics",
    "rates_of_counts",
    "rates_without_each_group",
    "resampled_metrics",
    "statistics_of",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Metric:
    """A value with its 95 % interval; None where the value does not exist (precision of a model that never says yes).

    method: `bootstrap by group`, or `Wilson` where every resample agrees (a share of 0 or 1) and shows no spread.
    """

    value: float | None
    lower: float | None
    upper: float | None
    method: str


@dataclass(frozen=True)
class Model:
    """One model's answers on N images. decisions int64 [N]; temperature divides the logits before any probability.

    index int64 [N]: number of each image's group; None where every image is its own.
    """

    labels: Ints
    logits: Floats
    decisions: Ints
    temperature: float
    index: Ints | None = None

    @property
    def classes(self) -> int:
        return int(self.logits.shape[1])

    @property
    def targets(self) -> NDArray[np.bool_]:
        """[N, K]: of two classes the positive one (K = 1), of more each against the rest."""
        wanted = [1] if self.classes == 2 else list(range(self.classes))
        return np.stack([self.labels == k for k in wanted], axis=1)

    @property
    def calibrated(self) -> Floats:
        """Probabilities [N, C] after temperature."""
        return softmax(self.logits / self.temperature)


def metrics(model: Model, resampled: Mapping[str, Floats]) -> dict[str, Metric]:
    """Every metric with its interval from `resampled_metrics`."""
    counts = np.bincount(model.labels, minlength=model.classes)
    predicted = np.bincount(model.decisions, minlength=model.classes)
    trials = {"accuracy": len(model.labels)}
    if model.classes == 2:
        trials |= {"sensitivity": counts[1], "recall": counts[1], "specificity": counts[0], "precision": predicted[1]}
    for k in range(model.classes):
        trials |= {f"recall_{k}": counts[k], f"precision_{k}": predicted[k]}
    smallest = int(counts.min())
    return {
        name: _metric(value, resampled[name], None if name in _LOSSES else int(trials.get(name, smallest)))
        for name, value in _point_values(model).items()
    }


def statistics_of(model: Model, index: Ints, groups: int) -> list[Statistic]:
    """What `resample` computes for one model; `resampled_metrics` reads the answers in this order."""
    probabilities = model.calibrated
    losses = np.stack([_brier_of_each(probabilities, model.labels), _nll_of_each(model)], axis=1)
    believed, happened = confidence(probabilities, model.labels)
    gaps = np.where(equal_mass_bins(believed)[:, None] == np.arange(BINS), (believed - happened)[:, None], 0.0)
    scores = one_vs_rest(model.logits)
    return [
        totals(count_columns(model.labels, model.decisions, model.classes), index, groups),
        totals(np.concatenate([losses, gaps], axis=1), index, groups),
        *(ranking(scores[:, k], model.targets[:, k], index) for k in range(scores.shape[1])),
    ]


def resampled_metrics(classes: int, answers: Sequence[Floats]) -> dict[str, Floats]:
    """Every metric in every resample, {name: [resamples]}, from what `statistics_of` gave."""
    counts, losses, *ranked = answers
    found = rates_of_counts(counts, classes)
    images = counts[:, -1]
    found["brier"], found["nll"] = losses[:, 0] / images, losses[:, 1] / images
    found["ece"] = np.abs(losses[:, 2:]).sum(axis=1) / images
    found["auc"], found["average_precision"] = np.mean(ranked, axis=0).T
    return found


def count_columns(labels: Ints, decisions: Ints, classes: int) -> Floats:
    """Per image, [N, 3 C + 1]: right as class k, decided k, truly k, and one."""
    truly, decided = labels[:, None] == np.arange(classes), decisions[:, None] == np.arange(classes)
    columns = [truly & decided, decided, truly, np.ones((len(labels), 1), dtype=bool)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def rates_without_each_group(model: Model, index: Ints, groups: int) -> dict[str, Floats]:
    """Every share of `rates_of_counts` with one group left out at a time, {name: [groups]}: the jackknife."""
    sums = group_sums(count_columns(model.labels, model.decisions, model.classes), index, groups)
    return rates_of_counts(sums.sum(axis=0) - sums, model.classes)


def rates_of_counts(counts: Floats, classes: int) -> dict[str, Floats]:
    """Shares from summed `count_columns` [resamples, 3 C + 1]; NaN where nothing was there to count.

    Precision, recall and F1 are those of the positive class for two classes, the mean over classes for more.
    """
    right, decided, truly = (counts[:, k * classes : (k + 1) * classes] for k in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / truly, right / decided
        f1 = 2 * right / (decided + truly)
        found = {"accuracy": right.sum(axis=1) / counts[:, -1], "balanced_accuracy": recall.mean(axis=1)}
    if classes == 2:
        found |= {"precision": precision[:, 1], "recall": recall[:, 1], "f1": f1[:, 1]}
        return found | {"sensitivity": recall[:, 1], "specificity": recall[:, 0]}
    found |= {"precision": _mean_of_known(precision), "recall": recall.mean(axis=1), "f1": _mean_of_known(f1)}
    for k in range(classes):
        found |= {f"recall_{k}": recall[:, k], f"precision_{k}": precision[:, k], f"f1_{k}": f1[:, k]}
    return found


_LOSSES = frozenset({"brier", "nll", "ece"})


def _point_values(model: Model) -> dict[str, float]:
    from sklearn.metrics import (
        accuracy_score,
        average_precision_score,
        balanced_accuracy_score,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    labels, decisions = model.labels, model.decisions
    binary, every = model.classes == 2, list(range(model.classes))
    kept = {"labels": every, "average": None if not binary else "binary", "zero_division": np.nan}
    precision, recall, f1, _ = precision_recall_fscore_support(labels, decisions, **kept)
    scores, targets = one_vs_rest(model.logits), model.targets
    columns = range(scores.shape[1])
    probabilities = model.calibrated
    found = {
        "accuracy": accuracy_score(labels, decisions),
        "balanced_accuracy": balanced_accuracy_score(labels, decisions),
        "precision": np.nanmean(precision) if np.isfinite(precision).any() else np.nan,
        "recall": np.mean(recall),
        "f1": np.mean(np.nan_to_num(f1)),
        "auc": np.mean([roc_auc_score(targets[:, k], scores[:, k]) for k in columns]),
        "average_precision": np.mean([average_precision_score(targets[:, k], scores[:, k]) for k in columns]),
        "brier": brier(probabilities, labels),
        "nll": nll(model.logits / model.temperature, labels),
        "ece": expected_calibration_error(*confidence(probabilities, labels)),
    }
    if binary:
        found |= {"sensitivity": found["recall"], "specificity": np.mean(decisions[labels == 0] == 0)}
    else:
        for k in every:
            found |= {f"recall_{k}": recall[k], f"precision_{k}": precision[k], f"f1_{k}": f1[k]}
    return {name: float(value) for name, value in found.items()}


def _metric(value: float, resampled: Floats, trials: int | None) -> Metric:
    if np.isnan(value):
        return Metric(None, None, None, "does not exist here")
    lower, upper = percentiles(resampled, alpha=0.025)
    if trials and lower == upper and value in (0.0, 1.0):
        return Metric(value, *wilson(round(value * trials), trials), "Wilson")
    if np.isnan(lower):
        return Metric(value, None, None, "too few groups to resample")
    return Metric(value, lower, upper, "bootstrap by group")


def _brier_of_each(probabilities: Floats, labels: Ints) -> Floats:
    if probabilities.shape[1] == 2:
        return np.asarray((probabilities[:, 1] - labels) ** 2)
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1))


def _nll_of_each(model: Model) -> Floats:
    return np.asarray(-log_softmax(model.logits / model.temperature)[np.arange(len(model.labels)), model.labels])


def _mean_of_known(values: Floats) -> Floats:
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))
