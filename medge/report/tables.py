"""The tables of the report as lists of rows of text; the page only lays them out."""

from __future__ import annotations

from typing import Any

from medge.report.gather import Found
from medge.report.words import (
    DASH,
    interval,
    milliseconds,
    percent,
    share,
    signed,
    verdict_words,
)

__all__ = [
    "checks",
    "deciding",
    "engines_on_test",
    "external",
    "quantities",
    "variants",
    "verdict_rows",
]

Row = dict[str, Any]

_NAMES = {
    "auc": "AUC",
    "sensitivity_carried": "sensitivity, carried over",
    "sensitivity_refitted": "sensitivity, re-fitted",
    "specificity_carried": "specificity, carried over",
    "specificity_refitted": "specificity, re-fitted",
    "f1": "F1",
    "flips": "decisions changed",
    "ece": "ECE",
}


def verdict_rows(found: Found) -> list[dict[str, str]]:
    """One row an engine for a terminal: verdict and figures on test, latency and size where they were measured.

    `change >=` is the one-sided lower bound of the difference in AUC; the arrow marks the chosen engine.
    """
    rows = []
    for name, of in found.judged.items():
        trial = of["test"]
        metrics, checks_by_name = trial["metrics"]["engine"], {c["quantity"]: c for c in trial["checks"]}
        latency = found.latency.get("engines", {}).get(name)
        size = next((e.bytes for e in found.engines if e.name == name), None)
        binary = "sensitivity" in metrics
        shares = (
            {"sens.": "sensitivity", "spec.": "specificity"} if binary else {"acc.": "accuracy", "recall": "recall"}
        )
        rows.append(
            {
                "engine": f"→ {found.named(name)}" if name == found.choice.get("chosen") else found.named(name),
                "verdict": trial["verdict"],
                "AUC": share(_value(metrics, "auc"), 4),
                "change ≥": signed(deciding(checks_by_name["auc"]), 4),
                **{column: share(_value(metrics, key)) for column, key in shares.items()},
                "F1": share(_value(metrics, "f1")),
                "flips": percent(trial["flips"]["rate"]),
                "p50 ms": DASH if latency is None else milliseconds(latency["p50_ms"]),
                "MB": DASH if size is None else f"{size / 1e6:.1f}",
            }
        )
    return rows


def engines_on_test(found: Found) -> tuple[list[str], list[Row]]:
    """Columns and rows of figures on the test images: the float model first, then every engine."""
    binary = len(found.labels) == 2
    shown = ["auc", *(("sensitivity", "specificity") if binary else ("accuracy", "recall")), "f1", "ece"]
    rows: list[Row] = []
    for name, of in found.judged.items():
        metrics = of["test"]["metrics"]
        if not rows:
            rows.append({"name": "float model (reference)", "cells": _cells(metrics["float"], shown), "role": "float"})
        role = "chosen" if name == found.choice.get("chosen") else "other"
        flips = of["test"]["flips"]
        rows.append(
            {
                "name": name,
                "cells": _cells(metrics["engine"], shown),
                "flips": percent(flips["rate"]),
                "flips_detail": f"{flips['count']:,}",
                "verdict": verdict_words(of["test"]["verdict"]),
                "role": role,
            }
        )
    titles = {"auc": "AUC", "f1": "F1", "ece": "ECE"}
    return [titles.get(name, name) for name in shown], rows


def checks(found: Found, split: str) -> tuple[list[Row], list[Row]]:
    """Columns (a quantity and its margin) and rows (an engine, a cell per check) of the gate on one split."""
    columns: list[Row] = []
    rows = []
    for name, of in found.judged.items():
        made = of[split]["checks"]
        columns = columns or [
            {"name": _quantity(c["quantity"], found.labels), "margin": _margin(c), "method": c["method"]} for c in made
        ]
        cells = [
            {
                **verdict_words(check["verdict"]),
                "difference": _difference(check),
                "bound": _bound(check),
                "needed": _needed(check, found.labels),
            }
            for check in made
        ]
        role = "chosen" if name == found.choice.get("chosen") else "other"
        rows.append({"name": name, "cells": cells, "verdict": verdict_words(of[split]["verdict"]), "role": role})
    return columns, rows


def quantities(found: Found, name: str, split: str) -> list[Row]:
    """Every metric of one engine beside the float model's, each with its 95 % interval."""
    metrics = found.judged[name][split]["metrics"]
    return [
        {
            "name": _metric_name(key, found.labels),
            "float": share(metric["value"]),
            "float_interval": interval(metric),
            "engine": share(metrics["engine"][key]["value"]),
            "engine_interval": interval(metrics["engine"][key]),
        }
        for key, metric in metrics["float"].items()
        if not (key == "recall" and "sensitivity" in metrics["float"])
    ]


