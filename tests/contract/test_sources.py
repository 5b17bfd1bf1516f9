"""What every source must do, whoever wrote it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medge import plugins
from medge.data.table import SourceTable
from medge.sections import DataSection

Make = Callable[[Path], DataSection]


def _images(root: Path) -> None:
    for k in range(8):
        path = root / "images" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)


def _folder(root: Path) -> DataSection:
    _images(root)
    return DataSection(path=str(root / "images"))


def _csv(root: Path) -> DataSection:
    _images(root)
    lines = [f"{'ab'[k % 2]}/{k}.png,{'ab'[k % 2]}" for k in range(8)]
    (root / "images" / "manifest.csv").write_text("\n".join(["path,label", *lines]))
    return DataSection(source="csv", path=str(root / "images"))


def _phantom(root: Path) -> DataSection:
    return DataSection.model_validate({"source": "phantom", "phantom": {"images": 40}})


def _medmnist(root: Path) -> DataSection:
    pytest.importorskip("medmnist")
    arrays = {}
    for side in ("train", "val", "test"):
        arrays[f"{side}_images"] = np.random.default_rng(len(side)).integers(0, 256, (4, 28, 28), dtype=np.uint8)
        arrays[f"{side}_labels"] = np.asarray([[0], [1], [0], [1]], dtype=np.uint8)
    np.savez_compressed(root / "breastmnist.npz", **arrays)
    return DataSection(source="medmnist", medmnist="breastmnist", path=str(root))


SECTIONS: dict[str, Make] = {"folder": _folder, "csv": _csv, "phantom": _phantom, "medmnist": _medmnist}


@pytest.fixture(params=plugins.names("data.sources"))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, DataSection, Path]:
    name: str = request.param
    assert name in SECTIONS, f"add a small data section for the source {name} to SECTIONS"
    return name, SECTIONS[name](tmp_path), tmp_path / "work"


def test_a_source_has_rows_and_files(source: tuple[str, DataSection, Path]) -> None:
    module = plugins.load("data.sources", source[0])
    assert list(inspect.signature(module.rows).parameters) == ["section", "seed", "work"]
    assert list(inspect.signature(module.files).parameters) == ["section"]
    assert module.__doc__


def test_the_table_is_whole_and_its_images_can_be_fetched(source: tuple[str, DataSection, Path]) -> None:
    name, section, work = source
    table = plugins.load("data.sources", name).rows(section, seed=0, work=work)
    assert isinstance(table, SourceTable)
    assert len(table) > 0
    assert len(set(table.paths)) == len(table)
    assert all(table.paths)
    assert all(table.labels)
    assert all(table.groups)
    assert table.name
    assert table.identity
    assert not any(path.startswith("/") or "\\" in path for path in table.paths)
    for row in range(len(table)):
        picture = table.fetch(row)
        if isinstance(picture, Path):
            assert picture.is_file()
        else:
            assert picture.dtype == np.uint8
            assert picture.ndim in (2, 3)


def test_the_table_is_the_same_each_time(source: tuple[str, DataSection, Path]) -> None:
    name, section, work = source
    first, second = (plugins.load("data.sources", name).rows(section, seed=0, work=work) for _ in range(2))
    for column in ("name", "paths", "labels", "groups", "splits", "subgroups", "identity"):
        assert getattr(first, column) == getattr(second, column)
    same = [np.array_equal(_pixels(first, row), _pixels(second, row)) for row in range(len(first))]
    assert all(same)


def test_the_files_it_depends_on_are_there(source: tuple[str, DataSection, Path]) -> None:
    name, section, _ = source
    files = list(plugins.load("data.sources", name).files(section))
    assert all(isinstance(file, Path) and file.is_file() for file in files)


def _pixels(table: SourceTable, row: int) -> np.ndarray:
    picture = table.fetch(row)
    return np.asarray(Image.open(picture)) if isinstance(picture, Path) else picture
