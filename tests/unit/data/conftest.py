"""Small folders of real image files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Folder = Callable[..., Path]


def write_image(path: Path, seed: int, *, size: tuple[int, int] = (40, 32)) -> None:
    """A picture that no other seed gives, and that looks like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def class_folders(tmp_path: Path) -> Folder:
    """Makes `DIR/<class>/personN_virus_k.png`, two images for each of `patients` patients of each class."""

    def make(
        classes: Sequence[str] = ("NORMAL", "PNEUMONIA"), *, patients: int = 10, name: str = "Röntgen Bilder"
    ) -> Path:
        folder = tmp_path / name
        for c, label in enumerate(classes):
            for k in range(patients * 2):
                write_image(folder / label / f"person{1000 * c + k // 2}_virus_{k}.png", 100_000 * c + k)
        return folder

    return make


def write_manifest(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
