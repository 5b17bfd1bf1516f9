"""Is an image unlike those the engine was validated on? A distance of its pooled features from training's.

An image that seems unlike is looked at once more as a JPEG of model size: the features also tell how a picture was
stored, and one that was scaled down here has none of the marks of training files that their publisher scaled and
compressed. It is refused where both look unlike.

Features are scaled to length 1 first. Two methods, each one small table of numbers and a threshold:

- `mahalanobis`: the smallest distance from a class mean under one covariance shared by the classes (Lee et al., "A
  Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018). The
  covariance is k directions with variances l_i, and the variance s in every other (Tipping and Bishop, J. R. Stat. Soc.
  B 61 (1999) 611-622), so with r = x - mean, and rows w_i = sqrt(1 - s / l_i) v_i, the square is
  (|r|^2 - |W r|^2) / s: a table of k rows, and what leaves the training images' subspace counts most.
- `knn`: the distance from the k-th nearest of a bank of training features (Sun et al., "Out-of-Distribution Detection
  with Deep Nearest Neighbors", ICML 2022).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np

from medge.errors import IntegrityError

__all__ = ["METHODS", "Detector", "is_unlike", "load", "normalised", "reason", "recompressed", "score_of", "scores"]

Array = Any
METHODS = ("mahalanobis", "knn")
QUALITY = 75  # of the second look's JPEG: Pillow's default, and the commonest


@dataclass(frozen=True)
class Detector:
    """table float32 [rows, D]. mahalanobis: `means` rows of class means, then W; `variance` is s. knn: the bank, and
    `neighbours` says which distance counts. An image whose score is above `threshold` is refused."""

    method: str
    threshold: float
    table: Array
    means: int = 0
    variance: float = 1.0
    neighbours: int = 1


def load(folder: Path, entry: Dict[str, Any]) -> Detector:
    """The detector of a manifest's `ood` entry, its table below `folder`. Raises IntegrityError where they
    do not fit."""
    try:
        table = np.load(folder / entry["file"], allow_pickle=False)
        found = Detector(
            str(entry["method"]),
            float(entry["threshold"]),
            table,
            means=int(entry["means"]),
            variance=float(entry["variance"]),
            neighbours=int(entry["neighbours"]),
        )
        fits = table.dtype == np.float32 and table.ndim == 2 and bool(np.isfinite(table).all())
        known = found.method in METHODS and np.isfinite(found.threshold) and found.variance > 0
        if not (fits and known and 0 <= found.means <= len(table) and 1 <= found.neighbours <= max(1, len(table))):
            raise ValueError(f"a {table.dtype} table {list(table.shape)} for {entry}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"The refusal of unlike images cannot be read: {error!r}.", fix="Do not use it. Copy the bundle again."
        ) from error
    return found


def scores(detector: Detector, features: Array) -> Array:
    """float64 [N], higher is less alike, of pooled features [N, D]. Raises IntegrityError for another D."""
    if features.ndim != 2 or features.shape[1] != detector.table.shape[1]:
        raise IntegrityError(
            f"Features of shape {list(features.shape)} for a table of {detector.table.shape[1]} columns.",
            fix="The table is another engine's: package again.",
        )
    x = normalised(features)
    table = detector.table.astype(np.float64)
    if detector.method == "knn":
        squares = 2 - 2 * (x @ table.T)
        nearest = np.partition(squares, detector.neighbours - 1, axis=1)[:, detector.neighbours - 1]
        return np.sqrt(np.maximum(nearest, 0))
    directions = table[detector.means :].T
    squares = np.full(len(x), np.inf)
    for mean in table[: detector.means]:
        rest = x - mean
        squares = np.minimum(squares, (rest**2).sum(axis=1) - ((rest @ directions) ** 2).sum(axis=1))
    return np.sqrt(np.maximum(squares, 0) / detector.variance)


def recompressed(image: Array) -> Array:
    """uint8 [height, width, 3] after a JPEG at QUALITY: what the second look is taken at."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(stream).convert("RGB"), dtype=np.uint8)


def score_of(detector: Detector, features: Array, again: Callable[[], Array]) -> float:
    """The score of one image's features [1, D]; where it would be refused, the smaller of it and that of `again()`, the
    features of the recompressed image."""
    score = float(scores(detector, features)[0])
    return min(score, float(scores(detector, again())[0])) if is_unlike(detector, score) else score


def is_unlike(detector: Detector, score: float) -> bool:
    """Whether an image with this score is refused; a score that is not a number is."""
    return not score <= detector.threshold


def reason(detector: Detector, score: float) -> str:
    """Why an image is refused, for a person."""
    return f"unlike the images this model was validated on (score {score:.4g} > {detector.threshold:.4g})"


def normalised(features: Array) -> Array:
    """Rows scaled to length 1, float64; a row of zeros stays one."""
    wide = np.asarray(features, dtype=np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
