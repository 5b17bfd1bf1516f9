"""The grouped, stratified split: whole patients go to one side, and every side gets its share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medge.errors import DataError

__all__ = ["SIDES", "canonical_sides", "split_groups", "subset_of_groups"]

SIDES = ("train", "validation", "test")
_OTHER_NAMES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}

Counts = NDArray[np.float64]


def split_groups(
    labels: NDArray[np.int64],
    groups: Sequence[str],
    *,
    names: Sequence[str],
    shares: tuple[float, float, float],
    seed: int,
) -> NDArray[np.str_]:
    """The side of each image, str [N], one of SIDES; `labels` index `names`. Equal arguments give equal sides.

    Groups go, the largest first and equal ones in random order, to the side that is relatively least filled with
    their classes, unless they would overfill it. Small groups come last and even out what large ones left. Raises
    DataError where a class has fewer than three groups.
    """
    distinct, member = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(distinct), len(names)))
    np.add.at(counts, (member, labels), 1.0)
    having = (counts > 0).sum(axis=0)
    few = [f"{name} ({n})" for name, n in zip(names, having.tolist(), strict=True) if n < len(SIDES)]
    if few:
        raise DataError(
            f"Too few groups with images of class {', '.join(few)}.",
            fix="Each class needs images of at least three patients, one for each of train, validation and test.",
        )
    target = np.outer(shares, counts.sum(axis=0))
    rng = np.random.default_rng([seed, 10])
    order = rng.permutation(len(distinct))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    side = np.zeros(len(distinct), dtype=np.int64)
    filled = np.zeros_like(target)
    for group in order:
        side[group] = _best_side(counts[group], filled, target, rng)
        filled[side[group]] += counts[group]
    _give_every_side_every_class(counts, side, filled, target, names)
    return np.asarray(SIDES)[side][member]


def _best_side(group: Counts, filled: Counts, target: Counts, rng: np.random.Generator) -> int:
    """The side with the least of its target among those that the group does not overfill, else the least damage."""
    has = group > 0
    fits = (filled[:, has] + group[has] <= target[:, has] + 0.5).all(axis=1)
    if fits.any():
        level = (filled / target)[:, has] @ group[has]
        level[~fits] = np.inf
        return int(rng.choice(np.flatnonzero(level <= level.min() + 1e-12)))
    # Change of the sum of (filled - target)^2 / target, were the group put there.
    damage = (group * (group + 2.0 * (filled - target)) / target)[:, has].sum(axis=1)
    return int(np.argmin(damage))


def _give_every_side_every_class(
    counts: Counts, side: NDArray[np.int64], filled: Counts, target: Counts, names: Sequence[str]
) -> None:
    """Moves single groups until no side lacks a class; rare classes first. Changes `side` and `filled`."""
    for label in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        for lacking in np.flatnonzero(filled[:, label] == 0):
            having = np.flatnonzero(counts[:, label] > 0).tolist()
            movable = [group for group in having if _may_leave(group, counts, side)]
            if not movable:
                raise DataError(
                    f"No split was found that gives every side class {names[label]} without dividing a group.",
                    fix="Join rare classes (data.classes) or add patients who have them.",
                )

            def damage(g: int, lacking: int = int(lacking)) -> float:
                there = counts[g] * (counts[g] + 2 * (filled[lacking] - target[lacking])) / target[lacking]
                here = counts[g] * (counts[g] - 2 * (filled[side[g]] - target[side[g]])) / target[side[g]]
                return float((there + here).sum())

            group = min(movable, key=damage)
            filled[side[group]] -= counts[group]
            filled[lacking] += counts[group]
            side[group] = lacking


def _may_leave(group: int, counts: Counts, side: NDArray[np.int64]) -> bool:
    """Whether its side keeps another group of each class that this group has."""
    others = counts[side == side[group]] > 0
    return bool((others.sum(axis=0)[counts[group] > 0] >= 2).all())


def canonical_sides(values: Sequence[str]) -> NDArray[np.str_]:
    """`val`, `Training` and the like as the names in SIDES. Raises DataError for other values or an empty side."""
    canonical = {value: _OTHER_NAMES.get(value.strip().lower(), value.strip().lower()) for value in set(values)}
    unknown = sorted(value for value, side in canonical.items() if side not in SIDES)
    if unknown:
        raise DataError(
            f"The split column has the values {', '.join(map(repr, unknown))}.", fix=f"Use {', '.join(SIDES)}."
        )
    missing = [side for side in SIDES if side not in canonical.values()]
    if missing:
        raise DataError(
            f"The split column puts no image on {' and '.join(missing)}.",
            fix="Leave split.column out for a split by group, or fill all three sides.",
        )
    return np.asarray([canonical[value] for value in values], dtype=np.str_)


def subset_of_groups(strata: Sequence[str], groups: Sequence[str], *, images: int, seed: int) -> NDArray[np.int64]:
    """Rows of at most `images` images in whole groups, each stratum in its share, ascending; drawn from the seed."""
    names, stratum = np.unique(np.asarray(strata), return_inverse=True)
    room = np.floor(np.bincount(stratum) * (images / len(strata))).astype(np.int64)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    rows_by_group = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    kept = []
    for group in np.random.default_rng([seed, 11]).permutation(len(rows_by_group)):
        rows = rows_by_group[group]
        need = np.bincount(stratum[rows], minlength=len(names))
        if (need <= room).all():
            room -= need
            kept.append(rows)
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)
