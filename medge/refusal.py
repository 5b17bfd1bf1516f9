"""What an engine's refusal of unlike images does: how many of which images it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import console, ood
from medge.data.dataset import DataSet
from medge.data.files import images_below
from medge.engine_outputs import Runner, write_images
from medge.errors import DataError, ImageRefused
from medge.likeness import scores_of
from medge.records import Engine
from medge.runtime.ood import Detector
from medge.runtime.preprocess import prepare
from medge.sections import OodSection

__all__ = ["measure", "set_images"]

EXTERNAL = "external"


def set_images(section: OodSection, data: DataSet, scratch: Path, *, seed: int) -> dict[str, Path]:
    """Raw files of the sets that should be refused: blank, noise, and those of the recipe that are there.

    A folder that is null or not there is left out with a warning, as are images that cannot be decoded. Raises
    DataError where a named folder has no image.
    """
    height, width = data.preprocess.height, data.preprocess.width
    found = {
        "blank": write_images(scratch / "set-blank.u8", ood.blank_images(height, width)),
        "noise": write_images(scratch / "set-noise.u8", ood.noise_images(height, width, seed=seed)),
    }
    for name, folder in section.sets.items():
        if folder is None or not Path(folder).expanduser().is_dir():
            console.warn(
                f"stress.ood.sets.{name} is left out: {'it is null' if folder is None else folder + ': none'}."
            )
            continue
        path = scratch / f"set-{name}.u8"
        if not path.is_file():
            write_images(path, _decoded(Path(folder).expanduser(), data, section.images_per_set, seed=seed))
        found[name] = path
    return found


def _decoded(folder: Path, data: DataSet, limit: int, *, seed: int) -> NDArray[np.uint8]:
    paths, _ = images_below(folder)
    chosen = np.sort(np.random.default_rng([seed, 13]).permutation(len(paths))[:limit])
    images, refused = [], 0
    with console.progress(f"decode {folder.name}", len(chosen)) as advance:
        for k in chosen:
            try:
                images.append(prepare(folder / paths[k], data.preprocess))
            except ImageRefused:
                refused += 1  # the decoder's refusal is no merit of the detector's
            advance()
    if refused:
        console.warn(f"{folder}: {refused} of {len(chosen)} files cannot be decoded and are not counted.")
    if not images:
        raise DataError(f"{folder} holds no image that can be decoded.", fix="Correct stress.ood.sets, or set it null.")
    return np.stack(images)


def measure(
    section: OodSection, engine: Engine, folder: Path, runner: Runner, sets: dict[str, Path], *, seed: int
) -> tuple[dict[str, Any], Detector, NDArray[np.float64]]:
    """Fits on training images, takes the threshold from validation, counts on test and on the sets.

    Returns the engine's entry of stress.json, its detector, and its scores of the test images.
    """
    data = runner.data
    rows = {split: data.indices(split) for split in ("train", "validation", "test", EXTERNAL)}
    random = np.random.default_rng([seed, 17])
    rows["train"] = np.sort(random.permutation(rows["train"])[: section.train_images])
    rows[EXTERNAL] = np.sort(random.permutation(rows[EXTERNAL])[: section.images_per_set])
    features = {
        split: runner.split(engine, folder, f"features-{split}", at.tolist()).features
        for split, at in rows.items()
        if len(at)
    }
    detector = ood.fit(section.method, features["train"], data.label[rows["train"]], seed=seed)

    def scored(name: str, images: Path, of: Sequence[int]) -> NDArray[np.float64]:
        return scores_of(
            detector, features[name], runner=runner, engine=(engine, folder), name=name, images=images, rows=of
        )

    raw = data.folder / "images.u8"
    of_validation = scored("validation", raw, rows["validation"].tolist())
    threshold = ood.threshold_of(of_validation, section.false_refusal_rate)
    detector = ood.with_threshold(detector, threshold)
    found = {"validation": of_validation}
    found |= {name: scored(name, raw, rows[name].tolist()) for name in ("test", EXTERNAL) if len(rows[name])}
    size = data.preprocess.height * data.preprocess.width * 3
    for name, path in sets.items():
        count = path.stat().st_size // size
        features[name] = runner.raw(engine, folder, f"set-{name}", path, range(count)).features
        found[name] = scored(name, path, range(count))
    counted = {name: ood.refusals(values, detector.threshold) for name, values in found.items()}
    entry = {
        "threshold": threshold.value,
        "threshold_rule": asdict(threshold),
        "train": {"images": len(features["train"])},
        "validation": counted["validation"],
        "test": counted["test"],
        "sets": {name: one for name, one in counted.items() if name not in ("validation", "test")},
    }
    return entry, detector, found["test"]
