"""Time and memory of the whole trial against the number of predictions, and growth against n log n.

    python benchmarks/trial_scale.py                       # 1,000 to 100,000 predictions, ten candidates each
    python benchmarks/trial_scale.py --candidates 2 --sizes 1000 10000

Writes benchmarks/results/trial_scale.json. The tables are in memory; 2,000 resamples, two images a patient.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

RESULTS = Path(__file__).parent / "results"


def measure(count: int, candidates: int) -> dict[str, Any]:
    """Judges `candidates` noisy copies of one model; one process, so that its peak memory is its own."""
    from medge.predictions import Predictions
    from medge.sections import ValidateSection
    from medge.trial import judge

    def table(seed: int) -> Predictions:
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(count) % 2)
        logits = rng.normal(size=(count, 2)) + 2 * np.eye(2)[labels]
        names = tuple(f"{seed:08x}{k:056x}" for k in range(count))
        return Predictions(names, tuple(f"p{k // 2}" for k in range(count)), labels, logits, {})

    def noisy(of: Predictions, seed: int) -> Predictions:
        noise = 0.02 * np.random.default_rng(seed).normal(size=of.logits.shape)
        return dataclasses.replace(of, logits=of.logits + noise)

    validation, judged = table(1), table(2)
    small = dataclasses.replace(
        validation,
        **{name: getattr(validation, name)[:200] for name in ("sha256", "group", "labels", "logits")},
    )
    judge(small, small, small, small, section=ValidateSection(bootstrap=200), seed=0)  # imports are not the trial
    wall, processor = time.perf_counter(), time.process_time()
    for k in range(candidates):
        judge(validation, noisy(validation, k), judged, noisy(judged, k + 99), section=ValidateSection(), seed=0)
    return {
        "predictions": count,
        "candidates": candidates,
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 30_000, 100_000])
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked.candidates)))
        return
    found, load = [], os.getloadavg()[0]
    for size in asked.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--candidates", str(asked.candidates)]
        # two pools of threads in one process: the resampling has its own
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found.append(json.loads(done.stdout))
        growth = found[-1]["processor_seconds"] / (size * math.log2(size)) * 1e6
        found[-1]["microseconds_per_n_log_n"] = round(growth, 3)
        print(found[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    document = {**provenance(), "cores": cores, "load_before": load, "measured": found}
    (RESULTS / "trial_scale.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
