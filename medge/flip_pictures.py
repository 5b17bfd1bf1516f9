"""Pictures for the flip ledger: where the float model looked, and where the engine leans on the image otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medge import console, saliency
from medge.engine_outputs import Runner, write_images
from medge.records import Engine, read_json, write_json
from medge.statistics.scores import softmax

__all__ = ["draw"]


def draw(
    flips: Sequence[dict[str, Any]],
    runner: Runner,
    engines: Sequence[tuple[Engine, Path]],
    finetune: Path,
    work: Path,
    *,
    temperatures: tuple[float, float],
) -> list[dict[str, Any]]:
    """[{sha256, kind, grad_cam, difference}] of rows of the ledger; the PNGs lie in `work`.

    grad_cam: of the class that the float model decided for. difference: occlusion map of the chosen engine less that
    of the reference, of the probability of the positive class (of more than two: of the float model's decision). Both
    are done by a killed run only when their line in `scratch` is.
    """
    found = []
    missing = [k for k in range(len(flips)) if not _mark(runner.scratch, k).is_file()]
    model = _model(finetune) if missing else None
    (work / "saliency").mkdir(exist_ok=True)
    with console.progress("saliency", len(flips), unit="flips") as advance:
        for k, flip in enumerate(flips):
            if k in missing:
                files = _pictures(k, flip, runner, engines, model, work, temperatures=temperatures)
                write_json(_mark(runner.scratch, k), {"sha256": flip["sha256"], "kind": flip["kind"], **files})
            found.append(read_json(_mark(runner.scratch, k)))
            advance()
    return found


def _mark(scratch: Path, number: int) -> Path:
    return scratch / f"saliency-{number:02d}.json"


def _model(finetune: Path) -> Any:
    from medge import model as models

    return models.load(finetune)


def _pictures(
    number: int,
    flip: dict[str, Any],
    runner: Runner,
    engines: Sequence[tuple[Engine, Path]],
    model: Any,
    work: Path,
    *,
    temperatures: tuple[float, float],
) -> dict[str, str]:
    data = runner.data
    row = data.sha256s.index(flip["sha256"])
    image = data.read([row])[0]
    cam = saliency.grad_cam(model, image[None], np.asarray([flip["decision_float"]]))[0]
    window = max(4, min(data.preprocess.height, data.preprocess.width) // 7)
    shown = 1 if len(data.labels) == 2 else int(flip["decision_float"])
    maps = []
    for (engine, folder), temperature in zip(engines, temperatures, strict=True):
        asked = _Asked()
        saliency.occlusion_map(asked, image, window=window, stride=window // 2)
        raw = write_images(runner.scratch / "occluded.u8", np.concatenate(asked.images))
        count = range(sum(map(len, asked.images)))
        logits = runner.raw(engine, folder, f"occluded-{number:02d}", raw, count).logits
        answers = softmax(logits.astype(np.float64) / temperature)[:, shown]
        maps.append(saliency.occlusion_map(_Answered(answers), image, window=window, stride=window // 2))
    names = {"grad_cam": f"saliency/{number:02d}-grad-cam.png", "difference": f"saliency/{number:02d}-difference.png"}
    for name, drawn in zip(names.values(), (cam, maps[1] - maps[0]), strict=True):
        Image.fromarray(saliency.overlay(image, drawn)).save(work / name)
    return names


class _Asked:
    """A score that only notes which images it is asked for, so that one process can then answer them all."""

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        self.images.append(images.copy())
        return np.zeros(len(images))


class _Answered:
    """The answers, in the order in which the same images are asked for again."""

    def __init__(self, answers: NDArray[np.float64]) -> None:
        self._answers, self._given = answers, 0

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        self._given += len(images)
        return self._answers[self._given - len(images) : self._given]
