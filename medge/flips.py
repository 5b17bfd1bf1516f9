"""The flip ledger: every image whose decision the engine changed, new misses first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from medge.metrics import Model
from medge.pairing import Paired

__all__ = ["KINDS", "expected_rate", "ledger"]

# In the order of the ledger. The last three are of more than two classes.
KINDS = (
    "new miss", "new alarm", "corrected miss", "corrected alarm", "new error", "corrected error", "other error",
)  # fmt: skip
_NEIGHBOURS = 15  # on either side


def ledger(judged: Paired, before: Model, after: Model) -> dict[str, Any]:
    """{rate, count, <kind>s ..., rows}; a row has sha256, group, label, both probabilities and decisions, and kind.

    Of two classes a positive that the float model found and the engine does not is a `new miss`, a negative that it
    newly calls positive a `new alarm`; the other way round they are corrected. The probabilities are the positive
    class's after each model's temperature; of more classes, that of the class the float model decided for.
    """
    at = np.flatnonzero(before.decisions != after.decisions)
    shown = np.ones(len(at), dtype=np.int64) if judged.classes == 2 else before.decisions[at]
    p_before, p_after = before.calibrated[at, shown], after.calibrated[at, shown]
    rows = [
        {
            "sha256": judged.sha256[k],
            "group": judged.group[k],
            "label": int(judged.labels[k]),
            "probability_float": float(p_before[n]),
            "probability_engine": float(p_after[n]),
            "decision_float": int(before.decisions[k]),
            "decision_engine": int(after.decisions[k]),
            "kind": _kind(int(judged.labels[k]), int(before.decisions[k]), int(after.decisions[k]), judged.classes),
        }
        for n, k in enumerate(at.tolist())
    ]
    rows.sort(key=lambda row: (KINDS.index(str(row["kind"])), row["sha256"]))
    kinds = KINDS[:4] if judged.classes == 2 else KINDS[4:]
    plural = {"new miss": "new_misses", "corrected miss": "corrected_misses"}
    counts = {
        plural.get(kind, kind.replace(" ", "_") + "s"): sum(row["kind"] == kind for row in rows) for kind in kinds
    }
    if judged.classes > 2:
        counts |= {"new_misses": None, "new_alarms": None}  # words of two classes: there is nothing to count
    return {"rate": len(rows) / len(judged), "count": len(rows), **counts, "rows": rows}


def expected_rate(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """The share of decisions that flips where each image meets the errors of those with a like score, not just its own.

    before, after: how far the float model's score and the engine's lie above the threshold, float64 [N]; an error is
    their difference. Each image is given in turn the errors of up to 31 images that are next to it in `before`, its own
    among them, moved along their own straight line (least squares) to its score. Where errors do not depend on the
    score, or along a line, its mean is that of the count; its spread is about 0.6 of the count's where they scatter
    about 0, and no smaller than the count's where all are shifted alike. Where they grow with the distance from the
    threshold it is somewhat too large (tests/unit/test_flips.py).
    """
    order = np.argsort(before, kind="stable")
    margins, errors = before[order], (after - before)[order]
    near = sliding_window_view(np.pad(errors, _NEIGHBOURS, constant_values=np.nan), 2 * _NEIGHBOURS + 1)
    away = sliding_window_view(np.pad(margins, _NEIGHBOURS, constant_values=np.nan), 2 * _NEIGHBOURS + 1)
    away = away - margins[:, None]
    centred = away - np.nanmean(away, axis=1, keepdims=True)
    spread = np.nansum(centred**2, axis=1)
    slope = np.divide(np.nansum(centred * near, axis=1), spread, out=np.zeros_like(spread), where=spread > 0)
    moved = near - slope[:, None] * away
    flipped = (margins[:, None] + moved >= 0) != (margins[:, None] >= 0)
    known = ~np.isnan(near)
    return float(((flipped & known).sum(axis=1) / known.sum(axis=1)).mean())


def _kind(label: int, before: int, after: int, classes: int) -> str:
    if classes == 2:
        noun = "miss" if label == 1 else "alarm"
        return f"new {noun}" if before == label else f"corrected {noun}"
    if before == label:
        return "new error"
    return "corrected error" if after == label else "other error"
