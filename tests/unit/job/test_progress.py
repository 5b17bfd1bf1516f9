"""What a job on a stick says of how far it is: one line over and over on a terminal, one line an engine elsewhere."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace
from typing import Any

import pytest

from medge.job.progress import Progress, planned_seconds
from medge.job.spec import Spec
from medge.measuring import Conditions
from medge.records import Engine, File

FILE = File("x", "0" * 64, 1)
ENGINES = tuple(Engine(variant, "sleeper", "int8", (FILE,), "0", {}) for variant in ("a", "b"))
SETTINGS = {
    "sporadic": {"queries": 20, "interval_seconds": 2.0},
    "soak": {"seconds": 120.0, "engines": "fastest"},
    "cold": {"starts": 5},
    "sweep": {"batch_sizes": [1], "threads": [], "blocks": 15},
}
BENCH = Conditions(100, 15.0, 1.0, ("steady",), SETTINGS)
SPEC = Spec("j", "cart7", "linux", "1", 0, 1, ENGINES, (), FILE, None, BENCH, 60.0)


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def said(events: list[tuple[float, dict[str, Any]]], *, terminal: bool) -> str:
    """What is written of (second, event) pairs."""
    stream, watch = Stream(terminal), Watch()
    progress = Progress(planned_seconds(SPEC), stream, clock=watch, columns=200)
    for watch.now, event in events:
        progress.tell(event)
    progress.finish()
    return stream.getvalue()


def selftest(done: int) -> dict[str, Any]:
    name = ENGINES[done - 1].name
    return {"step": "selftest", "done": done, "total": 2, "text": f"selftest {name}"}


WHOLE = [
    (0.0, selftest(1)),
    (4.0, selftest(2)),
    (8.0, {"step": "measure", "done": 1, "total": 100}),
    (12.0, {"step": "note", "text": "a worker died"}),
    (18.0, {"step": "measure", "done": 50, "total": 100}),
]


def test_beside_a_terminal_each_engine_has_one_line_and_nothing_else_is_said() -> None:
    assert said(WHOLE, terminal=False).splitlines() == [
        "engine 1 of 2: a/sleeper-int8, 4 s so far, about 18 s left",
        "engine 2 of 2: b/sleeper-int8, 8 s so far, about 22 s left",
    ]


def test_an_engine_that_fails_says_so_in_its_line() -> None:
    events = [*WHOLE[:2], (5.0, {"step": "failure", "text": "b/sleeper-int8: no such kernel"}), *WHOLE[2:]]
    lines = said(events, terminal=False).splitlines()
    assert len(lines) == 2
    assert lines[1] == "engine 2 of 2: b/sleeper-int8: no such kernel"


def test_on_a_terminal_one_line_is_written_over_and_what_went_wrong_stays() -> None:
    text = said(WHOLE, terminal=True)
    assert text.count("\n") == 2  # of the note, and of the end
    assert "\rselftest a/sleeper-int8 (1 of 2), 0 s so far, about 18 s left" in text
    assert "\rmeasure all engines: round 50 of 100, 18 s so far, about 10 s left" in text
    assert "\ra worker died" in text


def test_a_line_is_never_wider_than_the_terminal() -> None:
    stream = Stream(True)
    progress = Progress(planned_seconds(SPEC), stream, clock=lambda: 0.0, columns=20)
    progress.tell(selftest(1))
    assert all(len(line) < 20 for line in stream.getvalue().split("\r"))


def test_a_terminal_that_does_not_know_its_width_loses_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((0, 0)))
    stream = Stream(True)
    Progress(planned_seconds(SPEC), stream, clock=lambda: 0.0).tell(selftest(1))
    assert stream.getvalue().endswith("about 18 s left")


@pytest.mark.parametrize(
    ("scenario", "seconds"), [("sporadic", 2 * 20 * 2.0), ("soak", 120.0), ("cold", 0.0), ("sweep", 0.0)]
)
def test_what_the_settings_say_of_later_steps_counts_as_left(scenario: str, seconds: float) -> None:
    spec = replace(SPEC, bench=replace(BENCH, scenarios=("steady", scenario)))
    planned = planned_seconds(spec)
    assert (planned["measure"], planned[scenario]) == (18.0, seconds)
    assert sum(planned.values()) == 18.0 + seconds


def test_a_soak_that_goes_on_counts_down() -> None:
    spec = replace(SPEC, bench=replace(BENCH, scenarios=("steady", "soak")))
    stream, watch = Stream(True), Watch()
    progress = Progress(planned_seconds(spec), stream, clock=watch, columns=200)
    progress.tell({"step": "measure", "done": 100, "total": 100})
    assert "about 2 min 18 s left" in stream.getvalue()
    watch.now = 20.0
    progress.tell({"step": "scenario", "text": "soak"})
    assert "soak, 20 s so far, about 2 min 00 s left" in stream.getvalue()


def test_scoring_is_planned_by_the_selftest_and_a_long_engine_says_how_far_it_is() -> None:
    def score(done: int, **more: int) -> dict[str, Any]:
        return {
            "step": "score",
            "done": done,
            "total": 2,
            "images": 32,
            "text": f"score {ENGINES[done - 1].name}",
            **more,
        }

    events = [
        (0.0, {"step": "labelled", "images": 32}),
        (0.0, {**selftest(1), "images": 16}),
        (4.0, {**selftest(2), "images": 16}),
        (8.0, score(1)),
        (16.0, score(1, image=16)),
        (19.0, score(1, image=22)),
        (24.0, score(2)),
        (40.0, {"step": "measure", "done": 1, "total": 100}),
    ]
    assert said(events, terminal=False).splitlines() == [
        "engine 1 of 2: a/sleeper-int8, 4 s so far, about 18 s left",
        "engine 2 of 2: b/sleeper-int8, 8 s so far, about 38 s left",
        "score a/sleeper-int8 (1 of 2, image 22 of 32), 19 s so far, about 39 s left",
        "scored engine 1 of 2: a/sleeper-int8, 24 s so far, about 39 s left",
        "scored engine 2 of 2: b/sleeper-int8, 40 s so far, about 34 s left",
    ]
