"""For whom the engine decides otherwise: each value of each subgroup column of the test images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge.operating import decide
from medge.pairing import pair
from medge.report.gather import Found
from medge.report.words import percent, share, verdict_words
from medge.statistics.intervals import wilson

__all__ = ["SHOWN", "by_value", "subgroups", "worst_subgroup"]

SHOWN = 12  # values of one column, the largest first; an age in years has too many to read


def by_value(found: Found, name: str) -> list[dict[str, Any]]:
    """Per value of each column, the largest first: images, the share decided rightly by the float model and by the
    engine with its 95 % Wilson interval (which takes images as independent), the share of changed decisions, and the
    trial's verdict of it (None where the trial left the column out). Empty where there are no such columns."""
    judged = pair(found.table("float", "test"), found.table(name, "test"), name="test")
    trial = found.judged[name]["test"]
    before = decide(judged.float_logits, trial["cuts"]["float"])
    after = decide(judged.engine_logits, trial["cuts"]["used"])
    verdicts = {(group["column"], group["value"]): group["verdict"] for group in trial["subgroups"]}
    rows = []
    for column, values in judged.subgroups.items():
        held = np.asarray([value or "unknown" for value in values])
        names, counts = np.unique(held, return_counts=True)
        for value in names[np.argsort(-counts, kind="stable")].tolist():
            shares = _shares(held == value, judged.labels, before, after)
            rows.append({"column": column, "value": value, **shares, "verdict": verdicts.get((column, value))})
    return rows


def subgroups(found: Found, name: str) -> list[dict[str, Any]]:
    """The rows of `by_value` in words, at most SHOWN of a column."""
    shown: dict[str, int] = {}
    rows = []
    for row in by_value(found, name):
        shown[row["column"]] = shown.get(row["column"], 0) + 1
        if shown[row["column"]] > SHOWN:
            continue
        rows.append(
            {
                "column": row["column"],
                "value": row["value"],
                "images": f"{row['images']:,}",
                "float": share(row["float"]),
                "engine": share(row["engine"]),
                "interval": f"[{share(row['lower'])}, {share(row['upper'])}]",
                "changed": percent(row["changed"]),
                "verdict": None if row["verdict"] is None else verdict_words(row["verdict"]),
            }
        )
    return rows


def worst_subgroup(found: Found, name: str) -> dict[str, Any] | None:
    """The row of `by_value` of which most surely little is decided rightly: the lowest upper Wilson bound, so that a
    subgroup of three images does not win by chance. None without subgroups."""
    rows = by_value(found, name)
    return min(rows, key=lambda row: (row["upper"], row["column"], row["value"])) if rows else None


def _shares(
    inside: NDArray[np.bool_], labels: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64]
) -> dict[str, Any]:
    images, right = int(inside.sum()), int((after == labels)[inside].sum())
    lower, upper = wilson(right, images)
    return {
        "images": images,
        "float": float((before == labels)[inside].mean()),
        "engine": right / images,
        "lower": lower,
        "upper": upper,
        "changed": float((before != after)[inside].mean()),
    }
