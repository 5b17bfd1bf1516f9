"""What a source returns: columns over N images and a function that fetches one image at a time."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fetch", "Picture", "SourceTable", "interned", "safe_name", "taken"]

Picture = Path | NDArray[np.uint8]  # a file, or decoded pixels uint8 [height, width] or [height, width, 3]
Fetch = Callable[[int], Picture]  # by row; called from several threads


@dataclass(frozen=True)
class SourceTable:
    """N images: columns of equal length and `fetch`, which gives the file or the raw pixels of a row.

    paths: unique names with forward slashes, relative to the source. labels: class names. groups: patient or lesion.
    splits: the side that the source itself gives, or None. ignored: files left out by rule, counted by reason.
    notes: what a reader should know (a rule that was applied); warnings: what may make the figures wrong.
    identity: what, beside the columns, decides the pixels (sizes and times of files, the seed of a drawing).
    """

    name: str
    paths: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str]
    fetch: Fetch
    subgroups: dict[str, Sequence[str]] = field(default_factory=dict)
    splits: Sequence[str] | None = None
    synthetic: bool = False
    ignored: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    identity: str = ""

    def __post_init__(self) -> None:
        columns = {"labels": self.labels, "groups": self.groups, **self.subgroups}
        if self.splits is not None:
            columns["splits"] = self.splits
        wrong = [name for name, column in columns.items() if len(column) != len(self.paths)]
        if wrong:
            raise ValueError(f"columns {', '.join(wrong)} have another length than paths ({len(self.paths)})")

    def __len__(self) -> int:
        return len(self.paths)


def taken(table: SourceTable, rows: Sequence[int], **changes: Any) -> SourceTable:
    """The table with only these rows, in this order; `changes` replace further fields."""
    at = [int(row) for row in rows]
    fetch = table.fetch
    return dataclasses.replace(
        table,
        paths=[table.paths[k] for k in at],
        labels=[table.labels[k] for k in at],
        groups=[table.groups[k] for k in at],
        subgroups={name: [column[k] for k in at] for name, column in table.subgroups.items()},
        splits=None if table.splits is None else [table.splits[k] for k in at],
        fetch=lambda row: fetch(at[row]),
        **changes,
    )


def interned(values: Iterable[str]) -> list[str]:
    """A column in which equal values are one object."""
    return [sys.intern(value) for value in values]


def safe_name(text: str) -> str:
    """A data set's name as part of a file name: letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "data"
