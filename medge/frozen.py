"""The first stage of fine-tuning: a frozen backbone's features, computed once, and a head trained on them.

Each training image is run once for every flip that the recipe allows (1, 2 or 4 variants); each epoch picks one of them
at random. Rotation and zoom are left to the second stage: their every value is another image, and computing features
for each epoch anew would cost as much as training. Features lie on disk as raw float16 rows and are read by position,
so that memory does not grow with the number of images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medge import console
from medge.errors import ToolError
from medge.training import autocast, batch_count

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray

    from medge.data.dataset import DataSet
    from medge.model import Classifier
    from medge.sections import Augment

__all__ = ["Features", "compute", "head_batches"]

BATCH = 64


@dataclass(frozen=True)
class Features:
    """Rows of pooled features [rows, D]: image k of `indices`, variant v is row k * variants + v.

    Batches of 64 rows are dealt in turn to one file per process.
    """

    paths: tuple[Path, ...]
    dimensions: int
    variants: int

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [n, D], in the order of `rows`."""
        size = 2 * self.dimensions
        found = np.empty((len(rows), self.dimensions), dtype=np.float16)
        files = [os.open(path, os.O_RDONLY) for path in self.paths]
        try:
            for target, row in zip(found, rows.tolist(), strict=True):
                batch, inside = divmod(row, BATCH)
                offset = (batch // len(files) * BATCH + inside) * size
                target[...] = np.frombuffer(os.pread(files[batch % len(files)], size, offset), dtype=np.float16)
        finally:
            for file in files:
                os.close(file)
        return found.astype(np.float32)


def compute(
    model: Classifier,
    data: DataSet,
    indices: NDArray[np.int64],
    augment: Augment | None,
    *,
    folder: Path,
    name: str,
    accelerator: Accelerator,
    dtype: torch.dtype,
) -> Features:
    """Features of `indices`, each in every flip that `augment` allows; continues a file that a killed run left."""
    flips = _flips(augment)
    world, rank = accelerator.num_processes, accelerator.process_index
    kind = str(dtype).removeprefix("torch.")
    paths = tuple(folder / f"{name}-{kind}-{k}-of-{world}.f16" for k in range(world))
    rows = len(indices) * len(flips)
    own = range(rank, -(-rows // BATCH), world)
    model.eval()
    with (
        open(paths[rank], "ab") as stream,
        torch.inference_mode(),
        autocast(accelerator.device, dtype),
        console.progress(f"features of {name} images", len(own) * BATCH) as advance,
    ):
        whole = stream.tell() // (BATCH * model.dimensions * 2)
        if whole < len(own):
            stream.truncate(whole * BATCH * model.dimensions * 2)
            advance(whole * BATCH)
        for batch in own[whole:]:
            numbers = np.arange(batch * BATCH, min((batch + 1) * BATCH, rows))
            images = data.read(indices[numbers // len(flips)])
            for image, variant in zip(images, (numbers % len(flips)).tolist(), strict=True):
                across, down = flips[variant]
                image[...] = image[::down, ::across].copy()
            found = model.pooled(torch.from_numpy(images).to(accelerator.device)).to(torch.float16).cpu().numpy()
            if not np.isfinite(found).all():
                raise ToolError(
                    "The backbone's features are not finite numbers.", fix="Set finetune.precision: float32."
                )
            stream.write(found.tobytes())
            advance(len(numbers))
    accelerator.wait_for_everyone()
    return Features(paths, model.dimensions, len(flips))


def head_batches(
    features: Features, labels: NDArray[np.int64], *, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches float32 [n, D] with labels int64 [n], one variant of each image; alike in all processes."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(labels))
    variant = random.integers(features.variants, size=len(labels))
    for number in range(batch_count(len(labels), batch_size)):
        chosen = order[number * batch_size : (number + 1) * batch_size]
        rows = chosen * features.variants + variant[chosen]
        yield torch.from_numpy(features.read(rows)), torch.from_numpy(labels[chosen])


def _flips(augment: Augment | None) -> list[tuple[int, int]]:
    """Steps (across, down) through an image: 1 as it is, -1 flipped."""
    across = (1, -1) if augment is not None and augment.flip_probability > 0 else (1,)
    down = (1, -1) if augment is not None and augment.vertical_flip_probability > 0 else (1,)
    return list(product(across, down))
