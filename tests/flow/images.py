"""Folders of small images for tests that start from files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(folder: Path, *, images: int, size: int = 64, seed: int = 0) -> None:
    """`folder/normal/K.png` and `folder/PNEUMONIA/K.png`, two per patient, with a manifest.csv as recipes name it.

    The positive class has a bright soft disc: easy enough that an untrained backbone sees it.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size]
    table = []
    for k in range(images):
        label = ("normal", "PNEUMONIA")[k // 2 % 2]
        pixels = rng.normal(90, 25, (size, size))
        if label == "PNEUMONIA":
            y, x = rng.uniform(0.3, 0.7, 2) * size
            pixels += 110 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (size / 6) ** 2))
        path = folder / label / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        table.append([f"{label}/{k}.png", label, f"patient-{k // 2}", "drawn"])
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "patient_id", "subtype"])
        writer.writerows(table)