def external(found: Found, name: str) -> list[Row]:
    """The figures inside and outside, side by side; empty where the recipe names no external set."""
    if "external" not in found.judged[name]:
        return []
    rows = []
    for split, title in (("test", "test images of the same source"), ("external", "external images")):
        trial = found.judged[name][split]
        metrics = trial["metrics"]
        shown = [key for key in ("auc", "sensitivity", "specificity", "accuracy") if key in metrics["engine"]]
        rows.append(
            {
                "name": title,
                "images": f"{sum(trial['images'].values()):,}",
                "cells": [
                    {
                        "title": "AUC" if key == "auc" else key,
                        "float": share(metrics["float"][key]["value"]),
                        "engine": share(metrics["engine"][key]["value"]),
                        "interval": interval(metrics["engine"][key]),
                    }
                    for key in shown
                ],
                "verdict": verdict_words(trial["verdict"]),
            }
        )
    return rows


def variants(found: Found) -> list[Row]:
    """What was done to the model, in the words of the compress stage."""
    return [
        {
            "name": variant["name"],
            "chain": " → ".join(step["compressor"] for step in variant["chain"]) or "as fine-tuned",
            "log": variant["log"],
            "verdict": verdict_words(variant["verdict"]),
        }
        for variant in sorted(found.variants, key=lambda v: (v["name"] != "float", v["name"]))
    ]


def _cells(metrics: dict[str, Any], shown: list[str]) -> list[Row]:
    return [{"value": share(_value(metrics, key)), "interval": interval(metrics.get(key))} for key in shown]


def _value(metrics: dict[str, Any], key: str) -> float | None:
    metric = metrics.get(key)
    return None if metric is None else metric["value"]


def _quantity(name: str, labels: list[str]) -> str:
    return _NAMES.get(name) or _metric_name(name, labels)


def _metric_name(name: str, labels: list[str]) -> str:
    """`recall_2` is the recall of class 2, called by the class's name."""
    stem, _, index = name.rpartition("_")
    if stem in ("recall", "precision", "f1", "auc") and index.isdigit() and int(index) < len(labels):
        return f"{stem} of {labels[int(index)]}"
    return {"auc": "AUC", "f1": "F1", "ece": "ECE", "nll": "negative log likelihood", "brier": "Brier score"}.get(
        name, name.replace("_", " ")
    )


def _margin(check: dict[str, Any]) -> str:
    if check["quantity"] == "flips":
        return f"≤ {percent(check['margin'])}"
    if check["quantity"] == "ece":
        return f"≤ {signed(check['margin'])}"
    return f"> {signed(check['margin'], 3)}"


def _difference(check: dict[str, Any]) -> str:
    if check["quantity"] == "flips":
        return percent(check["difference"], 2)
    return signed(check["difference"], 4)


def _bound(check: dict[str, Any]) -> str:
    if check["lower"] is None:
        return "no bound"
    if check["quantity"] == "flips":
        return f"{100 * check['lower']:.1f} to {percent(check['upper'])}"
    if check["quantity"] == "ece":
        return f"{signed(check['lower'])} to {signed(check['upper'])}"
    return f"≥ {signed(deciding(check), 4)}"


def deciding(check: dict[str, Any]) -> float | None:
    """The lower bound that decides: of two that were made the worse one."""
    lower: float | None = check.get("decided_lower")
    return check["lower"] if lower is None else lower


def _needed(check: dict[str, Any], labels: list[str]) -> str:
    """How many images would decide an inconclusive check; empty for a decided one."""
    if check["verdict"] != "inconclusive":
        return ""
    if not check["needed"]:
        return "no number of images would decide"
    names = {f"class_{k}": label for k, label in enumerate(labels)} | {"all": "any class"}
    wanted = " and ".join(f"{number:,} of {names.get(who, who)}" for who, number in check["needed"].items())
    return f"about {wanted} would decide"


def undecided(found: Found, name: str) -> list[Row]:
    """The checks of an engine on test that did not pass, in words."""
    return [
        {
            **verdict_words(check["verdict"]),
            "text": f"{_quantity(check['quantity'], found.labels)}: {_difference(check)} ({_bound(check)}), "
            f"where {_margin(check)} is asked for",
            "needed": _needed(check, found.labels),
        }
        for check in found.judged[name]["test"]["checks"]
        if check["verdict"] != "pass"
    ]
