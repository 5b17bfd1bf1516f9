"""From a recipe's data section to rows with classes, groups and sides: what the stage writes and inspect shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medge import plugins
from medge.data import checks, labels
from medge.data.checks import NearPair, Problem
from medge.data.dataset import COLUMNS
from medge.data.decode import Decoded
from medge.data.files import listing
from medge.data.split import canonical_sides, split_groups, subset_of_groups
from medge.data.table import SourceTable, interned, taken
from medge.errors import DataError
from medge.sections import DataSection

__all__ = ["Collected", "Divided", "collect", "divide", "refusals"]

EXTERNAL = "external"


@dataclass(frozen=True)
class Collected:
    """What the source gave, less what the recipe leaves out, the external set's rows behind it."""

    table: SourceTable
    external: NDArray[np.bool_]  # [N]
    labels: tuple[str, ...]
    notes: list[str]
    warnings: list[str]
    problems: list[Problem]


@dataclass(frozen=True)
class Divided:
    """Groups (joined where they share an image) and sides of the rows, and what is wrong with them."""

    groups: list[str]
    split: NDArray[np.str_]
    identical: list[list[int]]
    near: list[NearPair]
    notes: list[str]
    problems: list[Problem]


def collect(section: DataSection, *, seed: int, work: Path) -> Collected:
    """The rows to be decoded. Raises DataError where the source has none, MissingError where a package is missing."""
    table = plugins.load("data.sources", section.source).rows(section, seed=seed, work=work)
    names, notes, warnings, problems = labels.ordered(
        sorted(set(table.labels)), classes=section.classes, positive=section.positive
    )
    notes, warnings = [*table.notes, *notes], [*table.warnings, *warnings]
    reserved = [name for name in table.subgroups if name in COLUMNS or name.startswith("logit_")]
    if reserved:
        problems.append(Problem(f"The subgroup column {reserved[0]!r} has a reserved name.", "Rename that column."))
    wanted = [row for row, label in enumerate(table.labels) if label in names]
    if len(wanted) < len(table):
        notes.append(f"{len(table) - len(wanted)} images of other classes are left out, as data.classes says.")
        table = taken(table, wanted)
    if section.max_images is not None and section.max_images < len(table):
        strata = (
            table.labels if table.splits is None else list(map("/".join, zip(table.labels, table.splits, strict=True)))
        )
        kept = subset_of_groups(strata, table.groups, images=section.max_images, seed=seed)
        notes.append(f"{len(kept)} of {len(table)} images are used, as data.max_images says.")
        table = taken(table, kept.tolist())
    external = np.zeros(len(table), dtype=bool)
    if section.external is not None and not problems:
        other = _external_table(section, names, seed=seed, work=work)
        notes += [f"external: {note}" for note in other.notes]
        warnings += [f"external: {warning}" for warning in other.warnings]
        external = np.concatenate([external, np.ones(len(other), dtype=bool)])
        table = _joined(table, other)
    return Collected(table, external, names, notes, warnings, problems)


def refusals(table: SourceTable, decoded: Decoded) -> list[Problem]:
    """The images that the decoder refused, all of them."""
    if not decoded.refused:
        return []
    message = (
        f"{len(decoded.refused)} of {len(table)} images cannot be used:\n{listing(list(decoded.refused.values()))}"
    )
    return [Problem(message, "Mend or remove these files.")]


def divide(collected: Collected, decoded: Decoded, section: DataSection, *, seed: int) -> Divided:
    """Joins groups over pixel-identical images, splits, and checks what came out."""
    table, external = collected.table, collected.external
    identical = checks.identical_images(decoded.sha256s)
    # A shipped split is taken as it is: joining groups first would blame the group where a copy is the leak.
    groups = list(table.groups) if section.split.column else checks.joined_groups(table.groups, identical)
    notes = []
    if identical:
        copies = sum(len(same) - 1 for same in identical)
        joined = len(set(table.groups)) - len(set(groups))
        notes.append(f"{copies} images are pixel-identical to another; {joined} groups were joined over such images.")
    problems = checks.conflicting_labels(table.paths, table.labels, identical)
    try:
        split = _sides(collected, groups, section, seed=seed)
    except DataError as error:
        split = np.where(external, EXTERNAL, "train")
        problems.append(Problem(error.message, error.fix))
    else:
        problems += checks.leaks(table.paths, groups, split, identical)
        problems += checks.classes_on_sides(table.labels, split)
    if section.split.column:
        groups = checks.joined_groups(groups, identical)
    near = checks.near_duplicates(decoded.hashes, groups)
    return Divided(groups, split, identical, near, notes, problems)


def _sides(collected: Collected, groups: Sequence[str], section: DataSection, *, seed: int) -> NDArray[np.str_]:
    """The side of each row: as shipped where the recipe asks for it, else drawn by group."""
    table, external = collected.table, collected.external
    split = np.full(len(table), EXTERNAL, dtype="<U10")
    inside = np.flatnonzero(~external).tolist()
    if section.split.column:
        if table.splits is None:
            raise DataError(
                f"The source {section.source} ships no split, but split.column is {section.split.column!r}.",
                fix="Leave split.column out for a split by group.",
            )
        split[inside] = canonical_sides([table.splits[row] for row in inside])
        return split
    index = {name: k for k, name in enumerate(collected.labels)}
    label = np.asarray([index[table.labels[row]] for row in inside], dtype=np.int64)
    own = [groups[row] for row in inside]
    if len(set(own)) == 1:
        raise DataError("All images belong to one group.", fix="columns.group must name patients or lesions.")
    shares = (section.split.train, section.split.validation, section.split.test)
    split[inside] = split_groups(label, own, names=collected.labels, shares=shares, seed=seed)
    return split


def _external_table(section: DataSection, names: Sequence[str], *, seed: int, work: Path) -> SourceTable:
    """The external set; its paths and groups are marked so that they meet none of the data's own."""
    table: SourceTable = plugins.load("data.sources", section.external.source).rows(  # type: ignore[union-attr]
        section.external, seed=seed, work=work
    )
    odd = sorted(set(table.labels) - set(names))
    if odd:
        raise DataError(
            f"data.external has the classes {', '.join(odd)}, which the data has not.",
            fix=f"Name its classes as the data's: {', '.join(names)}.",
        )
    return dataclasses.replace(
        table,
        paths=[f"{EXTERNAL}/{path}" for path in table.paths],
        groups=interned(f"{EXTERNAL}/{group}" for group in table.groups),
    )


def _joined(table: SourceTable, other: SourceTable) -> SourceTable:
    """Both tables' rows; a subgroup that one of them does not know is empty there."""
    count = len(table)
    columns: dict[str, Sequence[str]] = {
        name: [*table.subgroups.get(name, [""] * count), *other.subgroups.get(name, [""] * len(other))]
        for name in [*table.subgroups, *(n for n in other.subgroups if n not in table.subgroups)]
    }
    return dataclasses.replace(
        table,
        paths=[*table.paths, *other.paths],
        labels=[*table.labels, *other.labels],
        groups=[*table.groups, *other.groups],
        subgroups=columns,
        splits=None if table.splits is None else [*table.splits, *[EXTERNAL] * len(other)],
        fetch=lambda row: table.fetch(row) if row < count else other.fetch(row - count),
        synthetic=table.synthetic or other.synthetic,
        ignored={k: table.ignored.get(k, 0) + other.ignored.get(k, 0) for k in {**table.ignored, **other.ignored}},
        identity=f"{table.identity} {other.identity}",
    )
