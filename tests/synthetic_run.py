"""A run folder made of made-up numbers, in the form that the stages write: for tests of what reads runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from medge.records import sha256_of_file, write_json

LABELS = ("NORMAL", "PNEUMONIA")


def write_data(folder: Path, *, images: int, size: int, synthetic: bool = True) -> None:
    """A data stage: blobs on noise, two images per group, split 60/20/20 by group."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    label = np.arange(images) // 2 % 2
    pixels = _pictures(label, size, random)
    pixels.tofile(folder / "images.u8")
    splits = ["train", "train", "train", "validation", "validation", "test", "test", "train", "test", "test"]
    with open(folder / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "label", "group", "split", "sha256"])
        for k in range(images):
            group = k // 2
            name = LABELS[label[k]]
            writer.writerow([f"{name}/{k:04d}.png", name, f"person{group:03d}", splits[group // 2 % 10], f"{k:064x}"])
    about = {
        "name": "phantom",
        "labels": list(LABELS),
        "synthetic": synthetic,
        "preprocess": {"width": size, "height": size, "resize": "squash", "interpolation": "bicubic"},
        "sha256": sha256_of_file(folder / "manifest.csv"),
    }
    write_json(folder / "dataset.json", about)


def _pictures(label: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    lungs = sum(np.exp(-(((x - cx) / 0.13) ** 2 + ((y - 0.5) / 0.3) ** 2)) for cx in (0.3, 0.7))
    pictures = []
    for positive in label:
        cx, cy = random.uniform(0.25, 0.75), random.uniform(0.3, 0.7)
        blob = positive * np.exp(-(((x - cx) / 0.1) ** 2 + ((y - cy) / 0.1) ** 2))
        grey = 190 - 120 * lungs + 70 * blob + random.normal(0, 8, (size, size))
        pictures.append(np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2))
    return np.stack(pictures)
