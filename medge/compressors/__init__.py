"""Compressors: one file, one method; torch in, torch out (see medge.protocols.Compressor)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medge.data.dataset import DataSet
    from medge.model import Classifier

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """What every compressor may use. `calibration` holds indices into `data`, of training images only."""

    data: DataSet
    calibration: NDArray[np.int64]
    teacher: Classifier  # the float model, in eval mode; never changed
    seed: int
    work: Path  # for checkpoints; survives a killed run
    log: list[str] = field(default_factory=list)  # what a compressor wants to be known of; ends in variant.json
