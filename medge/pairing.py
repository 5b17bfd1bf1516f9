"""Two predictions tables of the same images, row by row; what cannot be compared is refused here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medge.errors import DataError
from medge.predictions import Predictions

__all__ = ["Paired", "pair"]

_SAME = 1e-3  # one image in two batches differs by rounding; more than this is another prediction


@dataclass(frozen=True)
class Paired:
    """N images in the order of their sha256, so that nothing depends on the order of rows in a file.

    labels int64 [N]; float_logits and engine_logits float64 [N, C]; repeated: rows that were a further copy of an
    image (pixel-identical, same label and prediction) and count once.
    """

    sha256: tuple[str, ...]
    group: tuple[str, ...]
    labels: NDArray[np.int64]
    float_logits: NDArray[np.float64]
    engine_logits: NDArray[np.float64]
    subgroups: dict[str, tuple[str, ...]]
    repeated: int

    @property
    def classes(self) -> int:
        return int(self.float_logits.shape[1])

    def __len__(self) -> int:
        return len(self.sha256)


def pair(float_table: Predictions, engine_table: Predictions, *, name: str) -> Paired:
    """Both tables of one split (`name`, for messages) as one. Raises DataError where they are not of the same images,
    labels and groups, or hold what no statistic can use: NaN, a class without images, rows without a group."""
    a, b = (
        table.origin or f"the {of} {name} table"
        for table, of in ((float_table, "float model's"), (engine_table, "engine's"))
    )
    _check(float_table, a)
    _check(engine_table, b)
    if float_table.logits.shape[1] != engine_table.logits.shape[1]:
        raise DataError(
            f"{a} has {float_table.logits.shape[1]} classes, {b} has {engine_table.logits.shape[1]}.",
            fix="Compare two models of the same classes.",
        )
    _check_classes(float_table, a if float_table.origin else f"The {name} images")
    first, rows_a = _distinct(float_table, a)
    second, rows_b = _distinct(engine_table, b)
    both = f"{a} and {b}" if float_table.origin else f"The {name} tables"
    _check_same_images(first, second, len(float_table) == len(engine_table), both)
    _check_same(first, float_table.labels[rows_a], engine_table.labels[rows_b], "label", both)
    groups = (np.asarray(float_table.group)[rows_a], np.asarray(engine_table.group)[rows_b])
    _check_same(first, *groups, "group", both)
    if np.ptp(float_table.logits - float_table.logits[:, :1], axis=0).max() == 0:
        raise DataError(f"In {a} every image has the same score.", fix="This model decides nothing: train it again.")
    return Paired(
        sha256=tuple(first.tolist()),
        group=tuple(groups[0].tolist()),
        labels=np.asarray(float_table.labels, dtype=np.int64)[rows_a],
        float_logits=np.asarray(float_table.logits, dtype=np.float64)[rows_a],
        engine_logits=np.asarray(engine_table.logits, dtype=np.float64)[rows_b],
        subgroups={key: tuple(np.asarray(column)[rows_a].tolist()) for key, column in float_table.subgroups.items()},
        repeated=len(float_table) - len(first),
    )


def _check(table: Predictions, name: str) -> None:
    if len(table) == 0:
        raise DataError(f"There is no image in {name}.", fix="Judge at least one image of each class.")
    if table.logits.ndim != 2 or table.logits.shape[1] < 2 or len(table.labels) != len(table.logits):
        raise DataError(
            f"{name} has logits of shape {list(table.logits.shape)}.", fix="One row per image, two classes."
        )
    broken = np.flatnonzero(~np.isfinite(table.logits).all(axis=1))
    if len(broken):
        raise DataError(
            f"{_count(len(broken), 'row')} of {name} are not finite, first {table.place(int(broken[0]))}: "
            f"{table.logits[broken[0]].tolist()}.",
            fix="The model overflows on these images: mend it, nothing can be judged.",
        )
    missing = [k for k, group in enumerate(table.group) if not group]
    if missing:
        raise DataError(
            f"{_count(len(missing), 'row')} of {name} have no group, first {table.place(missing[0])}.",
            fix="Name the patient or lesion of every image; where each image is its own, use its sha256.",
        )
    outside = (table.labels < 0) | (table.labels >= table.logits.shape[1])
    if outside.any():
        raise DataError(
            f"{_count(int(outside.sum()), 'label')} of {name} are not a class index, first {table.labels[outside][0]} "
            f"({table.place(int(np.flatnonzero(outside)[0]))}).",
            fix=f"Labels count from 0 to {table.logits.shape[1] - 1}.",
        )


def _check_classes(table: Predictions, name: str) -> None:
    counts = np.bincount(table.labels, minlength=table.logits.shape[1])
    few = np.flatnonzero(counts < 2)
    if len(few):
        listed = ", ".join(f"class {k} has {counts[k]}" for k in few)
        raise DataError(
            f"{name} cannot be judged: {listed} of {counts.sum()} images.",
            fix="At least two images of each class are needed, some hundred for a verdict.",
        )


def _distinct(table: Predictions, name: str) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Sorted sha256 without repeats and the row of each. Raises DataError where repeats disagree."""
    keys = np.asarray(table.sha256)
    unique, first, counts = np.unique(keys, return_index=True, return_counts=True)
    if len(unique) == len(keys):
        return unique, first.astype(np.int64)
    chosen = first.astype(np.int64)
    for at in np.flatnonzero(counts > 1):
        rows = np.flatnonzero(keys == unique[at])
        if len(set(table.labels[rows].tolist())) > 1 or np.ptp(table.logits[rows], axis=0).max() > _SAME:
            raise DataError(
                f"In {name} one image has {len(rows)} rows with different labels or logits: "
                f"{'; '.join(table.place(row) for row in rows[:2].tolist())}.",
                fix="One row per image: remove the wrong ones.",
            )
        # Of copies the same one whatever the order of rows: by group, then by logits.
        chosen[at] = min(rows.tolist(), key=lambda row: (table.group[row], table.logits[row].tolist()))
    return unique, chosen


def _check_same_images(first: NDArray[np.str_], second: NDArray[np.str_], same_length: bool, both: str) -> None:
    if same_length and np.array_equal(first, second):
        return
    only_a, only_b = np.setdiff1d(first, second), np.setdiff1d(second, first)
    if not len(only_a) and not len(only_b):
        raise DataError(f"{both} repeat different images.", fix="One row per image in both.")
    example = (only_a if len(only_a) else only_b)[0][:12]
    raise DataError(
        f"{both} are not of the same images: {len(only_a)} only in the float model's, {len(only_b)} only in "
        f"the engine's, for example {example}.",
        fix="Run both models on the same images.",
    )


def _check_same(names: NDArray[np.str_], a: NDArray[np.generic], b: NDArray[np.generic], what: str, both: str) -> None:
    wrong = np.flatnonzero(a != b)
    if len(wrong):
        raise DataError(
            f"{both} disagree on the {what} of {_count(len(wrong), 'image')}, first {names[wrong[0]][:12]}: "
            f"{a[wrong[0]]} and {b[wrong[0]]}.",
            fix="Make both tables from one manifest.",
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
