"""For whom the engine decides otherwise: each value of each subgroup column of the test images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge.operating import decide
from medge.pairing import pair
from medge.report.gather import Found
from medge.report.words import percent, share
from medge.statistics.intervals import wilson
from medge.statistics.scores import score_of_probability

__all__ = ["SHOWN", "subgroups"]

SHOWN = 12  # values of one column, the largest first; an age in years has too many to read


def subgroups(found: Found, name: str) -> list[dict[str, Any]]:
    """Per value: images, the share decided rightly by the float model and by the engine (with the 95 % Wilson interval,
    which takes images as independent), and the share of changed decisions. Empty where there are no such columns."""
    judged = pair(found.table("float", "test"), found.table(name, "test"), name="test")
    thresholds = found.judged[name]["test"]["thresholds"]
    before = decide(judged.float_logits, _cut(thresholds["float"]))
    after = decide(judged.engine_logits, _cut(thresholds["used"]))
    rows = []
    for column, values in judged.subgroups.items():
        held = np.asarray(values)
        names, counts = np.unique(held, return_counts=True)
        for value in names[np.argsort(-counts, kind="stable")][:SHOWN]:
            rows.append(
                {
                    "column": column,
                    "value": str(value) or "not given",
                    **_row(held == value, judged.labels, before, after),
                }
            )
    return rows


def _cut(threshold: float | None) -> float | None:
    return None if threshold is None else score_of_probability(threshold)


def _row(
    inside: NDArray[np.bool_], labels: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64]
) -> dict[str, str]:
    images, right = int(inside.sum()), int((after == labels)[inside].sum())
    lower, upper = wilson(right, images)
    return {
        "images": f"{images:,}",
        "float": share(float((before == labels)[inside].mean())),
        "engine": share(right / images),
        "interval": f"[{share(lower)}, {share(upper)}]",
        "changed": percent(float((before != after)[inside].mean())),
    }
