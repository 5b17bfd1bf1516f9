"""What the epochs of trainings took, noted beside their checkpoints: how long the rest, or another, would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medge.records import from_json, read_json, write_json

__all__ = ["Pace", "Planned", "left", "note"]

_SUFFIX = ".pace.json"


@dataclass(frozen=True)
class Pace:
    """epochs: so many are trained by now. seconds_per_image: of the last one, with its validation."""

    epochs: int
    seconds_per_image: float


@dataclass(frozen=True)
class Planned:
    """A training that is wanted: for so many epochs of so many images, with its checkpoints in `work`, a folder named
    `COMPRESSOR-HASH`."""

    epochs: int
    images: int
    work: Path


def note(checkpoint: Path, pace: Pace) -> None:
    """Writes beside a checkpoint how far it is, and what its last epoch took."""
    write_json(checkpoint.with_name(checkpoint.name + _SUFFIX), pace)


def left(planned: Sequence[Planned]) -> tuple[int, float]:
    """How many epochs are still to be trained, and the seconds they would take: at the slowest pace of the same
    compressor, of any compressor where that has not trained yet, beside these folders; 0 where none has."""
    known: dict[str, list[Pace]] = {}
    for place in {one.work.parent for one in planned}:
        for path in place.glob(f"*/*{_SUFFIX}"):
            known.setdefault(_compressor(path.parent), []).append(from_json(Pace, read_json(path)))
    every = [pace for paces in known.values() for pace in paces]
    count, seconds = 0, 0.0
    for one in planned:
        trained = sum(from_json(Pace, read_json(path)).epochs for path in one.work.glob(f"*{_SUFFIX}"))
        epochs = max(one.epochs - trained, 0)
        paces = known.get(_compressor(one.work), every)
        count += epochs
        seconds += epochs * one.images * max((pace.seconds_per_image for pace in paces), default=0.0)
    return count, seconds


def _compressor(work: Path) -> str:
    return work.name.rpartition("-")[0]
