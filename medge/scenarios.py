"""How an engine answers when it is not run back to back beside others: sporadic, cold, soak, sweep. Light ring: it runs
on the device that is measured, and returns what it measured as plain JSON values; `scenario_results` makes figures of
them.

- *sporadic*: one image every few seconds, idle clocks and cold caches between: the bedside.
- *cold*: from the start of a process to its first answer, in fresh processes (the files are in the page cache).
- *soak*: one engine alone, back to back, for minutes: what heat does; with the power where the machine shows it.
- *sweep*: several images at once and several numbers of threads (medge.sweep).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge.bench_worker import BenchWorker, WorkerFailed
from medge.records import Engine, file_stem
from medge.runtime.bench import WARM_UP_RUNS
from medge.runtime.sampling import ENOUGH_SECONDS, Sampler, shows_power
from medge.sweep import sweep

__all__ = ["SCENARIOS", "cold", "run", "soak", "sporadic"]

SCENARIOS = ("sporadic", "cold", "soak", "sweep")
if TYPE_CHECKING:
    Engines = Sequence[tuple[Engine, Path]]
_SOAK_BLOCK_SECONDS = 0.25
_WARM_UP_SECONDS = 1.0


def run(
    names: Sequence[str],
    engines: Engines,
    *,
    settings: dict[str, dict[str, Any]],
    fastest: str,
    images: Path,
    threads: int,
    seed: int,
    logs: Path,
    sample: Callable[[], dict[str, Any]],
    start: Callable[..., BenchWorker] = BenchWorker,
    warn: Callable[[str], None] = lambda _: None,
    begin: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The raw values of the scenarios named, each with its settings and the engines that failed.

    settings: {"sporadic": {"queries", "interval_seconds"}, "cold": {"starts"}, "soak": {"seconds", "engines"}, "sweep":
    {"batch_sizes", "threads", "blocks"}}. begin: told of each scenario as it starts.
    fastest: the engine that soaks where not all do. A worker that fails is named in `failures` and the rest go on.
    """
    shared: dict[str, Any] = {"images": images, "threads": threads, "logs": logs, "start": start, "warn": warn}
    found: dict[str, Any] = {}
    for name in (one for one in SCENARIOS if one in names):
        chosen = settings[name]
        begin(name)
        if name == "sporadic":
            measured = sporadic(engines, **chosen, seed=seed, **shared)
        elif name == "cold":
            measured = cold(engines, **chosen, seed=seed, **shared)
        elif name == "sweep":
            counts = chosen["threads"] or [threads]
            measured = sweep(engines, **{**chosen, "threads": counts}, seed=seed, images=images, logs=logs, start=start,
                             warn=warn)  # fmt: skip
        else:
            soaking = [pair for pair in engines if chosen["engines"] == "all" or pair[0].name == fastest]
            measured = soak(soaking, seconds=chosen["seconds"], sample=sample, **shared)
        found[name] = {"settings": dict(chosen), **measured}
    return found


