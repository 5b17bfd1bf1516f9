"""The labelled images of a job, which came with it or lie on the device. Light ring."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from medge.errors import DataError
from medge.job.files import link
from medge.job.spec import Labelled
from medge.records import File

__all__ = ["labelled_set"]


def labelled_set(
    labelled: Labelled, images: Path, folder: Path, *, find: Callable[[File], Path]
) -> Tuple[Path, Dict[str, Any]]:
    """The images to be scored, uint8 [N, height, width, 3], and their set with the columns of its table. No image
    leaves the device. `find` gives a file that came with the job, `folder` is the job's.

    Raises DataError for what is missing or of another shape than the job's own `images`, IntegrityError for a file that
    came and is damaged.
    """
    found, table = _files(labelled, folder, find)
    height, width = np.load(str(images), mmap_mode="r").shape[1:3]
    fix = f"Make it uint8 [N, {height}, {width}, 3], prepared as the recipe's data stage does."
    try:
        array = np.load(str(found), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{found} is not an array of images: {error}.", fix=fix) from error
    if array.dtype != np.uint8 or array.shape[1:] != (height, width, 3):
        raise DataError(f"{found} holds {array.dtype} {list(array.shape)}; the engines take other images.", fix=fix)
    columns = _columns(table)
    if len(array) != len(columns["label"]):
        raise DataError(
            f"{found} has {len(array)} images, {table} {len(columns['label'])} rows.", fix="Make them agree."
        )
    return found, {"set": labelled.name, **columns}


def _files(labelled: Labelled, folder: Path, find: Callable[[File], Path]) -> Tuple[Path, Path]:
    if labelled.path is None:
        if labelled.images is None or labelled.table is None:
            raise DataError("The labelled set has no files.", fix="Make the job again.")
        images = folder / "labelled.npy"
        link(find(labelled.images), images)
        return images, find(labelled.table)
    images, table = Path(labelled.path + ".npy"), Path(labelled.path + ".csv")
    for path in (images, table):
        if not path.is_file():
            raise DataError(
                f"There is no {path} on the device.",
                fix="--data-on-device PATH means PATH.npy (uint8 [N, height, width, 3]) and PATH.csv there.",
            )
    return images, table


def _columns(table: Path) -> Dict[str, List[Any]]:
    """sha256, group and label of a CSV. Raises DataError."""
    try:
        with open(table, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {
            "sha256": [row["sha256"] for row in rows],
            "group": [row["group"] for row in rows],
            "label": [int(row["label"]) for row in rows],
        }
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{table} is not a table of sha256, group and label: {error!r}.",
            fix="Write a CSV with the columns sha256, group, label.",
        ) from error
