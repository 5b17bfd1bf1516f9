"""Logits and features of an engine on some images, run in a process of its own and kept until the stage is finished."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import console
from medge.data.dataset import DataSet
from medge.records import Engine, file_stem
from medge.runtime.child import logits_in_child
from medge.runtime.machine import cores_allowed

__all__ = ["Outputs", "Runner", "write_images"]


@dataclass(frozen=True)
class Outputs:
    """logits float32 [N, classes], features float32 [N, D], in the order of the rows asked for."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Runner:
    """Runs engines on images of the data set's size. What is in `scratch` from a killed run is not run again."""

    data: DataSet
    scratch: Path

    def split(self, engine: Engine, folder: Path, name: str, rows: Sequence[int]) -> Outputs:
        """Of rows of the data set; `name` tells them from others and is shown."""
        return self.raw(engine, folder, name, self.data.folder / "images.u8", rows)

    def raw(self, engine: Engine, folder: Path, name: str, images: Path, rows: Sequence[int]) -> Outputs:
        """Of rows of a raw uint8 file. Raises ToolError where the engine dies or its logits are not finite."""
        stem = f"{file_stem(engine.name)}-{name}"
        logits, features = (self.scratch / f"{stem}-{kind}.npy" for kind in ("logits", "features"))
        if not (logits.is_file() and features.is_file()):
            with console.progress(f"{engine.name}, {name}", len(rows)) as advance:
                logits_in_child(
                    engine,
                    folder,
                    images=images,
                    rows=rows,
                    height=self.data.preprocess.height,
                    width=self.data.preprocess.width,
                    threads=cores_allowed(),
                    output=logits,
                    features=features,
                    advance=advance,
                )
        return Outputs(np.load(logits, allow_pickle=False), np.load(features, allow_pickle=False))


def write_images(path: Path, images: NDArray[Any]) -> Path:
    """uint8 [N, height, width, 3] as a raw file, written aside and renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    images.astype(np.uint8).tofile(aside)
    os.replace(aside, path)
    return path
