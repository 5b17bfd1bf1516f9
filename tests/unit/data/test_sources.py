"""The sources: what they find, what they tell of it, what they refuse."""

from __future__ import annotations

import builtins
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge.data.sources import csv as csv_source
from medge.data.sources import folder as folder_source
from medge.data.sources import medmnist as medmnist_source
from medge.data.sources import phantom
from medge.errors import DataError, MissingError
from medge.sections import DataSection

from .conftest import Folder, write_image, write_manifest


def section(**keys: Any) -> DataSection:
    return DataSection.model_validate(keys)


def test_class_folders_give_labels_patients_and_what_was_ignored(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders()
    (root / "manifest.csv").write_text("x")
    (root / "NORMAL" / ".DS_Store").write_bytes(b"x")
    (root / "NORMAL" / "Thumbs.db").write_bytes(b"x")
    (root / "__MACOSX" / "NORMAL").mkdir(parents=True)
    (root / "__MACOSX" / "NORMAL" / "person1_virus_1.png").write_bytes(b"x")
    table = folder_source.rows(section(path=str(root)), seed=0, work=tmp_path)
    assert table.name == "Röntgen-Bilder"
    assert Counter(table.labels) == {"NORMAL": 20, "PNEUMONIA": 20}
    assert len(set(table.groups)) == 20
    assert table.ignored == {".csv": 1, "hidden and system files": 2}
    assert table.splits is None
    assert table.warnings == ()
    assert table.fetch(0) == root / table.paths[0]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("person12_bacteria_47.jpeg", "person12"),
        ("person1_virus_6.jpeg", "person1"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0011-0001-0002.jpeg", "IM-0011"),
        ("NORMAL2-IM-0927-0001.jpeg", "NORMAL2-IM-0927"),
        ("BACTERIA-7422-0001.jpeg", "BACTERIA-7422"),
        ("ISIC_0027419.jpg", None),
        ("person.jpeg", None),
        ("holiday-person1_virus_1.jpeg", None),
    ],
)
def test_chest_x_ray_names_tell_the_patient(name: str, group: str | None) -> None:
    assert folder_source.group_of(f"test/NORMAL/{name}") == group