def sporadic(
    engines: Engines,
    *,
    queries: int,
    interval_seconds: float,
    seed: int,
    images: Path,
    threads: int,
    logs: Path,
    start: Callable[..., BenchWorker] = BenchWorker,
    warn: Callable[[str], None] = lambda _: None,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """`queries` single images for every engine, in an order drawn anew in each round, with `interval_seconds` of
    nothing before each. `wall_ns`: {engine: [a value a query]}."""
    failures: dict[str, str] = {}
    wall: dict[str, list[int]] = {}
    order = random.Random(seed)
    with ExitStack() as stack:
        workers: dict[str, BenchWorker] = {}
        for engine, folder in engines:
            worker = stack.enter_context(start(engine.name, log=_log(logs, engine, "sporadic")))
            try:
                worker.load(engine, folder, images=images, threads=threads)
                workers[engine.name], wall[engine.name] = worker, []
            except WorkerFailed as error:
                _note(failures, engine.name, error, warn)
        for query in range(queries):
            names = sorted(workers)
            order.shuffle(names)
            for name in names:
                pause(interval_seconds)
                try:
                    wall[name] += workers[name].ask({"command": "single", "image": query})["wall_ns"]
                except WorkerFailed as error:
                    _note(failures, name, error, warn)
                    del workers[name], wall[name]
    return {"wall_ns": wall, "failures": failures}


def cold(
    engines: Engines,
    *,
    starts: int,
    seed: int,
    images: Path,
    threads: int,
    logs: Path,
    start: Callable[..., BenchWorker] = BenchWorker,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """`starts` fresh processes for every engine, in an order drawn anew in each round. `cold_start_ms`: from the start
    of the process to its first answer; `first_inference_ms`: that without Python's own start."""
    failures: dict[str, str] = {}
    order = random.Random(seed)
    left = list(engines)
    found: dict[str, dict[str, list[float]]] = {
        engine.name: {"cold_start_ms": [], "first_inference_ms": []} for engine, _ in engines
    }
    for _ in range(starts):
        order.shuffle(left)
        for engine, folder in list(left):
            try:
                with start(engine.name, log=_log(logs, engine, "cold")) as worker:
                    answer = worker.load(engine, folder, images=images, threads=threads)
            except WorkerFailed as error:
                _note(failures, engine.name, error, warn)
                left.remove((engine, folder))
                continue
            found[engine.name]["cold_start_ms"].append(worker.cold_start_ms or 0.0)
            found[engine.name]["first_inference_ms"].append(answer["first_inference_ms"])
    return {"engines": {name: one for name, one in found.items() if name not in failures}, "failures": failures}


def soak(
    engines: Engines,
    *,
    seconds: float,
    sample: Callable[[], dict[str, Any]],
    images: Path,
    threads: int,
    logs: Path,
    start: Callable[..., BenchWorker] = BenchWorker,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Each engine alone for `seconds`, after the machine was idle for long enough to know its idle power.

    {engine: {"at_s": [end of block], "wall_ns": [[a value a query] a block], "samples", "idle_samples"}}; idle_samples
    is empty where the machine shows no power.
    """
    failures: dict[str, str] = {}
    found: dict[str, dict[str, Any]] = {}
    for engine, folder in engines:
        try:
            with start(engine.name, log=_log(logs, engine, "soak")) as worker:
                worker.load(engine, folder, images=images, threads=threads)
                found[engine.name] = _soak_one(worker, seconds=seconds, sample=sample)
        except WorkerFailed as error:
            _note(failures, engine.name, error, warn)
    return {"engines": found, "failures": failures}


def _soak_one(worker: BenchWorker, *, seconds: float, sample: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    idle = _idle(sample)
    warm = worker.ask({"command": "warm_up", "runs": WARM_UP_RUNS, "seconds": min(_WARM_UP_SECONDS, seconds)})
    queries = max(1, min(500, round(_SOAK_BLOCK_SECONDS * 1e9 / warm["p50_ns"])))
    at: list[float] = []
    wall: list[list[int]] = []
    with Sampler(sample) as sampler:
        begun = time.monotonic()
        while not at or at[-1] < seconds:
            wall.append(worker.ask({"command": "block", "queries": queries})["wall_ns"])
            at.append(round(time.monotonic() - begun, 3))
    return {"at_s": at, "wall_ns": wall, "samples": sampler.samples, "idle_samples": idle}


def _idle(sample: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Readings of the idle machine, for long enough to be a power; none where it shows no power."""
    with Sampler(sample) as once:
        pass
    if not shows_power(once.samples):
        return []
    with Sampler(sample) as sampler:
        time.sleep(ENOUGH_SECONDS + 1)
    return sampler.samples


def _log(logs: Path, engine: Engine, scenario: str) -> Path:
    return logs / f"{file_stem(engine.name)}-{scenario}.log"


def _note(failures: dict[str, str], name: str, error: WorkerFailed, warn: Callable[[str], None]) -> None:
    failures[name] = error.message
    warn(error.message)
