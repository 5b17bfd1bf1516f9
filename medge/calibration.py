"""The calibration list: which training images fix the ranges of quantisation.

It is drawn once per data set and seed, and kept as `calibration/<data set>-<seed>.csv` (path, label, sha256 of the
decoded pixels) in the current folder, so that it can be reviewed, edited and carried to another machine.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medge import console
from medge.errors import DataError
from medge.records import sha256_of_file, write_text

if TYPE_CHECKING:
    from medge.data.dataset import DataSet

__all__ = ["FOLDER", "CalibrationList", "draw", "read", "read_or_draw", "warn_of_length"]

FOLDER = Path("calibration")
COLUMNS = ["path", "label", "sha256"]


@dataclass(frozen=True)
class CalibrationList:
    """A list on disk: `indices` int64 [n] are its rows in the data set, all of the training split."""

    path: Path
    sha256: str
    indices: NDArray[np.int64]


def read_or_draw(data: DataSet, *, images: int, seed: int) -> CalibrationList:
    """The list of this data set and seed, as it is where there is one, whatever `images` asks for, else drawn and
    written.

    Raises DataError where a list names what is not a training image of `data`.
    """
    # Synthetic images are other images with every setting, all under one name: their list carries the set's hash.
    name = f"{data.name}-{data.sha256[:8]}" if data.synthetic else data.name
    path = FOLDER / f"{re.sub('[^A-Za-z0-9._-]+', '-', name)}-{seed}.csv"
    if not path.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        _write(path, data, draw(data, images=images, seed=seed))
    return CalibrationList(path, sha256_of_file(path), read(path, data))


def warn_of_length(listed: CalibrationList, data: DataSet, *, images: int) -> None:
    """Says that a list counts as it is, where it has not as many images as are asked for."""
    wanted = min(images, len(data.indices("train")))
    if len(listed.indices) != wanted:
        console.warn(
            f"{listed.path} lists {len(listed.indices)} calibration images, and compress.calibration.images asks for "
            f"{wanted}: the list counts. Delete it to have a new one drawn."
        )


def draw(data: DataSet, *, images: int, seed: int) -> NDArray[np.int64]:
    """Rows of training images, each class in its share of the training split, in random order.

    Shares are rounded by largest remainder. All of the split where it has no more than `images`. Raises DataError
    where it has none.
    """
    train = data.indices("train")
    if not len(train):
        raise DataError("There are no training images to calibrate with.", fix="Give the data set a train split.")
    random = np.random.default_rng(seed)
    wanted = min(images, len(train))
    classes, counts = np.unique(data.label[train], return_counts=True)
    exact = counts * wanted / len(train)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: wanted - quota.sum()]] += 1
    chosen = [
        random.choice(train[data.label[train] == label], size=int(n), replace=False)
        for label, n in zip(classes, quota, strict=True)
    ]
    return random.permutation(np.concatenate(chosen))


def read(path: Path, data: DataSet) -> NDArray[np.int64]:
    """Rows in `data` of the images that a list names, in its order. Raises DataError with everything wrong with it."""
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    if not rows or rows[0] != COLUMNS or len(rows) < 2:
        raise DataError(f"{path} is not a calibration list: {','.join(COLUMNS)}, then a row per image.", fix=_fix(path))
    index = {name: k for k, name in enumerate(data.paths)}
    problems: list[str] = []
    found: list[int] = []
    for line, row in enumerate(rows[1:], start=2):
        problem = _problem(row, index, data) if len(row) == 3 else f"{len(row)} columns, not 3"
        if problem is None and index[row[0]] in found:
            problem = f"{row[0]} is named twice"
        if problem is not None:
            problems.append(f"line {line}: {problem}")
        else:
            found.append(index[row[0]])
    if problems:
        shown = "\n".join(f"  - {p}" for p in problems[:_SHOWN])
        more = f"\n  - and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{path} does not fit the training images of {data.name}:\n{shown}{more}", fix=_fix(path))
    return np.asarray(found, dtype=np.int64)


_SHOWN = 10


def _problem(row: list[str], index: dict[str, int], data: DataSet) -> str | None:
    name, label, digest = row
    k = index.get(name)
    if k is None:
        return f"{name} is not in the data set"
    if data.split[k] != "train":
        return f"{name} is a {data.split[k]} image, and calibration may only see training images"
    if digest != data.sha256s[k]:
        return f"{name} has other pixels than the list says (its sha256 differs)"
    if label != data.labels[int(data.label[k])]:
        return f"{name} is labelled {data.labels[int(data.label[k])]}, not {label}"
    return None


def _fix(path: Path) -> str:
    return f"Delete {path} to have a new list drawn, or put back the images, split and seed that it was drawn from."


def _write(path: Path, data: DataSet, rows: NDArray[np.int64]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for k in rows.tolist():
        writer.writerow([data.paths[k], data.labels[int(data.label[k])], data.sha256s[k]])
    write_text(path, stream.getvalue())
