"""Latency of one engine: the block of timed inferences, and the worker process that a coordinator drives.

`python -m medge.runtime.bench` is the worker. It reads one JSON request a line on stdin and answers each with one
JSON line on stdout; it ends when stdin closes, so a killed coordinator leaves nothing behind. One process holds one
engine, because two thread pools in one process slow each other; an idle worker sleeps in `readline`.

Requests (`command` and its keys) and answers:

- `load`: backend, folder, files, precision, threads, batch_size, images (a .npy file, uint8 [n, height, width, 3])
  -> `first_inference_ms`, `peak_memory_mb`
- `warm_up`: runs, seconds (both are reached) -> `runs`, `p50_ns`
- `block`: queries -> `wall_ns` (one value a query, after an untimed lead-in), `cpu_ns` (all threads, over the block)
- `single`: image (its number) -> `wall_ns` of one query, without a lead-in: what comes after a pause
- `memory` -> `peak_memory_mb`
- `quit` -> `{}`

A MedgeError is answered as `{"error": ..., "kind": ..., "fix": ...}`; anything else is a traceback on
stderr, and the end.
Light ring: standard library and numpy only, Python 3.8 or newer.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from medge import plugins
from medge.errors import DataError, MedgeError, ToolError
from medge.protocols import Session
from medge.records import Latency

__all__ = ["BLOCK", "bench", "latency_of", "measure_block", "peak_memory_mb", "percentile_ns", "warm_up"]

Array = Any
Clock = Callable[[], int]

BLOCK = 5  # queries between two changes of engine: long enough to reach a warm cache, short enough to pair
WARM_UP_RUNS = 10
_LEAD_IN_SECONDS = 0.002  # untimed, at least one run: a 0.3 ms model needs three runs after another engine's block

# MLPerf Inference's early stopping at 99 % confidence: below so many queries a percentile says nothing.
# https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc (appendix Early Stopping)
_QUERIES_NEEDED = {50: 1, 90: 64, 95: 130, 99: 662}


def measure_block(session: Session, images: Sequence[Array], *, queries: int, clock: Clock) -> List[int]:
    """Nanoseconds of each of `queries` calls, host array in to host array out, images taken in turn.

    images: arrays uint8 [batch size, height, width, 3]. `clock` is `time.perf_counter_ns` but for tests.
    """
    taken = []
    for query in range(queries):
        image = images[query % len(images)]
        start = clock()
        session.run(image)
        taken.append(clock() - start)
    return taken


def warm_up(
    session: Session, images: Sequence[Array], *, runs: int, seconds: float, clock: Clock = time.perf_counter_ns
) -> List[int]:
    """Runs until at least `runs` runs and `seconds` are past; the nanoseconds of each run."""
    taken: List[int] = []
    start = clock()
    while len(taken) < runs or clock() - start < seconds * 1e9:
        taken += measure_block(session, images, queries=1, clock=clock)
    return taken


def percentile_ns(wall_ns: Sequence[int], percent: int) -> Optional[int]:
    """The nearest-rank percentile (50, 90, 95 or 99), None where the sample is too small to carry it."""
    if len(wall_ns) < _QUERIES_NEEDED[percent]:
        return None
    rank = -(-len(wall_ns) * percent // 100)
    return sorted(wall_ns)[rank - 1]


def latency_of(wall_ns: Sequence[int], *, first_inference_ms: float, peak_memory_mb: Optional[float]) -> Latency:
    """The record of a sample of nanoseconds. Raises DataError for an empty one."""
    if not wall_ns:
        raise DataError("No inference was timed.", fix="Measure for longer.")

    def milliseconds(percent: int) -> Optional[float]:
        value = percentile_ns(wall_ns, percent)
        return None if value is None else round(value / 1e6, 4)

    return Latency(
        queries=len(wall_ns),
        p50_ms=round(statistics.median(wall_ns) / 1e6, 4),
        p90_ms=milliseconds(90),
        p95_ms=milliseconds(95),
        p99_ms=milliseconds(99),
        first_inference_ms=first_inference_ms,
        peak_memory_mb=peak_memory_mb,
    )


def bench(session: Session, seconds: float, *, images: Array, clock: Clock = time.perf_counter_ns) -> Latency:
    """Latency of back-to-back runs for `seconds` after a warm-up; the first run is timed on its own.

    images: uint8 [n, height, width, 3], taken in turn. Raises DataError where there are none.
    """
    inputs = _batches(images, 1)
    first = measure_block(session, inputs, queries=1, clock=clock)[0]
    warm_up(session, inputs, runs=WARM_UP_RUNS, seconds=min(1.0, seconds), clock=clock)
    taken: List[int] = []
    start = clock()
    while not taken or clock() - start < seconds * 1e9:
        taken += measure_block(session, inputs, queries=BLOCK, clock=clock)
    return latency_of(taken, first_inference_ms=round(first / 1e6, 3), peak_memory_mb=peak_memory_mb())


def peak_memory_mb() -> Optional[float]:
    """The most resident memory this process has had, in MB (10^6 bytes); None where the system does not say.

    VmHWM first: `ru_maxrss` survives an exec on Linux, so it may be that of the process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return round(int(line.split()[1]) * 1024 / 1e6, 1)
    except OSError:
        pass  # not Linux: ask the C library below
    try:
        import resource
    except ImportError:  # not Unix
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _batches(images: Array, size: int) -> List[Array]:
    """Arrays [size, height, width, 3] of images in turn, from the first again where they run out."""
    if images.ndim != 4 or images.shape[0] == 0 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise DataError(
            f"Images to time must be uint8 [n, height, width, 3], found {images.dtype} {list(images.shape)}.",
            fix="Give at least one preprocessed image.",
        )
    count = images.shape[0]
    return [np.ascontiguousarray(images[np.arange(k, k + size) % count]) for k in range(0, count, size)]


