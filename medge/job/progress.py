"""How far a job without a link is, on stderr: the engine, the time so far, and about how much is left.

On a terminal one line that is written over; elsewhere (a log, a pipe) one line for each engine, and one every
10 s of an engine that takes longer.
Light ring: Python 3.8 and the standard library.
"""

from __future__ import annotations

import shutil
import time
from typing import Any, Callable, Dict, List, Optional, TextIO

from medge.job.spec import Spec

__all__ = ["Progress", "planned_seconds"]

_BY_ENGINE = ("build", "selftest", "score")  # steps that do one engine after another, in the order of the job
_LISTED = {"selftest": "engine", "score": "scored engine"}  # steps of which each engine has a line in a log
_QUIET_SECONDS = 10.0
_ORDER = (*_BY_ENGINE, "measure", "sporadic", "cold", "soak", "sweep")


def planned_seconds(spec: Spec) -> Dict[str, float]:
    """{step: seconds that the job's own settings say it takes at least}; a step that they say nothing of is 0."""
    planned = dict.fromkeys(_ORDER, 0.0)
    if spec.bench is None:
        return planned
    engines = len(spec.engines) + len(spec.graphs)
    bench, settings = spec.bench, spec.bench.settings
    planned["measure"] = bench.seconds + bench.warmup_seconds * (engines + 1)
    if "sporadic" in bench.scenarios:
        planned["sporadic"] = engines * settings["sporadic"]["queries"] * settings["sporadic"]["interval_seconds"]
    if "soak" in bench.scenarios:
        planned["soak"] = settings["soak"]["seconds"] * (engines if settings["soak"]["engines"] == "all" else 1)
    return planned


class Progress:
    """Told of a job's events (`step` with `done`, `total`, `text`), it writes to `stream`."""

    def __init__(
        self,
        planned: Dict[str, float],
        stream: TextIO,
        *,
        clock: Callable[[], float] = time.monotonic,
        columns: Optional[int] = None,
    ) -> None:
        self._planned, self._stream, self._clock = dict(planned), stream, clock
        self._terminal = stream.isatty()
        self._columns = columns or shutil.get_terminal_size().columns or 80  # some terminals say 0
        self._begun = self._step_begun = self._said = clock()
        self._labelled = 0
        self._step = _ORDER[0]
        self._engine: List[str] = []  # of the selftest: the line that its end will write
        self._width = 0

    def tell(self, event: Dict[str, Any]) -> None:
        step = event["step"] if event["step"] != "scenario" else event["text"]
        if step in _ORDER and step != self._step:
            self._step, self._step_begun = step, self._clock()
        if step == "failure":
            self._failed(str(event["text"]))
        elif step == "note" and self._terminal:
            self._write_line(str(event["text"]))
        elif step == "labelled":
            self._labelled = event["images"]
        elif step in _ORDER:
            self._plan_scoring(event)
            left = self._left(event)
            if "image" in event:
                self._within(event, left)
            else:
                self._end_engine()
                if step in _LISTED:
                    about = event["text"][len(step) + 1 :]
                    self._engine = [f"{_LISTED[step]} {event['done']} of {event['total']}: {about}", left]
            if self._terminal:
                self._write_over(f"{_what(step, event)}, {self._so_far()}, {left}")

    def _plan_scoring(self, event: Dict[str, Any]) -> None:
        """As long for an image as the selftest took: it starts every engine, and has fewer images to do so for."""
        if self._step == "selftest" and event["done"] > 1 and "images" in event:
            spent = self._clock() - self._step_begun
            whole = spent / (event["done"] - 1) * event["total"]
            self._planned["score"] = whole * self._labelled / event["images"]

    def _within(self, event: Dict[str, Any], left: str) -> None:
        """Beside a terminal: a line now and then of an engine that takes long."""
        if self._engine:
            self._engine[1] = left
        if not self._terminal and self._clock() - self._said >= _QUIET_SECONDS:
            self._write_line(f"{_what(self._step, event)}, {self._so_far()}, {left}")

    def finish(self) -> None:
        """Leaves the terminal on a line of its own."""
        self._end_engine()
        if self._terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()

    def _failed(self, text: str) -> None:
        """An engine that failed has its line here: of the selftest instead of the other, of a build as well."""
        if self._engine:
            about = self._engine[0].partition(": ")[0]
            self._engine = []
            self._write_line(f"{about}: {text}")
        elif self._terminal or self._step == "build":
            self._write_line(text)

    def _end_engine(self) -> None:
        if self._engine and not self._terminal:
            self._write_line(f"{self._engine[0]}, {self._so_far()}, {self._engine[1]}")
        self._engine = []

    def _so_far(self) -> str:
        return f"{_duration(self._clock() - self._begun)} so far"

    def _left(self, event: Dict[str, Any]) -> str:
        """By the rate of this step, and not less than what the settings say of it and of those to come."""
        spent, done, total = self._clock() - self._step_begun, event.get("done"), event.get("total")
        here = max(0.0, self._planned[self._step] - spent)
        if done is not None and total is not None:
            finished = done if self._step == "measure" else done - 1  # else told when it begins
            finished += event["image"] / event["images"] if "image" in event else 0
            rate = spent / finished * (total - finished) if finished else 0.0
            here = rate if self._step == "score" and finished else max(here, rate)
        later = sum(self._planned[step] for step in _ORDER[_ORDER.index(self._step) + 1 :])
        return f"about {_duration(here + later)} left"

    def _write_line(self, text: str) -> None:
        end = " " * max(0, self._width - len(text)) if self._terminal else ""
        self._said = self._clock()
        self._stream.write(("\r" if self._terminal else "") + text + end + "\n")
        self._stream.flush()
        self._width = 0

    def _write_over(self, text: str) -> None:
        text = text[: self._columns - 1]
        self._stream.write("\r" + text + " " * max(0, self._width - len(text)))
        self._stream.flush()
        self._width = len(text)


def _what(step: str, event: Dict[str, Any]) -> str:
    if step in _BY_ENGINE:
        images = f", image {event['image']} of {event['images']}" if "image" in event else ""
        return f"{event['text']} ({event['done']} of {event['total']}{images})"
    if step == "measure":
        return f"measure all engines: round {event['done']} of {event['total']}"
    return step


def _duration(seconds: float) -> str:
    whole = int(seconds + 0.5)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02} s"
