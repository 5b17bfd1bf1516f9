"""data: images and their labels from a source, checked for leaks, split by group, decoded once."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medge import console, plugins
from medge.data import assembly
from medge.data.assembly import Collected, Divided
from medge.data.checks import refuse
from medge.data.dataset import COLUMNS
from medge.data.decode import Decoded, decode
from medge.data.files import state_of
from medge.data.inspect import counts
from medge.records import Preprocess, sha256_of_file, write_json, write_text
from medge.sections import DataSection
from medge.workspace import Inputs

__all__ = ["fingerprint", "run"]


def fingerprint(section: DataSection) -> str:
    """Hash over the paths, sizes and times of change of the files that the section names, cheaply.

    Empty where there are none (phantoms). Raises DataError where the folder or manifest is missing.
    """
    files = list(plugins.load("data.sources", section.source).files(section))
    if section.external is not None:
        files += plugins.load("data.sources", section.external.source).files(section.external)
    return state_of(files) if files else ""


def run(section: DataSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Writes manifest.csv, images.u8, dataset.json and, where there are any, near-duplicates.csv.

    Raises DataError that lists everything that is wrong: unreadable images, leaks, missing classes.
    """
    collected = assembly.collect(section, seed=seed, work=work)
    refuse(collected.problems)
    _tell(collected.notes, collected.warnings)
    preprocess = Preprocess(section.size, section.size, section.resize, section.interpolation)
    decoded = decode(collected.table, preprocess, work)
    refuse(assembly.refusals(collected.table, decoded))
    divided = assembly.divide(collected, decoded, section, seed=seed)
    refuse(divided.problems)
    _tell(divided.notes, ())
    _write_manifest(work / "manifest.csv", collected, decoded, divided)
    _write_near_duplicates(work / "near-duplicates.csv", collected, divided)
    table = collected.table
    about = {
        "schema": 1,
        "name": table.name,
        "labels": collected.labels,
        "positive": collected.labels[1] if len(collected.labels) == 2 else None,
        "preprocess": preprocess,
        "synthetic": table.synthetic,
        "sha256": sha256_of_file(work / "manifest.csv"),
    }
    write_json(work / "dataset.json", about)
    return {
        "name": table.name,
        "synthetic": table.synthetic,
        "labels": list(collected.labels),
        "images": len(table),
        "groups": len(set(divided.groups)),
        "counts": counts(collected, divided),
        "ignored_files": table.ignored,
        "pixel_identical": sum(len(same) - 1 for same in divided.identical),
        "near_duplicates": len(divided.near),
        "notes": [*collected.notes, *divided.notes],
        "warnings": collected.warnings,
    }


def _tell(notes: Sequence[str], warnings: Sequence[str]) -> None:
    for note in notes:
        console.stderr.print(note, markup=False)
    for warning in warnings:
        console.warn(warning)


def _write_manifest(path: Path, collected: Collected, decoded: Decoded, divided: Divided) -> None:
    table = collected.table
    columns = [
        table.paths,
        table.labels,
        divided.groups,
        divided.split.tolist(),
        decoded.sha256s,
        *table.subgroups.values(),
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*COLUMNS, *table.subgroups])
    writer.writerows(zip(*columns, strict=True))
    write_text(path, stream.getvalue())


def _write_near_duplicates(path: Path, collected: Collected, divided: Divided) -> None:
    """The list of pairs, those on two sides first, with a warning."""
    path.unlink(missing_ok=True)  # a killed run may have left one
    if not divided.near:
        return
    table, split = collected.table, divided.split.tolist()
    pairs = sorted(divided.near, key=lambda pair: (split[pair.first] == split[pair.second], pair.distance, pair.first))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "split", "group", "other_path", "other_split", "other_group", "bits"])
    for pair in pairs:
        ends = [
            value for row in (pair.first, pair.second) for value in (table.paths[row], split[row], divided.groups[row])
        ]
        writer.writerow([*ends, pair.distance])
    write_text(path, stream.getvalue())
    apart = sum(split[pair.first] != split[pair.second] for pair in pairs)
    console.warn(
        f"{len(pairs)} pairs of images of different groups look alike, {apart} of them on two sides: {path.name}."
    )
