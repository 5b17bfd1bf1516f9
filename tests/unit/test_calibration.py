"""The calibration list: drawn from training images only, in each class's share, written and read back."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medge import calibration
from medge.data.dataset import DataSet
from medge.errors import DataError
from medge.records import Preprocess


def _data(counts: tuple[int, ...] = (60, 30, 10), *, other: int = 5, name: str = "chest xray/1") -> DataSet:
    """`counts` training images a class, then `other` a class of validation and of test images."""
    label, split = [], []
    for k, count in enumerate(counts):
        label += [k] * (count + 2 * other)
        split += ["train"] * count + ["validation"] * other + ["test"] * other
    return DataSet(
        folder=Path(),
        name=name,
        labels=tuple(f"class {k}" for k in range(len(counts))),
        preprocess=Preprocess(32, 32),
        synthetic=False,
        sha256="",
        paths=tuple(f"{k}.png" for k in range(len(label))),
        groups=tuple(map(str, range(len(label)))),
        sha256s=tuple(f"{k:064x}" for k in range(len(label))),
        label=np.asarray(label),
        split=np.asarray(split),
        subgroups={},
    )


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=4).map(tuple),
    images=st.integers(1, 200),
    seed=st.integers(0, 2**31),
)
def test_a_list_is_of_training_images_each_once_and_in_its_class_share(
    counts: tuple[int, ...], images: int, seed: int
) -> None:
    data = _data(counts)
    rows = calibration.draw(data, images=images, seed=seed)
    wanted = min(images, sum(counts))
    assert len(rows) == len(set(rows.tolist())) == wanted
    assert set(data.split[rows]) == {"train"}
    drawn = np.bincount(data.label[rows], minlength=len(counts))
    assert np.all(np.abs(drawn - np.asarray(counts) * wanted / sum(counts)) < 1)


def test_the_seed_decides_what_is_drawn() -> None:
    data = _data()
    one, again, other = (calibration.draw(data, images=20, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == again != other


def test_a_list_is_written_once_and_then_read_back(tmp_path: Path) -> None:
    data = _data()
    first = calibration.read_or_draw(data, images=20, seed=3)
    assert first.path == Path("calibration/chest-xray-1-3.csv")
    with open(first.path, newline="") as stream:
        rows = list(csv.reader(stream))
    k = int(first.indices[0])
    assert rows[:2] == [["path", "label", "sha256"], [f"{k}.png", data.labels[data.label[k]], f"{k:064x}"]]
    second = calibration.read_or_draw(data, images=99, seed=3)
    assert second.sha256 == first.sha256
    assert second.indices.tolist() == first.indices.tolist()


@pytest.mark.parametrize(("images", "is_said"), [(20, False), (99, True), (5, True)])
def test_a_list_of_another_length_than_asked_for_counts_and_that_is_said(
    images: int, is_said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration.read_or_draw(_data(), images=20, seed=3)
    found = calibration.read_or_draw(_data(), images=images, seed=3)
    calibration.warn_of_length(found, _data(), images=images)
    assert len(found.indices) == 20
    said = " ".join(capsys.readouterr().err.split())
    assert (f"lists 20 calibration images, and compress.calibration.images asks for {images}" in said) == is_said


def test_a_split_with_fewer_images_than_asked_for_gives_all_and_says_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [calibration.read_or_draw(_data(), images=1000, seed=3) for _ in range(2)]
    calibration.warn_of_length(found[1], _data(), images=1000)
    assert [len(one.indices) for one in found] == [100, 100]
    assert capsys.readouterr().err == ""


def _edited(data: DataSet, line: str) -> Path:
    path = calibration.read_or_draw(data, images=5, seed=0).path
    path.write_text(path.read_text() + line)
    return path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"62.png,class 0,{62:064x}\n", "62.png is a validation image"),
        (f"67.png,class 0,{67:064x}\n", "67.png is a test image"),
        (f"gone.png,class 0,{0:064x}\n", "gone.png is not in the data set"),
        (f"0.png,class 0,{1:064x}\n", "0.png has other pixels"),
        (f"0.png,class 1,{0:064x}\n", "0.png is labelled class 0, not class 1"),
        ("0.png,class 0\n", "2 columns"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_with_what_is_wrong_and_the_fix(line: str, words: str) -> None:
    data = _data()
    path = _edited(data, line)
    with pytest.raises(DataError) as caught:
        calibration.read_or_draw(data, images=5, seed=0)
    assert words in caught.value.message
    assert "line 7" in caught.value.message
    assert f"Delete {path}" in caught.value.fix


def test_an_image_named_twice_is_refused() -> None:
    data = _data()
    path = calibration.read_or_draw(data, images=5, seed=0).path
    _edited(data, path.read_text().splitlines()[1] + "\n")
    with pytest.raises(DataError, match="named twice"):
        calibration.read_or_draw(data, images=5, seed=0)


@pytest.mark.parametrize("text", ["", "path,label,sha256\n", "file,label\n1.png,a\n"])
def test_a_file_that_is_no_list_is_refused(text: str) -> None:
    path = calibration.read_or_draw(_data(), images=5, seed=0).path
    path.write_text(text)
    with pytest.raises(DataError, match="is not a calibration list"):
        calibration.read_or_draw(_data(), images=5, seed=0)


def test_many_mistakes_are_counted_and_not_all_printed() -> None:
    data = _data()
    calibration.read_or_draw(data, images=40, seed=0)
    with pytest.raises(DataError, match="and 30 more"):
        calibration.read_or_draw(dataclasses.replace(data, sha256s=("f" * 64,) * len(data)), images=40, seed=0)


def test_a_data_set_without_training_images_is_refused() -> None:
    data = dataclasses.replace(_data(), split=np.asarray(["test"] * len(_data())))
    with pytest.raises(DataError, match="no training images"):
        calibration.draw(data, images=5, seed=0)
