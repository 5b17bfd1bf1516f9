"""How long trainings would take, by what others took."""

from __future__ import annotations

from pathlib import Path

import pytest

from medge import pace
from medge.pace import Pace, Planned


def _note(work: Path, epochs: int, seconds_per_image: float, name: str = "a.pt") -> Path:
    work.mkdir(parents=True, exist_ok=True)
    pace.note(work / name, Pace(epochs, seconds_per_image))
    return work


def test_the_slowest_of_the_same_compressor_decides(tmp_path: Path) -> None:
    _note(tmp_path / "qat-1", 2, 9.0)
    for number, seconds in enumerate((0.5, 2.0, 1.0)):
        _note(tmp_path / f"shorten-{number}", 1, seconds)
    assert pace.left([Planned(4, 10, tmp_path / "shorten-new")]) == (4, 4 * 10 * 2.0)
    assert pace.left([Planned(4, 10, tmp_path / "distill-new")]) == (4, 4 * 10 * 9.0), "of any, where it never trained"


def test_what_an_interrupted_training_has_behind_it_does_not_count(tmp_path: Path) -> None:
    work = _note(tmp_path / "shorten-1", 18, 1.0)
    assert pace.left([Planned(20, 10, work)]) == (2, 20.0)
    _note(work, 20, 1.0)
    assert pace.left([Planned(20, 10, work), Planned(3, 5, tmp_path / "shorten-2")]) == (3, 15.0)
    steps = _note(tmp_path / "prune-1", 2, 1.0, "step-0.pt")
    _note(steps, 1, 1.0, "step-1.pt")
    assert pace.left([Planned(4, 10, steps)]) == (1, 10.0), "of a training in steps, all of them count"


@pytest.mark.parametrize("planned", [[], [Planned(5, 10, Path("nowhere/shorten-1"))]])
def test_where_nothing_was_trained_nothing_is_known(planned: list[Planned]) -> None:
    assert pace.left(planned)[1] == 0.0
