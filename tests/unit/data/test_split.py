"""medge.data.split: whole groups on one side, every class everywhere, shares near what was asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medge.data.split import SIDES, canonical_sides, split_groups, subset_of_groups
from medge.errors import DataError

SHARES = (0.7, 0.1, 0.2)

Set = tuple[NDArray[np.int64], list[str], int]


@st.composite
def sets(draw: st.DrawFn) -> Set:
    """Labels, groups and the number of classes: lone images and patients with dozens, some of two classes."""
    classes = draw(st.integers(2, 4))
    labels: list[int] = []
    groups: list[str] = []
    for label in range(classes):
        for k, size in enumerate(draw(st.lists(st.integers(1, 40), min_size=3, max_size=60))):
            mixed = draw(st.booleans()) if size > 1 else False
            labels += [label] * (size - mixed) + [(label + 1) % classes] * mixed
            groups += [f"{label}-{k}"] * size
    return np.asarray(labels), groups, classes


def sides_of(data: Set, seed: int) -> NDArray[np.str_]:
    labels, groups, classes = data
    return split_groups(labels, groups, names=list("abcd"[:classes]), shares=SHARES, seed=seed)


@settings(max_examples=60)
@given(sets(), st.integers(0, 3))
def test_groups_are_whole_classes_everywhere_and_shares_near(data: Set, seed: int) -> None:
    labels, groups, classes = data
    sides = sides_of(data, seed)
    assert len({(g, s) for g, s in zip(groups, sides.tolist(), strict=True)}) == len(set(groups))
    largest = max(np.unique(groups, return_counts=True)[1])
    for side, share in zip(SIDES, SHARES, strict=True):
        for label in range(classes):
            count = int(np.sum((sides == side) & (labels == label)))
            assert count > 0
            # No closer than about the largest group can any split be promised.
            assert abs(count - share * np.sum(labels == label)) <= 1.5 * largest + 2
    assert np.array_equal(sides, sides_of(data, seed))


def test_shares_are_near_with_group_sizes_as_unequal_as_in_chest_x_rays() -> None:
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.zipf(1.8, size=1500), 60)
    groups = np.repeat(np.arange(1500), sizes).astype(str).tolist()
    labels = np.repeat((rng.random(1500) < 0.27).astype(np.int64), sizes)
    sides = split_groups(labels, groups, names=["a", "b"], shares=SHARES, seed=1)
    for label in (0, 1):
        of_class = sides[labels == label]
        assert [round(float(np.mean(of_class == side)), 2) for side in SIDES] == list(SHARES)


def test_large_groups_are_not_all_sent_to_training() -> None:
    groups = [f"large-{k}" for k in range(40) for _ in range(20)] + [f"small-{k}" for k in range(800)]
    labels = np.zeros(len(groups), dtype=np.int64)
    labels[::2] = 1
    sides = split_groups(labels, groups, names=["a", "b"], shares=SHARES, seed=0)
    large = sides[:800:20]
    assert 5 <= np.sum(large == "test") <= 12
    assert 2 <= np.sum(large == "validation") <= 6


def test_another_seed_gives_another_split() -> None:
    groups = [str(k) for k in range(200)]
    labels = np.arange(200) % 2
    first, second = (split_groups(labels, groups, names=["a", "b"], shares=SHARES, seed=s) for s in (0, 1))
    assert not np.array_equal(first, second)
    assert [int(np.sum(first == side)) for side in SIDES] == [140, 20, 40]


def test_the_order_of_images_does_not_matter() -> None:
    groups = [str(k // 3) for k in range(300)]
    labels = np.asarray([k // 3 % 2 for k in range(300)])
    turned = np.random.default_rng(0).permutation(300)
    first = split_groups(labels, groups, names=["a", "b"], shares=SHARES, seed=0)
    second = split_groups(labels[turned], [groups[k] for k in turned], names=["a", "b"], shares=SHARES, seed=0)
    assert np.array_equal(first[turned], second)


def test_a_class_with_too_few_groups_is_refused_by_name() -> None:
    groups = [str(k) for k in range(40)] + ["x", "x", "y"]
    labels = np.asarray([0] * 40 + [1] * 3)
    with pytest.raises(DataError, match=r"common|rare \(2\)") as caught:
        split_groups(labels, groups, names=["common", "rare"], shares=SHARES, seed=0)
    assert "three patients" in caught.value.fix


def test_groups_that_hold_two_classes_still_put_every_class_everywhere() -> None:
    groups = ["a", "a", "b", "b", "c", "c", "d"]
    labels = np.asarray([0, 1, 0, 1, 0, 1, 0])
    sides = split_groups(labels, groups, names=["x", "y"], shares=SHARES, seed=0)
    assert {s for s, label in zip(sides.tolist(), labels, strict=True) if label == 1} == set(SIDES)


def test_classes_entangled_in_too_few_groups_are_refused() -> None:
    """Classes 0 and 1 force groups 3 and 4 onto one side, class 2 forces them apart."""
    held = {"1": (0, 1), "2": (0, 1), "3": (0, 2), "4": (1, 2), "5": (2,)}
    groups = [group for group, classes in held.items() for _ in classes]
    labels = np.asarray([label for classes in held.values() for label in classes])
    with pytest.raises(DataError, match="without dividing a group"):
        split_groups(labels, groups, names=["a", "b", "c"], shares=SHARES, seed=0)


def test_names_of_sides_are_understood_and_others_refused() -> None:
    assert canonical_sides(["Training", "val", "TEST"]).tolist() == list(SIDES)
    with pytest.raises(DataError, match="'fold1', 'fold2'"):
        canonical_sides(["train", "fold2", "fold1"])
    with pytest.raises(DataError, match="no image on validation"):
        canonical_sides(["train", "test"])


@settings(max_examples=40)
@given(sets(), st.integers(1, 200))
def test_a_subset_keeps_groups_whole_and_is_never_larger_than_asked(data: Set, images: int) -> None:
    labels, groups, _ = data
    rows = subset_of_groups([str(label) for label in labels], groups, images=min(images, len(groups)), seed=0)
    kept = {groups[row] for row in rows}
    assert len(rows) <= images
    assert sorted(rows.tolist()) == [row for row, group in enumerate(groups) if group in kept]
