"""Every engine at several batch sizes and numbers of threads: what a machine gives that reads images in stacks.

One engine after the other; its settings (a process each) in interleaved blocks, so that two of them are compared round
by round as two engines are. What an engine or a machine cannot take is a row that says why, and the others go on.
Light ring: it runs on the device that is measured.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from medge.bench_worker import BenchWorker, WorkerFailed
from medge.records import Engine, file_stem
from medge.runtime.bench import BLOCK, WARM_UP_RUNS
from medge.runtime.machine import cores_allowed

__all__ = ["sweep"]

_WARM_UP_SECONDS = 0.5


def sweep(
    engines: Sequence[tuple[Engine, Path]],
    *,
    batch_sizes: Sequence[int],
    threads: Sequence[int],
    blocks: int,
    seed: int,
    images: Path,
    logs: Path,
    start: Callable[..., BenchWorker] = BenchWorker,
    warn: Callable[[str], None] = lambda _: None,
    cores: int | None = None,
) -> dict[str, Any]:
    """`rows`, one for an (engine, batch size, threads): `wall_ns`, the nanoseconds of each call, and `refused`, why it
    has none. `cores`: those that this process may use, where a test says so."""
    order = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for engine, folder in engines:
        with ExitStack() as stack:
            one = _OneEngine(engine, logs=logs, cores=cores or cores_allowed(), warn=warn)
            for count in threads:
                for size in batch_sizes:
                    one.load(stack, start, folder, images=images, size=size, threads=count)
            one.measure(blocks, order)
        rows += one.rows
    return {"rows": rows, "failures": {}}


class _OneEngine:
    """An engine's rows, and the workers of those that are still measured, by the row's number."""

    def __init__(self, engine: Engine, *, logs: Path, cores: int, warn: Callable[[str], None]) -> None:
        self._engine, self._logs, self._cores, self._warn = engine, logs, cores, warn
        self._workers: dict[int, BenchWorker] = {}
        self.rows: list[dict[str, Any]] = []

    def load(
        self,
        stack: ExitStack,
        start: Callable[..., BenchWorker],
        folder: Path,
        *,
        images: Path,
        size: int,
        threads: int,
    ) -> None:
        """Adds a row; it has a worker where the engine and the machine take it."""
        row = {"engine": self._engine.name, "batch_size": size, "threads": threads, "wall_ns": [], "refused": None}
        self.rows.append(row)
        if threads > self._cores:
            row["refused"] = f"this machine gives {self._cores} cores"
            return
        log = self._logs / f"{file_stem(self._engine.name)}-sweep-{size}-{threads}.log"
        worker = stack.enter_context(start(self._engine.name, log=log))
        number = len(self.rows) - 1
        try:
            worker.load(self._engine, folder, images=images, threads=threads, batch_size=size)
            worker.ask({"command": "warm_up", "runs": WARM_UP_RUNS, "seconds": _WARM_UP_SECONDS})
            self._workers[number] = worker
        except WorkerFailed as error:
            self._refuse(number, error)

    def measure(self, blocks: int, order: random.Random) -> None:
        for _ in range(blocks):
            numbers = sorted(self._workers)
            order.shuffle(numbers)
            for number in numbers:
                try:
                    answer = self._workers[number].ask({"command": "block", "queries": BLOCK})
                    self.rows[number]["wall_ns"] += answer["wall_ns"]
                except WorkerFailed as error:
                    self._refuse(number, error)

    def _refuse(self, number: int, error: WorkerFailed) -> None:
        row = self.rows[number]
        text = error.message
        prefix = f"{self._engine.name}: "
        row["refused"] = text[len(prefix) :] if text.startswith(prefix) else text
        row["wall_ns"] = []
        self._workers.pop(number, None)
        self._warn(f"{self._engine.name}, batch {row['batch_size']}, {_threads(row['threads'])}: {row['refused']}")


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
