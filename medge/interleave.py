"""Interleaved measurement of many engines on one machine: rounds of one block each, in an order drawn anew.

One process an engine. In a round every worker runs one block while the others sleep in a read; the next round has
another order. So whatever the machine does, it does to all of them, and two engines are compared round by round.
Light ring: it runs on the device that is measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medge.bench_worker import BenchWorker, WorkerFailed
from medge.records import Engine, file_stem
from medge.runtime.bench import BLOCK, WARM_UP_RUNS

__all__ = ["CONTROL", "Interleaved", "Series", "measure"]

CONTROL = "A/A control"  # a second worker of the reference engine: the ratio of the two should be 1


@dataclass
class Series:
    """What one worker gave: wall_ns and cpu_ns per round (block), in order of time."""

    engine: str
    first_inference_ms: float
    cold_start_ms: float
    peak_memory_mb: float | None = None
    wall_ns: list[list[int]] = field(default_factory=list)
    cpu_ns: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)  # its place in the round

    def block_medians_ms(self) -> Any:
        """float64 [rounds]"""
        return np.median(np.asarray(self.wall_ns, dtype=np.float64), axis=1) / 1e6

    def all_ns(self) -> list[int]:
        return [value for block in self.wall_ns for value in block]


@dataclass(frozen=True)
class Interleaved:
    """A finished measurement. `series` has every worker that lived to the end, the control under CONTROL."""

    series: dict[str, Series]
    failures: dict[str, str]
    reference: str | None
    rounds: int
    seconds: float


def measure(
    engines: list[tuple[Engine, Path]],
    *,
    images: Path,
    threads: int,
    section: Any,
    seed: int,
    logs: Path,
    start: Callable[..., BenchWorker] = BenchWorker,
    advance: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda _: None,
) -> Interleaved:
    """Measures all engines at once, for at least `section.blocks` rounds and `section.seconds`.

    A worker that fails is named in `failures`, and to `warn`, and its values are dropped; the rest go on. `advance` is
    called after every round.
    """
    with ExitStack() as stack:
        group = _Group(stack, logs=logs, images=images, threads=threads, start=start, warn=warn)
        warm = {}
        for engine, folder in engines:
            if group.load(engine.name, engine, folder):
                warm[engine.name] = group.warm_up(engine.name, section.warmup_seconds)
        reference = _fastest_float(engines, {name: p50 for name, p50 in warm.items() if p50 is not None})
        if reference is not None:
            engine, folder = next(pair for pair in engines if pair[0].name == reference)
            if group.load(CONTROL, engine, folder):
                group.warm_up(CONTROL, section.warmup_seconds)
        rounds, seconds = group.interleave(blocks=section.blocks, seconds=section.seconds, seed=seed, advance=advance)
        group.read_memory()
        return Interleaved(group.series, group.failures, reference, rounds, seconds)


def _fastest_float(engines: list[tuple[Engine, Path]], warm_p50: dict[str, float]) -> str | None:
    """The strictest thing to be compared with: of the uncompressed float32 engines, the one quickest in the warm-up."""
    floats = [e.name for e, _ in engines if (e.variant, e.precision) == ("float", "float32") and e.name in warm_p50]
    return min(floats, key=lambda name: (warm_p50[name], name)) if floats else None


class _Group:
    """Workers that live, their series, and what became of the others."""

    def __init__(
        self,
        stack: ExitStack,
        *,
        logs: Path,
        images: Path,
        threads: int,
        start: Callable[..., BenchWorker],
        warn: Callable[[str], None],
    ) -> None:
        self._stack = stack
        self._logs = logs
        self._images = images
        self._threads = threads
        self._start = start
        self._warn = warn
        self._workers: dict[str, BenchWorker] = {}
        self.series: dict[str, Series] = {}
        self.failures: dict[str, str] = {}

    def load(self, name: str, engine: Engine, folder: Path) -> bool:
        log = self._logs / f"{file_stem(name)}.log"
        worker = self._stack.enter_context(self._start(name, log=log))
        try:
            answer = worker.load(engine, folder, images=self._images, threads=self._threads)
        except WorkerFailed as error:
            self._drop(name, error)
            return False
        self._workers[name] = worker
        self.series[name] = Series(engine.name, answer["first_inference_ms"], worker.cold_start_ms or 0.0)
        return True

    def warm_up(self, name: str, seconds: float) -> float | None:
        """Its median time in ns in the second half of the warm-up; None where it failed."""
        answer = self._ask(name, {"command": "warm_up", "runs": WARM_UP_RUNS, "seconds": seconds})
        return None if answer is None else float(answer["p50_ns"])

    def interleave(self, *, blocks: int, seconds: float, seed: int, advance: Callable[[], None]) -> tuple[int, float]:
        """Rounds until both bounds are reached; returns their number and the seconds they took."""
        order = random.Random(seed)
        begun = time.monotonic()
        rounds = 0
        while self._workers and (rounds < blocks or time.monotonic() - begun < seconds):
            names = sorted(self._workers)
            order.shuffle(names)
            for place, name in enumerate(names):
                self._block(name, place)
            rounds += 1
            advance()
        return rounds, round(time.monotonic() - begun, 3)

    def read_memory(self) -> None:
        for name in list(self._workers):
            answer = self._ask(name, {"command": "memory"})
            if answer is not None:
                self.series[name].peak_memory_mb = answer["peak_memory_mb"]

    def _block(self, name: str, place: int) -> None:
        answer = self._ask(name, {"command": "block", "queries": BLOCK})
        if answer is not None:
            self.series[name].wall_ns.append(answer["wall_ns"])
            self.series[name].cpu_ns.append(answer["cpu_ns"])
            self.series[name].order.append(place)

    def _ask(self, name: str, request: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return self._workers[name].ask(request)
        except WorkerFailed as error:
            self._drop(name, error)
            return None

    def _drop(self, name: str, error: WorkerFailed) -> None:
        self._warn(error.message)
        self.failures[name] = error.message
        self._workers.pop(name, None)
        self.series.pop(name, None)
