"""Class folders: `DIR/<class>/...`, or `DIR/train|val|test/<class>/...` as Kaggle ships them.

In the second layout all images are used and split anew, unless the recipe says `split: {column: folder}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medge.data.files import existing_folder, images_below, listing, state_of
from medge.data.table import SourceTable, interned, safe_name
from medge.errors import DataError

__all__ = ["files", "group_of", "rows"]

_SIDES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_LAYOUT = "Put the images into one folder for each class: DIR/NORMAL/..., DIR/PNEUMONIA/..."
# File names of the public paediatric chest X-rays (Kermany 2018): the child's number, then the image's.
_CHEST_XRAY = re.compile(
    r"(?P<kaggle>person\d+)_(?:bacteria|virus)_\d+|(?P<normal>(?:NORMAL2-)?IM-\d+)-\d+"
    r"|(?P<mendeley>(?:NORMAL|BACTERIA|VIRUS)-\d+)-\d+"
)


def files(section: Any) -> Iterator[Path]:
    """The files that `rows` depends on."""
    folder = existing_folder(section)
    for path in images_below(folder)[0]:
        yield folder / path


def rows(section: Any, *, seed: int, work: Path) -> SourceTable:
    """One row per image file, in the order of the paths. Raises DataError for a folder without classes or images."""
    folder = existing_folder(section)
    paths, ignored = images_below(folder)
    if not paths:
        raise DataError(f"{folder} holds no images ({_counted(ignored)}).", fix=_LAYOUT)
    depth = 1 if _has_sides(paths) else 0
    stray = [path for path in paths if path.count("/") <= depth]
    if stray:
        raise DataError(f"{len(stray)} files in {folder} lie in no class folder:\n{listing(stray)}", fix=_LAYOUT)
    parts = [path.split("/", depth + 1) for path in paths]
    groups, alone = _groups(paths)
    return SourceTable(
        name=safe_name(folder.resolve().name),
        paths=paths,
        labels=interned(part[depth] for part in parts),
        groups=groups,
        fetch=lambda row: folder / paths[row],
        splits=interned(part[0] for part in parts) if depth else None,
        ignored=ignored,
        notes=(f"Patients were read from the file names: {len(set(groups))} groups.",) if alone < len(paths) else (),
        warnings=(_unknown_patients(alone, len(paths)),) if alone else (),
        identity=state_of(folder / path for path in paths),
    )


def group_of(path: str) -> str | None:
    """The patient that a chest X-ray's file name tells of (`personNNN`, `IM-NNNN`, `NORMAL2-IM-NNNN`), else None."""
    match = _CHEST_XRAY.match(path.rsplit("/", 1)[-1])
    return match[match.lastgroup] if match and match.lastgroup else None


def _groups(paths: list[str]) -> tuple[list[str], int]:
    """A group for each image, and how many images are groups of their own because nothing is known of them."""
    found = [group_of(path) for path in paths]
    groups = interned(path if group is None else group for path, group in zip(paths, found, strict=True))
    return groups, sum(group is None for group in found)


def _unknown_patients(alone: int, images: int) -> str:
    told = "for any image" if alone == images else f"for {alone} of {images} images"
    return (
        f"Patients are not known {told}: each of these counts as a group of its own. If a patient has several images, "
        f"the figures will be too good; name the patients in a CSV manifest (source: csv, columns.group)."
    )


def _has_sides(paths: list[str]) -> bool:
    """Whether the top folders are train, val and test rather than classes. Raises DataError for a mixture."""
    tops = {path.split("/", 1)[0] for path in paths if "/" in path}
    sides = {top for top in tops if top.lower() in _SIDES}
    if sides and tops - sides:
        raise DataError(
            f"Folders of a split ({', '.join(sorted(sides))}) lie beside others ({', '.join(sorted(tops - sides))}).",
            fix="Keep either class folders or train, val and test folders in data.path.",
        )
    return bool(sides)


def _counted(ignored: dict[str, int]) -> str:
    return "ignored: " + ", ".join(f"{n} {what}" for what, n in ignored.items()) if ignored else "no files at all"