def test_unknown_patients_are_groups_of_their_own_with_a_warning(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders()
    write_image(root / "NORMAL" / "scan.png", 77)
    table = folder_source.rows(section(path=str(root)), seed=0, work=tmp_path)
    assert "1 of 41 images" in table.warnings[0]
    assert "NORMAL/scan.png" in table.groups


def test_kaggle_folders_are_joined_and_their_split_kept_aside(tmp_path: Path) -> None:
    for k, side in enumerate(("train", "val", "test")):
        for c, label in enumerate(("NORMAL", "PNEUMONIA")):
            write_image(tmp_path / "data" / side / label / f"person{k}{c}_virus_1.png", 10 * k + c)
    table = folder_source.rows(section(path=str(tmp_path / "data")), seed=0, work=tmp_path)
    assert Counter(table.labels) == {"NORMAL": 3, "PNEUMONIA": 3}
    assert Counter(table.splits or ()) == {"train": 2, "val": 2, "test": 2}
    (tmp_path / "data" / "NORMAL").mkdir()
    write_image(tmp_path / "data" / "NORMAL" / "a.png", 1)
    with pytest.raises(DataError, match="beside others"):
        folder_source.rows(section(path=str(tmp_path / "data")), seed=0, work=tmp_path)


def test_folders_that_cannot_be_used_are_refused_with_the_reason(class_folders: Folder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path is not set"):
        folder_source.rows(section(), seed=0, work=tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        folder_source.rows(section(path=str(tmp_path / "nowhere")), seed=0, work=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        folder_source.rows(section(path=str(tmp_path / "empty")), seed=0, work=tmp_path)
    root = class_folders()
    write_image(root / "stray one.png", 1)
    write_image(root / "stray two.png", 2)
    with pytest.raises(DataError, match=r"2 files(.|\n)*stray one\.png\n  - stray two\.png"):
        folder_source.rows(section(path=str(root)), seed=0, work=tmp_path)


def manifest_of(root: Path, header: str, *rows: str) -> None:
    write_manifest(root / "manifest.csv", header.split(","), [row.split(",") for row in rows])


COLUMNS = {"path": "file", "label": "diagnosis", "group": "patient", "subgroups": ["sex"]}


def test_a_manifest_gives_the_columns_that_the_recipe_names(tmp_path: Path) -> None:
    for k in range(2):
        write_image(tmp_path / "a b" / f"{k}.png", k)
    manifest_of(tmp_path, "sex,file,diagnosis,patient,age", "f,a b\\0.png,sick,p1,3", "m,a b/1.png,well,p2,4")
    table = csv_source.rows(section(source="csv", path=str(tmp_path), columns=COLUMNS), seed=0, work=tmp_path)
    assert list(table.paths) == ["a b/0.png", "a b/1.png"]
    assert list(table.labels) == ["sick", "well"]
    assert list(table.groups) == ["p1", "p2"]
    assert {k: list(v) for k, v in table.subgroups.items()} == {"sex": ["f", "m"]}
    files = list(csv_source.files(section(source="csv", path=str(tmp_path), columns=COLUMNS)))
    assert files == [tmp_path / "manifest.csv", tmp_path / "a b/0.png", tmp_path / "a b/1.png"]


def test_a_manifest_written_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", 0)
    (tmp_path / "manifest.csv").write_bytes("\ufefffile,diagnosis\r\n0.png , sick\r\n\r\n".encode())
    keys = {"path": "file", "label": "diagnosis"}
    table = csv_source.rows(section(source="csv", path=str(tmp_path), columns=keys), seed=0, work=tmp_path)
    assert list(table.labels) == ["sick"]
    assert "columns.group is not set" in table.warnings[0]


def test_all_mistakes_of_a_manifest_are_told_at_once(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", 0)
    rows = ["f,0.png,sick,p1", "m,0.png,,p2", "m,gone.png,sick,p2", "m,also gone.png,sick,"]
    manifest_of(tmp_path, "sex,file,diagnosis,patient", *rows)
    with pytest.raises(DataError) as caught:
        csv_source.rows(section(source="csv", path=str(tmp_path), columns=COLUMNS), seed=0, work=tmp_path)
    message = caught.value.message
    for part in (
        "5 mistakes",
        "'diagnosis' is empty in 1",
        "'patient' is empty in 1",
        "0.png is listed 2",
        "also gone.png",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no column"),
        (b"file,diagnosis,pateint,sex\n", "no column 'patient'"),
        (b"file,diagnosis,patient,sex\n", "lists no images"),
        (b"file,diagnosis,patient,sex\na,b\n\na,b,c\n", "lines 2, 4"),
        (b"file,diagnosis,patient,sex\n\xff\xfe,b,c,d\n", "Cannot read"),
    ],
)
def test_manifests_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        csv_source.rows(section(source="csv", path=str(tmp_path), columns=COLUMNS), seed=0, work=tmp_path)
    if b"pateint" in content:
        assert "Did you mean 'pateint'" in caught.value.fix


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no manifest"):
        csv_source.rows(section(source="csv", path=str(tmp_path), manifest="x.csv"), seed=0, work=tmp_path)


def test_phantoms_are_the_same_bytes_for_the_same_seed() -> None:
    digest = hashlib.sha256()
    for row in range(8):
        digest.update(phantom.draw(5, row // 2, row, positive=row % 4 > 1, difficulty=0.5))
    # Recorded on x86-64; only exactly rounded operations are used, so that it holds on every machine.
    assert digest.hexdigest() == PHANTOMS_SHA256


def test_phantoms_of_a_group_share_a_label_and_are_said_to_be_synthetic(tmp_path: Path) -> None:
    keys = {"images": 41, "images_per_group": 4, "positive_share": 0.25}
    table = phantom.rows(section(source="phantom", phantom=keys), seed=3, work=tmp_path)
    assert table.synthetic
    assert "ynthetic" in table.notes[0]
    assert len(table) == 41
    assert len(set(table.groups)) == 11
    assert len(set(zip(table.groups, table.labels, strict=True))) == 11
    pictures = [np.asarray(table.fetch(row)) for row in range(8)]
    assert {(p.shape, p.dtype.name) for p in pictures} == {((phantom.SIDE, phantom.SIDE), "uint8")}
    same = np.abs(pictures[0].astype(int) - pictures[1]).mean()
    assert same > 1  # another exposure of the same anatomy, not a copy


def test_a_positive_phantom_is_the_normal_one_with_opacities_fainter_where_it_is_difficult() -> None:
    def brighter(row: int, difficulty: float) -> float:
        well, sick = (phantom.draw(1, row, row, positive=p, difficulty=difficulty).astype(int) for p in (False, True))
        assert (sick - well).min() >= 0
        return float((sick - well).mean())

    assert all(0 < brighter(row, 1.0) < brighter(row, 0.0) for row in range(12))


@pytest.fixture
def pneumoniamnist(tmp_path: Path) -> Path:
    """An archive as MedMNIST's, with few images."""
    pytest.importorskip("medmnist")
    rng = np.random.default_rng(0)
    arrays = {}
    for side, n in (("train", 20), ("val", 6), ("test", 8)):
        arrays[f"{side}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{side}_labels"] = (np.arange(n) % 2).reshape(-1, 1).astype(np.uint8)
    np.savez_compressed(tmp_path / "pneumoniamnist.npz", **arrays)
    return tmp_path


def test_medmnist_gives_its_images_one_by_one(pneumoniamnist: Path) -> None:
    keys = section(source="medmnist", medmnist="pneumoniamnist", path=str(pneumoniamnist))
    table = medmnist_source.rows(keys, seed=0, work=pneumoniamnist)
    arrays = np.load(pneumoniamnist / "pneumoniamnist.npz")
    assert Counter(table.splits or ()) == {"train": 20, "val": 6, "test": 8}
    assert set(table.labels) == {"normal", "pneumonia"}
    assert np.array_equal(np.asarray(table.fetch(0)), arrays["train_images"][0])
    assert np.array_equal(np.asarray(table.fetch(20)), arrays["val_images"][0])
    assert np.array_equal(np.asarray(table.fetch(33)), arrays["test_images"][7])
    assert table.warnings


def test_medmnist_refuses_what_it_does_not_have(pneumoniamnist: Path) -> None:
    for name, told in (
        (None, "not set"),
        ("pneumonamnist", "No 2D"),
        ("pneumoniamnist_99", "no size"),
        ("organmnist3d", "No 2D"),
    ):
        with pytest.raises(DataError, match=told):
            medmnist_source.rows(section(source="medmnist", medmnist=name), seed=0, work=pneumoniamnist)
    (pneumoniamnist / "breastmnist.npz").write_bytes(b"PK half")
    keys = section(source="medmnist", medmnist="breastmnist", path=str(pneumoniamnist))
    with pytest.raises(DataError, match="whole MedMNIST"):
        medmnist_source.rows(keys, seed=0, work=pneumoniamnist)


def test_medmnist_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "medmnist":
            raise ImportError("No module named 'medmnist'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingError, match="medmnist") as caught:
        medmnist_source.rows(section(source="medmnist", medmnist="pneumoniamnist"), seed=0, work=tmp_path)
    assert "pip install" in caught.value.fix
    assert caught.value.exit_code == 3


PHANTOMS_SHA256 = "fd3aadd28796dce5016efe86bf061fd14ae019fbef343aa4d9ca52fe373478ab"


@pytest.mark.shared
def test_patients_read_from_names_are_those_of_the_published_manifest(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "chest-xray"
    by_name = folder_source.rows(section(path=str(root)), seed=0, work=tmp_path)
    columns = {"path": "file", "label": "label", "group": "patient_id"}
    listed = csv_source.rows(section(source="csv", path=str(root), columns=columns), seed=0, work=tmp_path)
    assert dict(zip(by_name.paths, by_name.groups, strict=True)) == dict(zip(listed.paths, listed.groups, strict=True))
    assert len(set(by_name.groups)) == 2658
