"""Golden vectors: test images that a device replays to show that it computes what was validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medge import predictions
from medge.data.dataset import DataSet
from medge.errors import IntegrityError
from medge.predictions import Predictions
from medge.records import sha256_of_file
from medge.runtime.bundle import OperatingPoint
from medge.runtime.decision import probabilities
from medge.runtime.preprocess import prepare
from medge.runtime.selftest import pattern

__all__ = ["choose_rows", "margins", "write"]

PATTERN = "golden/pattern.png"


def margins(logits: NDArray[np.float64], *, labels: tuple[str, ...], point: OperatingPoint) -> NDArray[np.float64]:
    """How far each row is from another decision, float64 [N]: with two classes the positive probability minus the
    threshold, with more the highest probability minus the second."""
    probability = probabilities(logits, temperature=point.temperature)
    if point.threshold is not None:
        return np.asarray(probability[:, labels.index(str(point.positive))] - point.threshold)
    ordered = np.sort(probability, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def choose_rows(margin: NDArray[np.float64], count: int) -> list[int]:
    """Rows of up to `count` images, ascending: a third of them nearest to another decision, the rest spread evenly
    over the ranks of the others, from end to end."""
    nearest = [int(row) for row in np.argsort(np.abs(margin), kind="stable")[: max(1, count // 3)]]
    rest = [int(row) for row in np.argsort(margin, kind="stable") if row not in nearest]
    wanted = min(count - len(nearest), len(rest))
    places = [] if wanted < 1 else np.unique(np.linspace(0, len(rest) - 1, wanted).round().astype(int)).tolist()
    return sorted([*nearest, *(rest[place] for place in places)])


def write(
    folder: Path,
    data: DataSet,
    *,
    float_test: Path,
    engine_test: Path,
    point: OperatingPoint,
    count: int,
    ood_scores: list[float] | None = None,
    ood_threshold: float = float("inf"),
) -> list[dict[str, Any]]:
    """Writes `golden/NN.png` and the resized test picture into a bundle's folder. Returns the manifest's `golden`.

    Names say nothing of where an image came from. Images whose ood score is above the threshold, which the bundle would
    refuse, are not taken. Raises IntegrityError where the tables are not of the test images.
    """
    rows = data.indices("test")
    floats, engine = (_checked(predictions.read(path), data, path) for path in (float_test, engine_test))
    likeness = np.zeros(len(rows)) if ood_scores is None else np.asarray(ood_scores)
    alike = np.flatnonzero(likeness <= ood_threshold)
    margin = margins(engine.logits[alike], labels=data.labels, point=point)
    chosen = [int(alike[row]) for row in choose_rows(margin, count)]
    (folder / "golden").mkdir(exist_ok=True)
    vectors = []
    for number, row in enumerate(chosen):
        name = f"golden/{number:02d}.png"
        Image.fromarray(data.read([int(rows[row])])[0]).save(folder / name)
        vectors.append(
            {
                "image": name,
                "sha256": sha256_of_file(folder / name),
                "float_logits": floats.logits[row].tolist(),
                "engine_logits": engine.logits[row].tolist(),
                **({} if ood_scores is None else {"ood_score": float(likeness[row])}),
            }
        )
    Image.fromarray(prepare(pattern(), data.preprocess)).save(folder / PATTERN)
    return vectors


def _checked(table: Predictions, data: DataSet, path: Path) -> Predictions:
    if table.sha256 != tuple(data.sha256s[int(row)] for row in data.indices("test")):
        raise IntegrityError(f"{path} is not of this data set's test images.", fix="Run medge validate again.")
    return table
