"""A CSV manifest: one line per image, its columns named in the recipe (path, label, group, subgroups, split)."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medge import plugins
from medge.data.files import existing_folder, file_under, listing, state_of
from medge.data.table import SourceTable, interned, safe_name
from medge.errors import DataError

__all__ = ["files", "rows"]


def files(section: Any) -> Iterator[Path]:
    """The files that `rows` depends on: the manifest and what it lists."""
    folder = existing_folder(section)
    manifest = _manifest(section, folder)
    yield manifest
    for path in _paths(_columns(manifest, [section.columns.path]), section):
        yield file_under(folder, path)


def rows(section: Any, *, seed: int, work: Path) -> SourceTable:
    """One row per line of the manifest. Raises DataError that lists every missing column, value and file."""
    folder = existing_folder(section)
    manifest = _manifest(section, folder)
    names = section.columns
    split = getattr(getattr(section, "split", None), "column", None)
    filled = [names.path, names.label, *filter(None, (names.group, split))]
    columns = _columns(manifest, [*filled, *names.subgroups])
    paths = _paths(columns, section)
    if not paths:
        raise DataError(f"{manifest} lists no images.", fix="It needs one line for each image below the header.")
    located = [file_under(folder, path) for path in paths]
    _check(manifest, {name: columns[name] for name in filled}, paths, located)
    warnings: tuple[str, ...] = ()
    if not names.group:
        warnings = (
            f"columns.group is not set: each of {len(paths)} images counts as a group of its own. If a patient has "
            f"several images, the figures will be too good; name the column of patients or lesions.",
        )
    return SourceTable(
        name=safe_name(folder.resolve().name),
        paths=paths,
        labels=interned(columns[names.label]),
        groups=interned(columns[names.group]) if names.group else paths,
        subgroups={name: interned(columns[name]) for name in names.subgroups},
        splits=interned(columns[split]) if split else None,
        fetch=lambda row: located[row],
        warnings=warnings,
        identity=state_of([manifest, *located]),
    )


def _manifest(section: Any, folder: Path) -> Path:
    manifest = file_under(folder, section.manifest)
    if not manifest.is_file():
        raise DataError(
            f"There is no manifest {manifest}.", fix="Name it, relative to data.path: --set data.manifest=FILE.csv."
        )
    return manifest


def _paths(columns: dict[str, list[str]], section: Any) -> list[str]:
    """The paths with forward slashes, as a manifest made on Windows has not."""
    return [path.replace("\\", "/") for path in columns[section.columns.path]]


def _columns(manifest: Path, needed: list[str]) -> dict[str, list[str]]:
    """The needed columns, stripped of blanks. Raises DataError naming all that are missing, or all odd lines."""
    with_bom = "utf-8-sig"  # Excel writes a byte order mark
    try:
        with open(manifest, encoding=with_bom, newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in needed if name not in header]
            if missing:
                hints = "; ".join(f"'{name}': {plugins.nearest(name, header)}" for name in missing if header)
                raise DataError(
                    f"{manifest} has no column {', '.join(map(repr, missing))}.", fix=f"data.columns: {hints}"
                )
            at = {name: header.index(name) for name in needed}
            columns: dict[str, list[str]] = {name: [] for name in needed}
            odd = []
            for row in reader:
                if len(row) != len(header):
                    if row:
                        odd.append(reader.line_num)
                    continue
                for name, k in at.items():
                    columns[name].append(sys.intern(row[k].strip()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read {manifest}: {error}.", fix="Save it as CSV: UTF-8, commas.") from error
    if odd:
        lines = ", ".join(map(str, odd))
        raise DataError(
            f"{manifest}: not {len(header)} columns, as the header, in lines {lines}.", fix="Mend these lines."
        )
    return columns


def _check(manifest: Path, filled: dict[str, list[str]], paths: list[str], located: list[Path]) -> None:
    """Raises DataError that lists empty values, paths listed twice, and missing files."""
    problems = []
    for name, column in filled.items():
        empty = sum(not value for value in column)
        if empty:
            problems.append(f"column '{name}' is empty in {empty} lines")
    problems += [f"{path} is listed {n} times" for path, n in Counter(paths).items() if n > 1]
    problems += [f"{path} does not exist" for path, file in zip(paths, located, strict=True) if not file.is_file()]
    if problems:
        raise DataError(
            f"{manifest} has {len(problems)} mistakes:\n{listing(problems)}", fix="Mend them in the manifest."
        )
