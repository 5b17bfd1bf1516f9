"""From predictions, trials and latencies to the figures of the report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medge.predictions import Predictions
from medge.report import plots
from medge.report.costs import candidates
from medge.report.gather import Found
from medge.report.plots import Curve, Dot, Interval, Reliability
from medge.report.tables import deciding
from medge.statistics.calibration import confidence, equal_mass_bins
from medge.statistics.scores import one_vs_rest, softmax

__all__ = ["auc_differences", "latency_plane", "reliability", "roc", "training"]

Floats = NDArray[np.float64]

_BINS = 10
_GRID = np.linspace(0, 1, 401)


def roc(found: Found) -> str:
    """The float model, the engine in focus and, thinly, the others; of more than two classes the mean over classes."""
    focus = found.focus
    curves = [_curve("float model", found.images("float", "test"), "float", _point(found, focus, "float"))]
    for name in found.judged:
        role = "chosen" if name == focus else "other"
        point = _point(found, name, "engine") if role == "chosen" else None
        thin = "other engines" if not any(c.role == "other" for c in curves) else "_in the legend once"
        curves.append(_curve(name if role == "chosen" else thin, found.images(name, "test"), role, point))
    return plots.roc(curves)


def auc_differences(found: Found) -> str:
    """AUC of every engine minus the float model's on test, with one-sided 95 % bounds."""
    intervals, margin = [], 0.0
    for name, of in found.judged.items():
        check = next(c for c in of["test"]["checks"] if c["quantity"] == "auc")
        margin = check["margin"]
        chosen = name == found.choice.get("chosen")
        upper = check["upper"] if check.get("decided_upper") is None else check["decided_upper"]
        intervals.append(Interval(name, check["difference"], deciding(check), upper, chosen))
    return plots.differences(intervals, margin=margin, quantity="AUC")


def latency_plane(found: Found) -> str:
    """Candidates by latency and AUC on validation."""
    dots = [
        Dot(
            number=row["number"],
            label=row["name"],
            backend=row["name"].split("/")[1].rsplit("-", 1)[0],
            p50_ms=row["p50_ms"],
            auc=row["auc"],
            lower=row["auc"] if row["auc_lower"] is None else row["auc_lower"],
            kept=row["kept"],
            pareto=row["pareto"],
            chosen=row["name"] == found.choice["chosen"],
        )
        for row in candidates(found)
        if row["auc"] is not None
    ]
    return plots.latency_against_auc(dots, limit_ms=found.choice["limits"].get("p90_ms"))


def reliability(found: Found) -> str:
    """Of the float model and the engine in focus on test, each after its own temperature."""
    focus = found.focus
    trial = found.judged[str(focus)]["test"]
    return plots.reliability(
        [
            _reliability("float model", found.images("float", "test"), trial["temperature_float"], "float"),
            _reliability(str(focus), found.images(str(focus), "test"), trial["temperature"], "chosen"),
        ]
    )


def training(found: Found) -> str | None:
    """Loss, AUC and accuracy by epoch; None where nothing was trained."""
    epochs = found.history
    if not epochs:
        return None

    def series(key: str) -> list[float]:
        return [float(epoch[key]) for epoch in epochs]

    panels = [
        ("loss", [("training", series("loss")), ("validation", series("validation_loss"))]),
        ("AUC on validation", [("AUC", series("validation_auc"))]),
        ("accuracy on validation", [("accuracy", series("validation_accuracy"))]),
    ]
    phases = [epoch["phase"] for epoch in epochs]
    best = found.records["finetune"]["values"].get("best") or {}
    kept = [k for k, e in enumerate(epochs) if (e["phase"], e["epoch"]) == (best.get("phase"), best.get("epoch"))]
    return plots.history(panels, phases=phases, best=kept[0] if kept else None)


def _curve(label: str, table: Predictions, role: str, point: tuple[float, float] | None) -> Curve:
    scores = one_vs_rest(table.logits)
    classes = [1] if scores.shape[1] == 1 else list(range(scores.shape[1]))
    curves = [_roc_points(scores[:, n], table.labels == k) for n, k in enumerate(classes)]
    if len(curves) == 1:
        return Curve(label, *curves[0], role, point)
    mean = np.mean([np.interp(_GRID, fpr, tpr) for fpr, tpr in curves], axis=0)
    return Curve(label, _GRID, mean, role, None)


def _roc_points(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """fpr and tpr at every distinct score from the highest down, beginning at (0, 0)."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    hits, alarms = np.cumsum(positive[order]), np.cumsum(~positive[order])
    tpr = np.append(0.0, hits[last_of_ties] / max(1, hits[-1]))
    fpr = np.append(0.0, alarms[last_of_ties] / max(1, alarms[-1]))
    return fpr, tpr


def _point(found: Found, name: str | None, model: str) -> tuple[float, float] | None:
    """(1 - specificity, sensitivity) at the operating threshold; None for more than two classes."""
    if name is None or len(found.labels) != 2:
        return None
    (true_negative, alarms), (misses, hits) = found.judged[name]["test"]["confusion"][model]
    return alarms / max(1, alarms + true_negative), hits / max(1, hits + misses)


def _reliability(label: str, table: Predictions, temperature: float, role: str) -> Reliability:
    believed, happened = confidence(softmax(table.logits / temperature), table.labels)
    bins = equal_mass_bins(believed, _BINS)
    count = np.bincount(bins, minlength=_BINS).astype(np.float64)
    filled = count > 0
    means = [
        np.bincount(bins, weights=values, minlength=_BINS)[filled] / count[filled] for values in (believed, happened)
    ]
    return Reliability(label, means[0], means[1], count[filled], role)