class _Worker:
    """The state behind the requests: one engine, once it is loaded."""

    def __init__(self) -> None:
        self._session: Optional[Session] = None
        self._inputs: List[Array] = []

    def answer(self, request: Dict[str, Any]) -> Dict[str, Any]:
        command = request["command"]
        if command == "load":
            return self._load(request)
        if command == "memory":
            return {"peak_memory_mb": peak_memory_mb()}
        if command == "quit":
            return {}
        if self._session is None:
            raise DataError(f"'{command}' came before 'load'.", fix="Send 'load' first.")
        if command == "warm_up":
            taken = warm_up(self._session, self._inputs, runs=request["runs"], seconds=request["seconds"])
            return {"runs": len(taken), "p50_ns": int(statistics.median(taken[len(taken) // 2 :]))}
        if command == "block":
            # Others ran since: the first runs find cold caches and sleeping threads, which back-to-back runs do not.
            warm_up(self._session, self._inputs, runs=1, seconds=_LEAD_IN_SECONDS)
            cpu = time.process_time_ns()
            taken = measure_block(self._session, self._inputs, queries=request["queries"], clock=time.perf_counter_ns)
            return {"wall_ns": taken, "cpu_ns": time.process_time_ns() - cpu}
        if command == "single":
            image = self._inputs[request["image"] % len(self._inputs)]
            return {"wall_ns": measure_block(self._session, [image], queries=1, clock=time.perf_counter_ns)}
        raise DataError(f"No request '{command}'.", fix="Choose one of: load, warm_up, block, single, memory, quit.")

    def _load(self, request: Dict[str, Any]) -> Dict[str, Any]:
        size = request.get("batch_size", 1)
        self._inputs = _batches(np.load(request["images"], allow_pickle=False), size)
        start = time.perf_counter_ns()  # importing the engine's package is part of the wait for the first answer
        backend = plugins.load("backends", request["backend"])
        where = (Path(request["folder"]), request["files"])
        how = {"precision": request["precision"], "threads": request["threads"]}
        if size == 1:
            self._session = backend.start(*where, **how)
        elif hasattr(backend, "start_batch"):
            self._session = backend.start_batch(*where, **how, batch_size=size)
        else:
            raise ToolError(f"it has a fixed batch of 1: {request['backend']} engines take one image at a time")
        measure_block(self._session, self._inputs, queries=1, clock=time.perf_counter_ns)
        taken = time.perf_counter_ns() - start
        return {"first_inference_ms": round(taken / 1e6, 3), "peak_memory_mb": peak_memory_mb()}


def main() -> int:
    """Answers requests until stdin closes or `quit`. What engines print on stdout goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle: it closes stdin
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = worker.answer(request)
        except MedgeError as error:
            answer = {"error": error.message, "kind": type(error).__name__, "fix": error.fix}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:  # the coordinator is gone
            os._exit(0)
        if request["command"] == "quit":
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
