"""medge.data.checks and labels: leaks, duplicates and classes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medge.data import checks, labels
from medge.data.checks import Problem
from medge.data.decode import perceptual_hash
from medge.errors import DataError


def test_groups_that_share_an_image_become_one_also_through_others() -> None:
    groups = ["c", "b", "b", "a", "d"]
    shas = ["1", "1", "2", "2", "3"]
    identical = checks.identical_images(shas)
    assert identical == [[0, 1], [2, 3]]
    assert checks.joined_groups(groups, identical) == ["a", "a", "a", "a", "d"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60))
def test_joined_groups_leave_no_image_and_no_group_in_two(rows: list[tuple[int, int]]) -> None:
    groups, shas = [str(g) for g, _ in rows], [str(s) for _, s in rows]
    joined = checks.joined_groups(groups, checks.identical_images(shas))
    assert len(set(zip(shas, joined, strict=True))) == len(set(shas))
    assert len(set(zip(groups, joined, strict=True))) == len(set(groups))


def test_a_group_or_a_copy_on_two_sides_is_listed() -> None:
    split = np.asarray(["train", "test", "train", "test"])
    found = checks.leaks(["a", "b", "c", "d"], ["p", "p", "q", "r"], split, [[2, 3]])
    assert ["p (test, train)" in found[0].message, "c (train), d (test)" in found[1].message] == [True, True]
    assert checks.leaks(["a", "b"], ["p", "q"], split[:2], []) == []


def test_one_image_with_two_labels_is_listed() -> None:
    found = checks.conflicting_labels(["a", "b", "c"], ["sick", "well", "well"], [[0, 1]])
    assert "a (sick), b (well)" in found[0].message


def test_a_class_that_a_side_lacks_is_listed() -> None:
    split = np.asarray(["train", "validation", "test", "train", "external"])
    found = checks.classes_on_sides(["a", "a", "a", "b", "b"], split)
    assert [p.message for p in found] == ["Class b has no image on validation and test."]


def picture(seed: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((96, 96), Image.Resampling.BICUBIC))


def test_copies_saved_again_or_brightened_are_near_and_others_are_not() -> None:
    stream = io.BytesIO()
    Image.fromarray(picture(0)).save(stream, "JPEG", quality=60)
    again = np.asarray(Image.open(stream))
    brighter = np.clip(picture(0) * 1.1 + 5, 0, 255).astype(np.uint8)
    hashes = np.stack([perceptual_hash(p) for p in (picture(0), again, brighter, *map(picture, range(1, 40)))])
    found = checks.near_duplicates(hashes, [str(k) for k in range(len(hashes))])
    assert {(p.first, p.second) for p in found} == {(0, 1), (0, 2), (1, 2)}
    assert checks.near_duplicates(hashes, ["same"] * 3 + [str(k) for k in range(39)]) == []


def test_near_duplicates_are_found_across_tiles_with_the_right_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_TILE", 16)
    hashes = np.random.default_rng(0).integers(0, 256, (50, 32), dtype=np.uint8)
    hashes[45] = hashes[3]
    hashes[45, 7] ^= 0b101
    hashes[20] = hashes[19]
    found = checks.near_duplicates(hashes, [str(k) for k in range(50)])
    assert {(p.first, p.second, p.distance) for p in found} == {(3, 45, 2), (19, 20, 0)}
    assert len(checks.near_duplicates(np.zeros((100, 32), np.uint8), list(map(str, range(100))), limit=7)) == 7


def test_problems_are_refused_together() -> None:
    checks.refuse([])
    with pytest.raises(DataError) as caught:
        checks.refuse([Problem("one", "mend one"), Problem("two", "mend two")])
    assert all(part in caught.value.message for part in ("2 problems", "one", "mend one", "two", "mend two"))


@pytest.mark.parametrize(
    ("found", "classes", "positive", "order", "told"),
    [
        (["NORMAL", "PNEUMONIA"], None, None, ("NORMAL", "PNEUMONIA"), "note"),
        (["malignant", "nevus"], None, None, ("nevus", "malignant"), "note"),
        (["abnormal", "normal"], None, None, ("normal", "abnormal"), "note"),
        (["cat", "dog"], None, None, ("cat", "dog"), "warning"),
        (["cat", "dog"], None, "cat", ("dog", "cat"), ""),
        (["cat", "dog", "emu"], ["emu", "cat"], None, ("emu", "cat"), ""),
        (["c", "a", "b"], None, None, ("a", "b", "c"), ""),
        (["c", "a", "b"], ["c", "b", "a"], None, ("c", "b", "a"), ""),
    ],
)
def test_the_positive_class_is_index_one(
    found: list[str], classes: list[str] | None, positive: str | None, order: tuple[str, ...], told: str
) -> None:
    names, notes, warnings, problems = labels.ordered(found, classes=classes, positive=positive)
    assert (names, problems) == (order, [])
    assert ("note" if notes else "warning" if warnings else "") == told


@pytest.mark.parametrize(
    ("found", "classes", "positive", "told"),
    [
        (["a"], None, None, "only the class a"),
        ([], None, None, "no class"),
        (["sick", "well"], None, "sik", "data.positive is 'sik'"),
        (["a", "b", "c"], None, "a", "data.positive"),
        (["a", "b"], ["a", "z"], None, "no images of class 'z'"),
        (["a", "b"], ["a", "a"], None, "twice"),
    ],
)
def test_classes_that_make_no_sense_are_problems(
    found: list[str], classes: list[str] | None, positive: str | None, told: str
) -> None:
    problems = labels.ordered(found, classes=classes, positive=positive)[3]
    assert told in problems[0].message
    assert problems[0].fix
