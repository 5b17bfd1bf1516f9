"""Several runs side by side: each one's chosen engine and, where the test images are the same, a trial of the first
against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medge import console
from medge.errors import DataError
from medge.predictions import Predictions
from medge.records import to_json
from medge.report.gather import Found, gather
from medge.report.words import DASH, interval, milliseconds, percent, share, signed
from medge.sections import ValidateSection
from medge.trial import judge, summary

__all__ = ["compare", "show"]


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """{schema, reference, runs: [row], comparisons: [row]} of run folders, the first being the reference.

    A run's row has its chosen engine (None before `select`), verdict, figures on its own test images, p50_ms and bytes.
    A comparison has `comparable` and, if so, the `trial` of the other engine against the reference's on the same
    images, else `reason`. Raises IntegrityError, DataError where a run's files are not whole.
    """
    found = [gather(folder) for folder in folders]
    first, *others = found
    return {
        "schema": 1,
        "reference": first.run.name,
        "runs": [_row(one) for one in found],
        "comparisons": [_comparison(first, other) for other in others],
    }


def _row(found: Found) -> dict[str, Any]:
    name = found.choice.get("chosen")
    row: dict[str, Any] = {
        "run": found.run.name,
        "engine": name,
        "verdict": found.choice.get("verdict", "not finished"),
        "synthetic": bool(found.data.synthetic) if found.data is not None else None,
        "engine_sha256": next((engine.sha256 for engine in found.engines if engine.name == name), None),
    }
    if name is None:
        keys = ("test_images", "auc", "sensitivity", "specificity", "accuracy", "flips", "p50_ms", "bytes")
        return row | dict.fromkeys(keys)
    trial, latency = found.judged[name]["test"], found.latency["engines"][name]
    metrics = trial["metrics"]["engine"]
    flips = {key: value for key, value in trial["flips"].items() if key != "rows"}
    return {
        **row,
        "test_images": sum(trial["images"].values()),
        **{key: metrics.get(key) for key in ("auc", "sensitivity", "specificity", "accuracy")},
        "flips": flips,
        "p50_ms": latency["p50_ms"],
        "bytes": latency["bytes"],
    }


def _comparison(first: Found, other: Found) -> dict[str, Any]:
    document: dict[str, Any] = {"reference": first.run.name, "run": other.run.name}
    reason = _reason(first, other)
    if reason:
        return {**document, "comparable": False, "reason": reason}
    a, b = str(first.choice["chosen"]), str(other.choice["chosen"])
    try:
        trial = judge(
            first.table(a, "validation"),
            other.table(b, "validation"),
            first.table(a, "test"),
            other.table(b, "test"),
            section=ValidateSection.model_validate(first.trials["protocol"]),
            seed=int(first.recipe.get("seed", 0)),
        )
    except DataError as error:
        return {**document, "comparable": False, "reason": error.message}
    protocol = f"the protocol of {first.run.name}: difference is {other.run.name} minus {first.run.name}"
    return {**document, "comparable": True, "protocol": protocol, "trial": to_json(summary(trial))}


def _reason(first: Found, other: Found) -> str:
    """Why two runs cannot be compared image by image; empty where they can."""
    for found in (first, other):
        if not found.choice.get("chosen"):
            return f"{found.run.name} has no chosen engine"
    if first.labels != other.labels:
        return f"their classes differ: {', '.join(first.labels)} against {', '.join(other.labels)}"
    for split in ("test", "validation"):
        tables = [found.table(str(found.choice["chosen"]), split) for found in (first, other)]
        reason = _images(split, *tables, names=(first.run.name, other.run.name))
        if reason:
            return reason
    return ""


def _images(split: str, a: Predictions, b: Predictions, *, names: tuple[str, str]) -> str:
    mine, theirs = set(a.sha256), set(b.sha256)
    if mine == theirs:
        return ""
    what = "" if split == "test" else ", on which thresholds are fitted,"
    return (
        f"their {split} images{what} are not the same: {len(mine & theirs):,} are in both, {len(mine - theirs):,} only "
        f"in {names[0]}, {len(theirs - mine):,} only in {names[1]}"
    )


def show(document: Mapping[str, Any]) -> None:
    """The runs as a table on stderr, then a line for each comparison and its checks."""
    words = ("run", "engine", "verdict")
    columns = (*words, "AUC", "sens.", "spec.", "flips", "p50 ms", "MB")
    console.stderr.print(console.table(columns, [_cells(row) for row in document["runs"]], left=words))
    console.stderr.print("AUC with its 95 % interval, each on its own run's test images.")
    for one in document["comparisons"]:
        console.stderr.print(_sentence(one), markup=False, soft_wrap=True)


def _cells(row: Mapping[str, Any]) -> list[str]:
    def value(key: str) -> str:
        return DASH if row[key] is None else share(row[key]["value"])

    auc = f"{value('auc')} {interval(row['auc'])}".strip()
    flips = DASH if row["flips"] is None else percent(row["flips"]["rate"])
    size = DASH if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
    engine = row["engine"] or "none chosen"
    shares = [value("sensitivity"), value("specificity")]
    return [row["run"], engine, row["verdict"], auc, *shares, flips, milliseconds(row["p50_ms"]), size]


def _sentence(one: Mapping[str, Any]) -> str:
    if not one["comparable"]:
        return f"{one['run']} against {one['reference']}: not comparable, {one['reason']}."
    trial = one["trial"]
    auc = trial["auc"]
    lower = auc["lower"] if auc.get("decided_lower") is None else auc["decided_lower"]
    return (
        f"{one['run']} against {one['reference']}, the same test images: {trial['verdict']}. AUC "
        f"{signed(auc['difference'], 4)} (at least {signed(lower, 4)}, margin {signed(auc['margin'])}), "
        f"{percent(trial['flips']['rate'])} of decisions differ."
    )
