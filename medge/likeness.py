"""Scores of many images as a bundle would score them, second look included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medge.engine_outputs import Runner, write_images
from medge.records import Engine
from medge.runtime import ood
from medge.runtime.child import read_rows
from medge.runtime.ood import Detector

__all__ = ["scores_of"]


def scores_of(
    detector: Detector,
    features: NDArray[np.float32],
    *,
    runner: Runner,
    engine: tuple[Engine, Path],
    name: str,
    images: Path,
    rows: Sequence[int],
) -> NDArray[np.float64]:
    """The scores [N] of `rows` of a raw file of images, whose `features` [N, D] are known. Those above the threshold
    (all, while there is none) are looked at again as JPEGs, as `runtime.ood.score_of` does it."""
    found = np.asarray(ood.scores(detector, features), dtype=np.float64)
    above = np.flatnonzero(~(found <= detector.threshold)) if np.isfinite(detector.threshold) else np.arange(len(found))
    if len(above):
        size = {"height": runner.data.preprocess.height, "width": runner.data.preprocess.width}
        again = [ood.recompressed(image) for image in read_rows(images, [rows[int(k)] for k in above], **size)]
        path = write_images(runner.scratch / f"again-{name}.u8", np.stack(again))
        second = runner.raw(*engine, f"again-{name}", path, range(len(above))).features
        found[above] = np.minimum(found[above], ood.scores(detector, second))
        path.unlink()
    return found
