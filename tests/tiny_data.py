"""A data stage's folder made in a moment: small images in which the class is a bright disc's place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from medge.data.dataset import DataSet, load
from medge.records import sha256_of_file
from medge.workspace import Stage


def data_stage(
    folder: Path, *, train: int = 48, validation: int = 24, size: int = 32, classes: int = 2, seed: int = 0
) -> Stage:
    """A finished data stage with `train` + `validation` images and 8 for test, in the layout of medge.data.dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    splits = ["train"] * train + ["validation"] * validation + ["test"] * 8
    rows, grid = ["path,label,group,split,sha256"], np.mgrid[:size, :size]
    with open(folder / "images.u8", "wb") as stream:
        for number, split in enumerate(splits):
            label = number % classes
            centre = np.array([size / 2, size * (label + 1) / (classes + 1)]) + random.normal(0, size / 16, 2)
            disc = ((grid - centre[:, None, None]) ** 2).sum(0) < (size / 6) ** 2
            image = np.clip(random.normal(60, 30, (size, size, 3)) + 120 * disc[..., None], 0, 255).astype(np.uint8)
            stream.write(image.tobytes())
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            rows.append(f"img{number}.png,class{label},g{number},{split},{digest}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    about = {
        "schema": 1,
        "name": "discs",
        "labels": [f"class{k}" for k in range(classes)],
        "preprocess": {"width": size, "height": size, "resize": "squash", "interpolation": "bicubic"},
        "synthetic": True,
        "sha256": sha256_of_file(folder / "manifest.csv"),
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return Stage(
        name="data", folder=folder, key="key", sha256="sha256", values={}, seconds=0.0, inputs={}, skipped=False
    )


def data_of(factory: pytest.TempPathFactory, *, size: int) -> DataSet:
    """The data set of a data stage, in a folder of its own."""
    folder = factory.mktemp("data") / "1-data"
    data_stage(folder, size=size)
    return load(folder)
