"""From a quantity in report.json to the function that computes it, whose docstring has the formula and its source."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

__all__ = ["FUNCTIONS", "formulas", "name_of"]

_RATES = "medge.metrics:rates_of_counts"
_INTERVAL = "medge.statistics.bootstrap:percentiles"

# quantity -> the functions that make its value, then those that make its interval or its verdict
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "auc": ("medge.statistics.delong:auc_with_influence", _INTERVAL),
    "auc difference": ("medge.statistics.delong:paired_macro_auc", "medge.statistics.delong:clustered_bounds"),
    "sensitivity": (_RATES, _INTERVAL, "medge.statistics.intervals:wilson"),
    "specificity": (_RATES, _INTERVAL, "medge.statistics.intervals:wilson"),
    "sensitivity difference": ("medge.gate:share_check", "medge.statistics.intervals:tango"),
    "specificity difference": ("medge.gate:share_check", "medge.statistics.intervals:tango"),
    "recall difference": ("medge.gate:share_check", "medge.statistics.intervals:tango"),
    "accuracy difference": ("medge.gate:share_check", "medge.statistics.intervals:tango"),
    "design effect": ("medge.statistics.intervals:design_effect",),
    "newcombe": ("medge.statistics.intervals:newcombe",),
    "accuracy": (_RATES, _INTERVAL, "medge.statistics.intervals:wilson"),
    "balanced_accuracy": (_RATES, _INTERVAL),
    "precision": (_RATES, _INTERVAL),
    "recall": (_RATES, _INTERVAL),
    "f1": (_RATES, _INTERVAL),
    "f1 difference": (_RATES, "medge.statistics.bootstrap:accelerated"),
    "average_precision": ("medge.statistics.bootstrap:ranking", _INTERVAL),
    "brier": ("medge.statistics.calibration:brier", _INTERVAL),
    "nll": ("medge.statistics.calibration:nll", _INTERVAL),
    "ece": ("medge.statistics.calibration:expected_calibration_error", _INTERVAL),
    "ece difference": ("medge.statistics.calibration:expected_calibration_error", _INTERVAL),
    "flips": ("medge.flips:ledger", "medge.statistics.intervals:wilson"),
    "flips difference": ("medge.flips:ledger", "medge.statistics.intervals:wilson"),
    "mcnemar": ("medge.statistics.mcnemar:exact_p",),
    "needed": (
        "medge.statistics.samplesize:images_for_proportions",
        "medge.statistics.samplesize:factor_for_difference",
    ),
    "thresholds": ("medge.statistics.thresholds:fit", "medge.selection:scaled_threshold"),
    "temperature": ("medge.statistics.calibration:fit_temperature",),
    "latency ratio": ("medge.statistics.latency:paired_ratio",),
    "subgroups": ("medge.report.subgroups:by_value", "medge.statistics.intervals:wilson"),
    "worst subgroup": ("medge.report.subgroups:worst_subgroup", "medge.statistics.intervals:wilson"),
    "ties": ("medge.report.ties:count_ties",),
    "net_benefit": ("medge.statistics.decision_curve:net_benefit", "medge.statistics.decision_curve:treat_all"),
    "several_tests": ("medge.report.several:corrected",),
    "operating_point_transfer": ("medge.report.transfer:transfer", "medge.operating:fit"),
    "choice": ("medge.selection:choose",),
}


def name_of(quantity: str, *, difference: bool) -> str:
    """The key in FUNCTIONS of a metric or, with `difference`, of a check: `recall_2`, `sensitivity_carried`."""
    stem, _, last = quantity.rpartition("_")
    name = stem if stem and (last.isdigit() or last in ("carried", "refitted")) else quantity
    return f"{name} difference" if difference else name


def formulas() -> dict[str, list[dict[str, Any]]]:
    """Per quantity its functions: `function`, `file`, its docstring as `says` and that of its file as `source`."""
    return {quantity: [_entry(path) for path in paths] for quantity, paths in FUNCTIONS.items()}


def _entry(path: str) -> dict[str, Any]:
    module_name, _, name = path.partition(":")
    module = import_module(module_name)
    return {
        "function": f"{module_name}.{name}",
        "file": module_name.replace(".", "/") + ".py",
        "says": inspect.getdoc(getattr(module, name)),
        "source": inspect.getdoc(module),
    }
