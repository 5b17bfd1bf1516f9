"""What a data set is, before anything is done with it: counts, groups, sides, sizes, and everything that is wrong."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from medge import console
from medge.data import assembly
from medge.data.assembly import Collected, Divided
from medge.data.dataset import SPLITS
from medge.data.decode import Decoded, decode, selected
from medge.data.table import taken
from medge.records import Preprocess
from medge.sections import DataSection

__all__ = ["counts", "inspect", "show"]

_LISTED = 100  # near duplicates and pixel-identical images shown


def inspect(section: DataSection, seed: int) -> dict[str, Any]:
    """Decodes every image in a temporary folder and tells what was found; nothing is kept.

    `problems` holds what the data stage would refuse ({message, fix}), `warnings` what it would warn of. Raises
    DataError only where there is nothing to look at: no folder, no manifest, no images.
    """
    with tempfile.TemporaryDirectory(prefix="medge-inspect-") as folder:
        work = Path(folder)
        collected = assembly.collect(section, seed=seed, work=work)
        decoded = decode(collected.table, Preprocess(64, 64, section.resize), work)
    problems = [*collected.problems, *assembly.refusals(collected.table, decoded)]
    usable = [row for row in range(len(collected.table)) if row not in decoded.refused]
    refused = len(decoded.refused)
    collected = _only(collected, usable)
    decoded = selected(decoded, usable)
    found = _about(collected, decoded, refused=refused)
    if usable and not collected.problems:
        divided = assembly.divide(collected, decoded, section, seed=seed)
        problems += divided.problems
        found.update(_division(collected, divided))
    if section.source == "csv":
        found["columns"] = section.columns.model_dump(exclude_none=True, exclude_defaults=False)
    return {**found, "problems": [{"message": p.message, "fix": p.fix} for p in problems]}


def counts(collected: Collected, divided: Divided) -> dict[str, dict[str, int]]:
    """Images by side and class."""
    pairs = Counter(zip(divided.split.tolist(), collected.table.labels, strict=True))
    sides = set(divided.split.tolist())
    return {side: {label: pairs[(side, label)] for label in collected.labels} for side in SPLITS if side in sides}


def show(found: Mapping[str, Any]) -> None:
    """What `inspect` found, as tables on stderr."""
    title = f"{found['name']}: {found['images']} images in {found['groups']} groups"
    table = Table(title=title + (" (synthetic)" if found["synthetic"] else ""))
    table.add_column("class")
    for side in found["splits"]:
        table.add_column(side, justify="right")
    table.add_column("all", justify="right")
    for label, total in found["classes"].items():
        table.add_row(label, *(str(found["splits"][side].get(label, 0)) for side in found["splits"]), str(total))
    console.stderr.print(table)
    sizes = found["sizes"]
    if sizes:
        console.say(f"sizes {sizes['smallest']} to {sizes['largest']} px, {sizes['different']} different")
    for name in ("modes", "ignored_files"):
        if found[name]:
            line = ", ".join(f"{n} {what}" for what, n in found[name].items())
            console.stderr.print(f"{name.replace('_', ' ')}: {line}", markup=False)
    if columns := found.get("columns"):
        taken_as = ", ".join(f"{key} from '{name}'" for key, name in columns.items() if isinstance(name, str))
        console.stderr.print(f"columns: {taken_as}", markup=False)
    for note in found["notes"]:
        console.stderr.print(note, markup=False)
    for warning in found["warnings"]:
        console.warn(warning)
    if found["near_duplicates"]:
        console.warn(f"{found['near_duplicate_pairs']} pairs of images look alike across groups, for example")
        for pair in found["near_duplicates"][:5]:
            console.stderr.print(f"  {pair['path']} and {pair['other']} ({pair['bits']} of 256 bits)", markup=False)
    for problem in found["problems"]:
        console.stderr.print("problem: ", style="red", end="")
        console.stderr.print(f"{problem['message']}\n  fix: {problem['fix']}", markup=False)


def _only(collected: Collected, rows: list[int]) -> Collected:
    return Collected(
        table=taken(collected.table, rows),
        external=collected.external[rows],
        labels=collected.labels,
        notes=collected.notes,
        warnings=collected.warnings,
        problems=collected.problems,
    )


def _about(collected: Collected, decoded: Decoded, *, refused: int) -> dict[str, Any]:
    table = collected.table
    sizes = np.unique(np.stack([decoded.widths, decoded.heights], axis=1), axis=0)
    by_area = sizes[np.argsort(sizes[:, 0].astype(np.int64) * sizes[:, 1], kind="stable")].tolist()
    return {
        "name": table.name,
        "synthetic": table.synthetic,
        "images": len(table),
        "refused": refused,
        "groups": len(set(table.groups)),
        "classes": dict(sorted(Counter(table.labels).items())),
        "splits": {},
        "modes": dict(Counter(decoded.modes).most_common()),
        "sizes": {
            "different": len(by_area),
            "smallest": "{} x {}".format(*by_area[0]),
            "largest": "{} x {}".format(*by_area[-1]),
        }
        if by_area
        else {},
        "ignored_files": table.ignored,
        "pixel_identical": [],
        "near_duplicate_pairs": 0,
        "near_duplicates": [],
        "notes": collected.notes,
        "warnings": collected.warnings,
    }


def _division(collected: Collected, divided: Divided) -> dict[str, Any]:
    paths, split = collected.table.paths, divided.split.tolist()
    return {
        "groups": len(set(divided.groups)),
        "splits": counts(collected, divided),
        "pixel_identical": [[paths[row] for row in same] for same in divided.identical[:_LISTED]],
        "near_duplicate_pairs": len(divided.near),
        "near_duplicates": [
            {
                "path": paths[pair.first],
                "other": paths[pair.second],
                "bits": pair.distance,
                "splits": [split[pair.first], split[pair.second]],
            }
            for pair in divided.near[:_LISTED]
        ],
        "notes": [*collected.notes, *divided.notes],
    }
