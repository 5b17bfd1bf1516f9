"""A prepared data set on disk: one row per image in `manifest.csv`, its pixels in `images.u8`.

`images.u8` holds raw uint8 [N, height, width, 3] without a header; row k of the manifest is image k. Pixels are
read with `os.pread`, not through a memory map, so that resident memory does not grow with the number of images.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge.errors import DataError, IntegrityError
from medge.predictions import Predictions
from medge.records import Preprocess, from_json, read_json, sha256_of_file

__all__ = ["COLUMNS", "SPLITS", "DataSet", "load"]

SPLITS = ("train", "validation", "test", "external")
COLUMNS = ("path", "label", "group", "split", "sha256")  # then subgroups


@dataclass(frozen=True)
class DataSet:
    """N images with what is known of them; columns, not rows, so that 50,000 images cost little memory.

    labels: class names; of two, index 1 is the positive class. label: int64 [N]. split: str [N], one of SPLITS.
    sha256s: of the decoded pixels at full size. sha256: of manifest.csv. synthetic: drawn, not acquired.
    """

    folder: Path
    name: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    synthetic: bool
    sha256: str
    paths: tuple[str, ...]
    groups: tuple[str, ...]
    sha256s: tuple[str, ...]
    label: NDArray[np.int64]
    split: NDArray[np.str_]
    subgroups: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.paths)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Rows of one split, ascending. Raises ValueError for a name that is not in SPLITS."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: one of {', '.join(SPLITS)}")
        return np.flatnonzero(self.split == split).astype(np.int64)

    def read(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Images uint8 [n, height, width, 3], in the order of `indices`. Raises IndexError, IntegrityError."""
        rows = np.asarray(indices, dtype=np.int64).ravel()
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a data set of {len(self)} images")
        size = self.preprocess.height * self.preprocess.width * 3
        images = np.empty((rows.size, self.preprocess.height, self.preprocess.width, 3), dtype=np.uint8)
        path = self.folder / "images.u8"
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for image, row in zip(images, rows.tolist(), strict=True):
                _read_exactly(descriptor, image.data.cast("B"), offset=row * size, path=path)
        finally:
            os.close(descriptor)
        return images

    def predictions(self, indices: Sequence[int] | NDArray[Any], logits: NDArray[Any]) -> Predictions:
        """The predictions table of some rows. `logits` is [n, classes]; raises ValueError if it does not fit."""
        rows = np.asarray(indices, dtype=np.int64).ravel()
        if logits.shape != (rows.size, len(self.labels)):
            raise ValueError(f"logits {logits.shape} for {rows.size} images and {len(self.labels)} classes")
        at = rows.tolist()
        return Predictions(
            sha256=tuple(self.sha256s[k] for k in at),
            group=tuple(self.groups[k] for k in at),
            labels=self.label[rows],
            logits=np.asarray(logits, dtype=np.float64),
            subgroups={name: tuple(column[k] for k in at) for name, column in self.subgroups.items()},
        )


def load(folder: Path) -> DataSet:
    """The data set that the data stage wrote in `folder`. Raises IntegrityError where the files do not fit together."""
    about = read_json(folder / "dataset.json")
    manifest, pixels = folder / "manifest.csv", folder / "images.u8"
    try:
        digest = sha256_of_file(manifest)
        stored = pixels.stat().st_size
    except OSError as error:
        raise IntegrityError(f"Cannot read {error.filename}: {error.strerror}.", fix=_AGAIN) from error
    if digest != about["sha256"]:
        raise IntegrityError(f"{manifest} is not the one that dataset.json names (its sha256 differs).", fix=_AGAIN)
    preprocess = from_json(Preprocess, about["preprocess"])
    columns = _read_columns(manifest)
    count = len(columns["path"])
    if stored != count * preprocess.height * preprocess.width * 3:
        raise IntegrityError(f"{pixels} has {stored} bytes: not {count} images of the recorded size.", fix=_AGAIN)
    index = {name: k for k, name in enumerate(about["labels"])}
    return DataSet(
        folder=folder,
        name=about["name"],
        labels=tuple(about["labels"]),
        preprocess=preprocess,
        synthetic=about["synthetic"],
        sha256=digest,
        paths=tuple(columns["path"]),
        groups=tuple(columns["group"]),
        sha256s=tuple(columns["sha256"]),
        label=np.asarray([index[name] for name in columns["label"]], dtype=np.int64),
        split=np.asarray(columns["split"], dtype=np.str_),
        subgroups={name: tuple(column) for name, column in columns.items() if name not in COLUMNS},
    )


_AGAIN = "Make it again: delete this folder and run medge data, or the run, again."


def _read_columns(manifest: Path) -> dict[str, list[str]]:
    """The manifest's columns; values that repeat are stored once."""
    with open(manifest, encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        if tuple(header[: len(COLUMNS)]) != COLUMNS:
            raise DataError(f"{manifest}: the header does not begin {','.join(COLUMNS)}.", fix=_AGAIN)
        columns: dict[str, list[str]] = {name: [] for name in header}
        for row in reader:
            for name, value in zip(header, row, strict=True):
                columns[name].append(value if name in ("path", "sha256") else sys.intern(value))
    return columns


def _read_exactly(descriptor: int, buffer: memoryview, *, offset: int, path: Path) -> None:
    """Fills `buffer` from a file position; a read may return less than was asked."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise IntegrityError(f"{path} ends early.", fix=_AGAIN)
        done += count
