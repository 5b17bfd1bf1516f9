"""What engines answered on a device to a labelled set: tables for the trial, point values for the receipt.

The receipt is written before `select` fits the operating threshold, so its accuracy is that of the most probable class,
and says so: a bundle's README, which has the threshold, gives another figure of the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import predictions
from medge.data import dataset
from medge.errors import IntegrityError
from medge.job.spec import Spec
from medge.records import sha256_of_file
from medge.workspace import Inputs

__all__ = ["DECIDED_BY", "scored", "splits", "tables"]

DECIDED_BY = "the most probable class (with two classes: threshold 0.5), not the operating threshold"


def scored(
    spec: Spec, score: Mapping[str, Any] | None, inputs: Inputs, work: Path
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Point values of each engine on the labelled set (of two, on the test images), and {engine: {split: sha256}} of
    its predictions tables, which are left in predictions/."""
    found: dict[str, Any] = {}
    answers: dict[str, dict[str, str]] = {}
    if score is None:
        return found, answers
    (work / "predictions").mkdir(exist_ok=True)
    for name, rows in score["logits"].items():
        by_split = tables(spec, score, np.asarray(rows, dtype=np.float64), inputs)
        for split, table in by_split.items():
            path = predictions.table_path(work, name, split)
            predictions.write(path, table)
            answers.setdefault(name, {})[split] = sha256_of_file(path)
            found[name] = {
                "set": split,
                "images": len(table),
                "accuracy": round(float((table.logits.argmax(axis=1) == table.labels).mean()), 6),
                "accuracy_decided_by": DECIDED_BY,
                "auc": _auc(table.labels, table.logits),
            }
    return found, answers


def tables(
    spec: Spec, score: Mapping[str, Any], logits: NDArray[np.float64], inputs: Inputs
) -> dict[str, predictions.Predictions]:
    """An engine's answers by split, validation before test. Raises IntegrityError where they are not of the images that
    were sent."""
    if spec.labelled is None or spec.labelled.path is not None:
        labels: NDArray[np.int64] = np.asarray(score["label"], dtype=np.int64)
        return {
            score["set"]: predictions.Predictions(tuple(score["sha256"]), tuple(score["group"]), labels, logits, {})
        }
    data, found, start = dataset.load(inputs["data"].folder), {}, 0
    for split in splits(spec.labelled.name):
        rows = data.indices(split)
        part = slice(start, start + len(rows))
        if score["sha256"][part] != [data.sha256s[row] for row in rows.tolist()] or len(logits[part]) != len(rows):
            raise IntegrityError(
                f"The answers of {spec.device} are not of this run's {split} images.", fix="Run the job again."
            )
        found[split] = data.predictions(rows, logits[part])
        start += len(rows)
    return found


def splits(score: str) -> tuple[str, ...]:
    """The splits that `profile.score` names, in the order in which they are sent."""
    return ("validation", "test") if score == "both" else (score,)


def _auc(labels: NDArray[np.int64], logits: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve, the mean over classes of one against the rest; None where a class has no image."""
    from sklearn.metrics import roc_auc_score

    from medge.statistics.scores import one_vs_rest

    classes = logits.shape[1]
    if len(np.unique(labels)) != classes:
        return None
    wanted = [1] if classes == 2 else range(classes)
    scores = one_vs_rest(logits)
    values = [roc_auc_score(labels == k, scores[:, column]) for column, k in enumerate(wanted)]
    return round(float(np.mean(values)), 6)
