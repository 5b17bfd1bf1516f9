"""The timed block, the percentiles and the worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medge.bench_worker import BenchWorker, WorkerFailed
from medge.errors import DataError
from medge.records import Engine, File
from medge.runtime import bench


class Ticking:
    """A session whose runs take as many nanoseconds as it is told, on a clock of its own."""

    def __init__(self, costs: list[int]) -> None:
        self.now = 0
        self.seen: list[int] = []
        self._costs = costs

    def clock(self) -> int:
        return self.now

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.now += self._costs[len(self.seen) % len(self._costs)]
        self.seen.append(int(images.flat[0]))
        return np.zeros((1, 2), np.float32), np.zeros((1, 4), np.float32)


def test_a_block_times_each_query_and_takes_images_in_turn() -> None:
    session = Ticking([10, 20, 30])
    images = [np.full((1, 2, 2, 3), k, np.uint8) for k in (7, 8)]
    assert bench.measure_block(session, images, queries=3, clock=session.clock) == [10, 20, 30]
    assert session.seen == [7, 8, 7]


def test_warm_up_reaches_both_its_runs_and_its_seconds() -> None:
    image = [np.zeros((1, 2, 2, 3), np.uint8)]
    slow, fast = Ticking([10**9]), Ticking([10**8])
    assert len(bench.warm_up(slow, image, runs=10, seconds=1.0, clock=slow.clock)) == 10
    assert len(bench.warm_up(fast, image, runs=10, seconds=2.0, clock=fast.clock)) == 20


@pytest.mark.parametrize(("percent", "needed"), [(90, 64), (95, 130), (99, 662)])
def test_a_percentile_is_given_only_where_the_sample_carries_it(percent: int, needed: int) -> None:
    values = list(range(1, needed + 1))
    assert bench.percentile_ns(values[:-1], percent) is None
    assert bench.percentile_ns(values, percent) == -(-needed * percent // 100)


def test_bench_reports_the_latency_of_back_to_back_runs() -> None:
    session = Ticking([2_000_000])
    latency = bench.bench(session, 1.0, images=np.zeros((2, 2, 2, 3), np.uint8), clock=session.clock)
    assert (latency.queries, latency.p50_ms, latency.p90_ms, latency.p99_ms) == (500, 2.0, 2.0, None)
    assert latency.peak_memory_mb is not None
    assert latency.peak_memory_mb > 10


def test_images_of_another_form_are_refused() -> None:
    with pytest.raises(DataError, match="found float32"):
        bench.bench(Ticking([1]), 1.0, images=np.zeros((1, 2, 2, 3), np.float32))


def test_a_worker_loads_warms_up_and_runs_blocks(sleeper: Path, tmp_path: Path) -> None:
    engine = _engine(sleeper, milliseconds=2)
    with BenchWorker("one", log=tmp_path / "log") as worker:
        loaded = worker.load(engine, sleeper, images=_images(tmp_path), threads=1)
        warmed = worker.ask({"command": "warm_up", "runs": 10, "seconds": 0.0})
        block = worker.ask({"command": "block", "queries": 5})
        memory = worker.ask({"command": "memory"})
    assert loaded["first_inference_ms"] >= 2
    assert worker.cold_start_ms is not None
    assert worker.cold_start_ms > loaded["first_inference_ms"]
    assert warmed["runs"] == 10
    assert len(block["wall_ns"]) == 5
    assert min(block["wall_ns"]) >= 2_000_000
    assert memory["peak_memory_mb"] >= loaded["peak_memory_mb"] > 5


def test_what_an_engine_prints_does_not_reach_the_answers(sleeper: Path, tmp_path: Path) -> None:
    with BenchWorker("noisy", log=tmp_path / "log") as worker:
        worker.load(_engine(sleeper, says="hello from C"), sleeper, images=_images(tmp_path), threads=1)
    assert "hello from C" in (tmp_path / "log").read_text()


def test_a_refused_engine_is_a_result_with_its_reason(sleeper: Path, tmp_path: Path) -> None:
    with (
        BenchWorker("bad", log=tmp_path / "log") as worker,
        pytest.raises(WorkerFailed, match="bad: it does not load"),
    ):
        worker.load(_engine(sleeper, refuse="it does not load"), sleeper, images=_images(tmp_path), threads=1)


def test_a_dead_worker_is_named_with_its_signal(sleeper: Path, tmp_path: Path) -> None:
    with BenchWorker("dead", log=tmp_path / "log") as worker:
        worker.load(_engine(sleeper, dies_after=3), sleeper, images=_images(tmp_path), threads=1)
        with pytest.raises(WorkerFailed, match="dead: its worker was ended by signal 9"):
            worker.ask({"command": "block", "queries": 5})


def test_a_silent_worker_is_ended_in_time(sleeper: Path, tmp_path: Path) -> None:
    with BenchWorker("slow", log=tmp_path / "log") as worker:
        worker.load(_engine(sleeper, milliseconds=1), sleeper, images=_images(tmp_path), threads=1)
        with pytest.raises(WorkerFailed, match=r"no answer to 'block' within 0\.2 s"):
            worker.ask({"command": "block", "queries": 5000}, seconds=0.2)


def test_workers_end_when_their_coordinator_is_killed(sleeper: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from medge.bench_worker import BenchWorker\n"
        "worker = BenchWorker('x', log=Path(sys.argv[1]))\n"
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "log"], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    assert done.returncode == -9
    for _ in range(200):
        if not _alive(pid):
            return
        subprocess.run(["sleep", "0.05"], check=True)
    pytest.fail(f"worker {pid} outlived its coordinator")


def test_the_runtime_of_the_worker_imports_nothing_heavy() -> None:
    program = (
        "import sys, medge.runtime.bench; print([m for m in ('torch','pydantic','typer','rich') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def _images(folder: Path) -> Path:
    np.save(folder / "images.npy", np.zeros((3, 4, 4, 3), np.uint8))
    return folder / "images.npy"


def _engine(folder: Path, **options: object) -> Engine:
    (folder / "engine.json").write_text(json.dumps(options))
    return Engine("float", "sleeper", "float32", (File("engine.json", "0", 1),), "0", {})


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an engine of a backend that sleeps, prints, refuses or dies as told."""
    plugin = Path(__file__).parents[1] / "sleeper_plugin"
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(plugin) + os.pathsep + os.environ.get("MEDGE_PLUGIN_PATH", ""))
    folder = tmp_path / "engine"
    folder.mkdir()
    return folder
