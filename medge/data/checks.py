"""What may be wrong with a data set before anything is trained on it: leaks, duplicates, missing classes.

A check returns problems; whoever calls it decides whether to refuse (the stage) or to show them (inspect).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medge.data.files import listing
from medge.errors import DataError

__all__ = [
    "NEAR_BITS",
    "NearPair",
    "Problem",
    "classes_on_sides",
    "conflicting_labels",
    "identical_images",
    "joined_groups",
    "leaks",
    "near_duplicates",
    "refuse",
]

# Perceptual hashes (256 bits) this close are near duplicates. Among 2,500 chest X-rays 2 pairs of different patients
# are as close, among 2,500 skin lesions none; nine in ten copies are that were saved again, scaled or brightened.
NEAR_BITS = 14
_TILE = 2048  # rows compared at once: two tiles of float32 [2048, 256] and their product


@dataclass(frozen=True)
class Problem:
    """Why a data set is refused, and what to do."""

    message: str
    fix: str


@dataclass(frozen=True)
class NearPair:
    """Rows of two images that look alike; distance is the number of differing bits of their perceptual hashes."""

    first: int
    second: int
    distance: int


def refuse(problems: Sequence[Problem]) -> None:
    """Raises one DataError that lists all problems; does nothing where there are none."""
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(problems[0].message, fix=problems[0].fix)
    listed = "\n".join(f"{k}. {problem.message}\n   {problem.fix}" for k, problem in enumerate(problems, start=1))
    raise DataError(f"The data has {len(problems)} problems:\n{listed}", fix="Mend them all.")


def identical_images(sha256s: Sequence[str]) -> list[list[int]]:
    """Rows of pixel-identical images, by twos or more."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(sha256s):
        rows[digest].append(row)
    return [same for same in rows.values() if len(same) > 1]


def joined_groups(groups: Sequence[str], identical: Sequence[Sequence[int]]) -> list[str]:
    """The groups, those that share a pixel-identical image made one (union-find), named after the first by name."""
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while (above := parent.get(group, group)) != group:
            parent[group] = parent.get(above, above)
            group = above
        return group

    for same in identical:
        for row in same[1:]:
            first, second = sorted((root(groups[same[0]]), root(groups[row])))
            if first != second:
                parent[second] = first
    return [root(group) for group in groups]


def conflicting_labels(
    paths: Sequence[str], labels: Sequence[str], identical: Sequence[Sequence[int]]
) -> list[Problem]:
    """Pixel-identical images that carry different labels: one of them is wrong."""
    found = [same for same in identical if len({labels[row] for row in same}) > 1]
    lines = [", ".join(f"{paths[row]} ({labels[row]})" for row in same) for same in found]
    if not found:
        return []
    message = f"Pixel-identical images have different labels, {len(found)} times:\n{listing(lines)}"
    return [Problem(message, "Find out which label is right and remove the other file.")]


def leaks(
    paths: Sequence[str], groups: Sequence[str], split: NDArray[np.str_], identical: Sequence[Sequence[int]]
) -> list[Problem]:
    """Groups, or pixel-identical images, that lie on more than one side."""
    sides: dict[str, set[str]] = defaultdict(set)
    for group, side in zip(groups, split.tolist(), strict=True):
        sides[group].add(side)
    problems = []
    shared = [f"{group} ({', '.join(sorted(on))})" for group, on in sorted(sides.items()) if len(on) > 1]
    if shared:
        message = f"{len(shared)} groups are on more than one side of the split:\n{listing(shared)}"
        problems.append(Problem(message, "Leave split.column out for a split by group, or mend that column."))
    same = [rows for rows in identical if len({str(split[row]) for row in rows}) > 1]
    if same:
        lines = [", ".join(f"{paths[row]} ({split[row]})" for row in rows) for rows in same]
        message = f"{len(same)} pixel-identical images are on more than one side of the split:\n{listing(lines)}"
        problems.append(Problem(message, "Leave split.column out for a split by group, or remove the copies."))
    return problems


def classes_on_sides(labels: Sequence[str], split: NDArray[np.str_]) -> list[Problem]:
    """Classes that are missing on a side: what is not in training cannot be learned, nor judged where not in test."""
    column = np.asarray(labels, dtype=np.str_)
    problems = []
    for name in np.unique(column[split != "external"]).tolist():
        missing = [s for s in ("train", "validation", "test") if not np.any((column == name) & (split == s))]
        if missing:
            message = f"Class {name} has no image on {' and '.join(missing)}."
            problems.append(Problem(message, "Leave split.column out for a split by group, or mend that column."))
    return problems


def near_duplicates(
    hashes: NDArray[np.uint8], groups: Sequence[str], *, bits: int = NEAR_BITS, limit: int = 10_000
) -> list[NearPair]:
    """Pairs of rows of different groups whose hashes differ in at most `bits` bits, at most `limit` pairs.

    All pairs are compared: the product of rows of +1 and -1 is HASH_BITS - 2 x distance. Memory: a few tiles.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    total = hashes.shape[1] * 8
    pairs: list[NearPair] = []
    for top in range(0, len(hashes), _TILE):
        upper = _signs(hashes, top)
        for left in range(top, len(hashes), _TILE):
            lower = upper if left == top else _signs(hashes, left)
            products = upper @ lower.T
            if products.max() < total - 2 * bits:
                continue
            found = np.argwhere(products >= total - 2 * bits) + np.array([top, left])
            found = found[(found[:, 0] < found[:, 1]) & (member[found[:, 0]] != member[found[:, 1]])]
            for first, second in found[: limit - len(pairs)].tolist():
                distance = int(total - products[first - top, second - left]) // 2
                pairs.append(NearPair(first, second, distance))
            if len(pairs) >= limit:
                return pairs
    return pairs


def _signs(hashes: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """Bits of a tile of rows as +1 and -1."""
    return np.unpackbits(hashes[start : start + _TILE], axis=1).astype(np.float32) * 2 - 1
