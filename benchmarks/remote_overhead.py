"""What a job over loopback ssh costs beyond the measuring itself, and whether it measures what this machine measures.

    python benchmarks/remote_overhead.py [--jobs 5] [--pairs 20] [--rounds 20] [--threads N]

A real OpenSSH server on loopback (needs /usr/sbin/sshd), medge's own job, an ONNX Runtime engine of a few convolutions.
- overhead: seconds of the whole job here, from before the connection to after the cleaning, less the seconds that the
  device says it worked. *first*: nothing of medge is there; *second*: engine and job.pyz are there already.
- agreement: one short measurement here and one there, in random order, many times; the ratio of the paired medians with
  a block-bootstrap 95 % interval.
- control: two measurements here, in the same way: what the machine itself does to such a ratio.
Run it on a quiet machine. Writes benchmarks/results/remote_overhead.json. Aims are in AIMS.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from medge import engines, measuring, remote, remote_profile
from medge.device_book import Device
from medge.devices import local
from medge.records import to_json, write_json
from medge.remote_profile import Made
from medge.sections import ProfileSection
from medge.stages import profile
from medge.statistics.latency import paired_ratio
from medge.workspace import Stage
from tests.fake_stages import fake_inputs
from tests.ssh_server import sshd

RESULT = Path(__file__).parent / "results" / "remote_overhead.json"
AIMS = {"first_seconds": 3.0, "second_seconds": 1.0, "ratio": 0.05}
SIZE, CHANNELS, LAYERS = 96, 32, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5, help="jobs of each kind (first, second)")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of measurements, here and there")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of five inferences in a measurement")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    before = local.state()
    with tempfile.TemporaryDirectory() as folder, sshd(Path(folder, "sshd")) as server:
        os.environ["HOME"] = folder  # nobody's ssh config
        inputs = write_run(Path(folder))
        device = replace(server.device, python=sys.executable)
        section = ProfileSection(
            device="cart7", threads=chosen.threads, blocks=chosen.rounds, seconds=0.1, warmup_seconds=0.2
        )
        overhead = measure_overhead(Path(folder), device, section, inputs, jobs=chosen.jobs)
        agreement = measure_agreement(Path(folder), device, section, inputs, pairs=chosen.pairs)
    document = {
        "command": " ".join(["python", *sys.argv]),
        "device": {"facts": local.facts(), "before": before, "after": local.state()},
        "threads": chosen.threads,
        "aims": AIMS,
        "overhead": overhead,
        "agreement": agreement,
    }
    write_json(RESULT, document)
    show(document)


def write_run(folder: Path) -> dict[str, Stage]:
    """Data and one engine: convolutions, uint8 [1, 96, 96, 3] -> logits [1, 2], features [1, 32]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["c0"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for k in range(LAYERS):
        shape = (CHANNELS, CHANNELS if k else 3, 3, 3)
        weights.append(numpy_helper.from_array(draw.normal(0, 0.05, shape).astype(np.float32), f"w{k}"))
        nodes += [
            helper.make_node("Conv", [f"c{k}", f"w{k}"], [f"d{k}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"d{k}"], [f"c{k + 1}"]),
        ]
    weights.append(numpy_helper.from_array(draw.normal(0, 0.05, (CHANNELS, 2)).astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"c{LAYERS}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "convolutions", [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2]),
         helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, CHANNELS])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "net.onnx"))
    return fake_inputs(folder / "run", size=SIZE, onnx=folder / "net.onnx", stressed=False)


def job(folder: Path, device: Device, section: ProfileSection, inputs: dict[str, Stage]) -> Made:
    scratch = Path(tempfile.mkdtemp(dir=folder))
    return remote_profile.make(section, inputs, scratch, device=device, seed=0)


def do(made: Made, device: Device) -> tuple[float, dict[str, Any], tuple[str, ...]]:
    """Seconds of the whole job here, its result, and what the device still has."""
    begun = time.monotonic()
    fetched = made.archive.parent / "fetched"
    finished = remote.run_job(device, made.spec, files=made.files, archive=made.archive, fetched=fetched)
    return time.monotonic() - begun, finished.result, finished.left


def measure_overhead(
    folder: Path, device: Device, section: ProfileSection, inputs: dict[str, Stage], *, jobs: int
) -> dict[str, Any]:
    found: dict[str, list[float]] = {"first": [], "second": []}
    left: set[str] = set()
    for k in range(jobs):
        fresh = replace(device, folder=str(folder / f"device{k}"))
        for which in ("first", "second"):
            seconds, result, rest = do(job(folder, fresh, section, inputs), fresh)
            found[which].append(round(seconds - result["seconds"], 3))
            left |= set(rest)
    medians = {which: statistics.median(values) for which, values in found.items()}
    return {
        "seconds": found,
        "first_seconds": medians["first"],
        "second_seconds": medians["second"],
        "within_aims": medians["first"] <= AIMS["first_seconds"] and medians["second"] <= AIMS["second_seconds"],
        "left_on_the_device": sorted(left),
    }


def measure_agreement(
    folder: Path, device: Device, section: ProfileSection, inputs: dict[str, Stage], *, pairs: int
) -> dict[str, Any]:
    """The engine's median there over its median here, and here over here, pair by pair."""
    images = profile.write_images(inputs["data"].folder, folder / "images.npy")

    def here() -> float:
        logs = Path(tempfile.mkdtemp(dir=folder))
        measured = measuring.measure(
            local, engines.load_all(inputs["compile"].folder), images=images, threads=section.threads or 1, seed=0,
            logs=logs, conditions=profile.conditions_of(section),
        )  # fmt: skip
        return median_of(to_json(measured.steady))

    def there() -> float:
        return median_of(do(job(folder, device, section, inputs), device)[1]["measured"])

    order = random.Random(0)
    loopback, again, base = [], [], []
    for _ in range(pairs):
        values: dict[str, float] = {}
        calls: list[tuple[str, Callable[[], float]]] = [("here", here), ("again", here), ("there", there)]
        order.shuffle(calls)
        for name, call in calls:
            values[name] = call()
        base.append(values["here"])
        again.append(values["again"])
        loopback.append(values["there"])
    ratio = paired_ratio(np.array(loopback), np.array(base), seed=0)
    control = paired_ratio(np.array(again), np.array(base), seed=0)
    return {
        "medians_ms": {"here": base, "again": again, "there": loopback},
        "there_to_here": to_json(ratio),
        "control": to_json(control),
        "within_aims": abs(ratio.ratio - 1) <= AIMS["ratio"],
    }


def median_of(measured: dict[str, Any]) -> float:
    series = measured["series"]["float/onnxruntime-float32"]
    return statistics.median(value for block in series["wall_ns"] for value in block) / 1e6


def show(document: dict[str, Any]) -> None:
    overhead, agreement = document["overhead"], document["agreement"]
    print(
        f"overhead: first {overhead['first_seconds']:.2f} s (aim {AIMS['first_seconds']:g}), second "
        f"{overhead['second_seconds']:.2f} s (aim {AIMS['second_seconds']:g}); left there: "
        f"{overhead['left_on_the_device']}"
    )
    for name in ("there_to_here", "control"):
        ratio = agreement[name]
        print(f"{name}: {ratio['ratio']:.3f} [{ratio['lower']:.3f}, {ratio['upper']:.3f}] (aim 1 +- {AIMS['ratio']:g})")


if __name__ == "__main__":
    main()
