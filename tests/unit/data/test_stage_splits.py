"""Splits by group, shipped splits, copies and external sets: what leaks is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medge.data import dataset
from medge.errors import DataError
from medge.runtime.preprocess import prepare
from medge.sections import DataSection
from medge.stages import data as stage

from .conftest import write_image, write_manifest


def section(**keys: Any) -> DataSection:
    return DataSection.model_validate({"size": 32, **keys})


def run(work: Path, seed: int = 0, **keys: Any) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    return stage.run(section(**keys), {}, work, seed)


def csv_set(root: Path, *, groups: int = 12, split: bool = False) -> list[list[str]]:
    """24 images, two a group, classes alternating by group; optionally a good split column."""
    rows = []
    for k in range(groups * 2):
        write_image(root / f"{k}.png", k)
        side = ("train", "val", "test")[k // 4 % 3]
        rows.append([f"{k}.png", "ab"[k // 2 % 2], f"g{k // 2}", *([side] if split else [])])
    return rows


KEYS: dict[str, Any] = {"source": "csv", "columns": {"group": "group"}}
HEADER = ["path", "label", "group"]


def test_one_group_for_all_images_is_refused(tmp_path: Path) -> None:
    rows = [[path, label, "hospital"] for path, label, _ in csv_set(tmp_path)]
    write_manifest(tmp_path / "manifest.csv", HEADER, rows)
    with pytest.raises(DataError, match="one group"):
        run(tmp_path / "out", path=str(tmp_path), **KEYS)


def test_copies_of_an_image_never_leak_through_a_drawn_split(tmp_path: Path) -> None:
    rows = csv_set(tmp_path)
    for k in range(0, 24, 4):  # a copy of an image of each second group, in another file of another group
        Image.open(tmp_path / f"{k}.png").save(tmp_path / f"copy{k}.bmp")
        rows.append([f"copy{k}.bmp", "a", f"copier{k}"])
    write_manifest(tmp_path / "manifest.csv", HEADER, rows)
    values = run(tmp_path / "out", path=str(tmp_path), **KEYS)
    data = dataset.load(tmp_path / "out")
    assert values["pixel_identical"] == 6
    assert len(set(zip(data.sha256s, data.split.tolist(), strict=True))) == len(set(data.sha256s)) == 24
    assert len(set(data.groups)) == 12


def test_a_shipped_split_is_honoured_when_asked_for(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.csv", [*HEADER, "fold"], csv_set(tmp_path, split=True))
    run(tmp_path / "out", path=str(tmp_path), split={"column": "fold"}, **KEYS)
    data = dataset.load(tmp_path / "out")
    assert Counter(data.split.tolist()) == {"train": 8, "validation": 8, "test": 8}


def test_a_shipped_split_that_leaks_is_refused_with_the_list(tmp_path: Path) -> None:
    rows = csv_set(tmp_path, split=True)
    rows[1][3] = "test"  # image 1 of group g0, whose image 0 is in train
    Image.open(tmp_path / "2.png").save(tmp_path / "copy.bmp")
    rows.append(["copy.bmp", "b", "another", "test"])
    write_manifest(tmp_path / "manifest.csv", [*HEADER, "fold"], rows)
    with pytest.raises(DataError) as caught:
        run(tmp_path / "out", path=str(tmp_path), split={"column": "fold"}, **KEYS)
    assert "g0 (test, train)" in caught.value.message
    assert "2.png (train), copy.bmp (test)" in caught.value.message


def test_a_class_on_one_side_only_is_refused(tmp_path: Path) -> None:
    rows = [[p, label if side == "train" else "a", g, side] for p, label, g, side in csv_set(tmp_path, split=True)]
    write_manifest(tmp_path / "manifest.csv", [*HEADER, "fold"], rows)
    with pytest.raises(DataError, match="Class b has no image on validation and test"):
        run(tmp_path / "out", path=str(tmp_path), split={"column": "fold"}, **KEYS)


def test_one_image_with_two_labels_is_refused(tmp_path: Path) -> None:
    rows = csv_set(tmp_path)
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    write_manifest(tmp_path / "manifest.csv", HEADER, [*rows, ["copy.png", "b", "x"]])
    with pytest.raises(DataError, match="different labels"):
        run(tmp_path / "out", path=str(tmp_path), **KEYS)


def test_near_duplicates_are_listed_in_a_file(tmp_path: Path) -> None:
    rows = csv_set(tmp_path)
    Image.open(tmp_path / "0.png").save(tmp_path / "again.jpg", quality=80)
    write_manifest(tmp_path / "manifest.csv", HEADER, [*rows, ["again.jpg", "a", "x"]])
    values = run(tmp_path / "out", path=str(tmp_path), **KEYS)
    assert values["near_duplicates"] == 1
    listed = (tmp_path / "out" / "near-duplicates.csv").read_text().splitlines()
    assert listed[1].startswith("0.png,")
    assert ",again.jpg," in listed[1]


def test_an_external_set_is_kept_apart_and_its_classes_must_be_known(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    write_manifest((inside / "manifest.csv"), HEADER, csv_set(inside))
    for k in range(4):
        write_image(outside / "ab"[k % 2] / f"{k}.png", 500 + k)
    run(tmp_path / "out", path=str(inside), external={"path": str(outside)}, **KEYS)
    data = dataset.load(tmp_path / "out")
    rows = data.indices("external")
    assert [data.paths[row] for row in rows] == [
        "external/a/0.png",
        "external/a/2.png",
        "external/b/1.png",
        "external/b/3.png",
    ]
    assert np.array_equal(data.read(rows[:1])[0], prepare(outside / "a" / "0.png", data.preprocess))
    shutil.copy(inside / "0.png", outside / "a" / "leak.png")
    with pytest.raises(DataError, match=r"0\.png .*external/a/leak\.png \(external\)"):
        run(tmp_path / "leak", path=str(inside), external={"path": str(outside)}, **KEYS)
    write_image(outside / "c" / "9.png", 9)
    with pytest.raises(DataError, match="classes c"):
        run(tmp_path / "odd", path=str(inside), external={"path": str(outside)}, **KEYS)
