"""The predictions table: the interface between running an engine and judging it.

CSV `sha256,group,label,logit_0,logit_1,...`, further columns being subgroups. sha256 is that of the decoded
pixels, label the class index, logits are float. Light ring: a device writes the same table as the host.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from medge.errors import DataError
from medge.records import file_stem, write_text

__all__ = ["FLOAT", "Predictions", "read", "table_path", "write"]

FLOAT = "float"  # the reference's name among the tables; an engine's always holds a slash

Array = Any  # numpy arrays; numpy.typing needs a newer Python than the devices have


@dataclass(frozen=True)
class Predictions:
    """One row per image: labels int64 [N], logits float64 [N, classes], the rest N strings; subgroups by name.

    origin: the file that was read, for messages.
    """

    sha256: Tuple[str, ...]
    group: Tuple[str, ...]
    labels: Array
    logits: Array
    subgroups: Dict[str, Tuple[str, ...]]
    origin: str = ""

    def __len__(self) -> int:
        return len(self.sha256)

    def place(self, row: int) -> str:
        """Where a row is, for messages: its line in the file, if it is of one, and its image."""
        line = f"line {row + 2}, " if self.origin else ""
        return f"{line}image {self.sha256[row][:12]}"


def write(path: Path, table: Predictions) -> None:
    """The table as CSV, logits with nine digits (float32 survives), written aside and renamed."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    classes = table.logits.shape[1]
    writer.writerow(["sha256", "group", "label", *(f"logit_{k}" for k in range(classes)), *table.subgroups])
    for row, (sha256, group) in enumerate(zip(table.sha256, table.group)):
        extra = [column[row] for column in table.subgroups.values()]
        writer.writerow([sha256, group, int(table.labels[row]), *(f"{v:.9g}" for v in table.logits[row]), *extra])
    write_text(path, stream.getvalue())


def table_path(stage_folder: Path, name: str, split: str) -> Path:
    """Where the predictions of an engine, or of `float`, on a split lie in the folder of validate or profile."""
    return stage_folder / "predictions" / f"{file_stem(name)}-{split}.csv"


def read(path: Path) -> Predictions:
    """The table in a CSV file. Raises DataError naming the line of every kind of mistake found first."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read the predictions table {path}: {error}.", fix="Name a CSV file.") from error
    if not rows:
        raise DataError(f"{path} is empty.", fix=_FORM)
    header, body = rows[0], rows[1:]
    classes = _classes_in(header, path)
    subgroup_columns = list(range(3 + classes, len(header)))
    labels: List[int] = []
    logits: List[List[float]] = []
    for line, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} columns where the header has {len(header)}.", fix=_FORM)
        try:
            labels.append(int(row[2]))
            logits.append([float(v) for v in row[3 : 3 + classes]])
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}.", fix=_FORM) from error
    return Predictions(
        sha256=tuple(row[0] for row in body),
        group=tuple(row[1] for row in body),
        labels=np.asarray(labels, dtype=np.int64),
        logits=np.asarray(logits, dtype=np.float64).reshape(len(body), classes),
        subgroups={header[k]: tuple(row[k] for row in body) for k in subgroup_columns},
        origin=str(path),
    )


_FORM = "The columns are sha256,group,label,logit_0,logit_1,... and then subgroups, one row per image."


def _classes_in(header: Sequence[str], path: Path) -> int:
    if list(header[:3]) != ["sha256", "group", "label"]:
        raise DataError(f"{path}: the header begins {','.join(header[:3])!r}.", fix=_FORM)
    classes = sum(1 for name in header if name.startswith("logit_"))
    if classes < 2 or list(header[3 : 3 + classes]) != [f"logit_{k}" for k in range(classes)]:
        raise DataError(f"{path}: needs the columns logit_0, logit_1, ... in order after label.", fix=_FORM)
    return classes
