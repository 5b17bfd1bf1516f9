"""Decoding, resizing and preparing a large JPEG against the engine's own time, on one image of 2000 x 1500.

    python benchmarks/predict_jpeg.py BUNDLE... [--rounds 100]

Both are timed in one process in turn, each round in random order, as `medge-runtime.pyz predict` does them: the image
from its file to uint8 at model size, then the engine from host array to host array.
Writes benchmarks/results/predict_jpeg.json. Aim: preparing takes at most 2 x the engine's time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from runtime_start import write_jpeg

from medge.devices import local
from medge.records import write_json
from medge.runtime import bundle as bundles
from medge.runtime.predict import predict_logits, start_engine
from medge.runtime.preprocess import prepare
from medge.statistics.latency import paired_ratio

RESULT = Path(__file__).parent / "results" / "predict_jpeg.json"
AIM = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--image", type=Path, help="another JPEG than the drawn one")
    chosen = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        image = chosen.image or Path(folder) / "image.jpg"
        if chosen.image is None:
            write_jpeg(image)
        for path in chosen.bundles:
            bundle = bundles.load(path.resolve())
            results[f"{bundle.manifest['name']}: {bundle.engine.name}"] = measure(bundle, image, rounds=chosen.rounds)
    document = {"command": " ".join(["python", *sys.argv]), "device": local.facts(), "aim": AIM, "results": results}
    write_json(RESULT, document)
    print(json.dumps(document, indent=2))


def measure(bundle: bundles.Bundle, image: Path, *, rounds: int) -> dict[str, Any]:
    session = start_engine(bundle.engine, bundle.engine_folder, threads=bundle.threads)
    pixels = prepare(image, bundle.preprocess)
    calls: dict[str, Callable[[], Any]] = {
        "prepare": lambda: prepare(image, bundle.preprocess),
        "engine": lambda: predict_logits(session, [pixels]),
    }
    for _ in range(10):
        for call in calls.values():
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in range(rounds):
        names = list(calls)
        order.shuffle(names)
        for name in names:
            start = time.perf_counter_ns()
            calls[name]()
            taken[name].append((time.perf_counter_ns() - start) / 1e6)
    ratio = paired_ratio(np.asarray(taken["prepare"]), np.asarray(taken["engine"]), seed=0)
    return {
        "image_bytes": image.stat().st_size,
        "model_size": [bundle.preprocess.width, bundle.preprocess.height],
        "rounds": rounds,
        "prepare_ms": round(float(np.median(taken["prepare"])), 3),
        "engine_ms": round(float(np.median(taken["engine"])), 3),
        "ratio": [round(v, 4) for v in (ratio.ratio, ratio.lower, ratio.upper)],
        "reached": ratio.ratio <= AIM,
    }


if __name__ == "__main__":
    main()
