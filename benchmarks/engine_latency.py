"""Latency of int8 engines against float32, against each engine's own tool, and against NNCF's graph unlowered.

    python benchmarks/engine_latency.py [--models tf_efficientnet_lite0 efficientnet_b0] [--rounds 100] [--threads N]

For each model at 224 px, from one checkpoint, as engines that medge's own backends start, one process each:
OpenVINO float32, bfloat16 and int8; ONNX Runtime float32, int8 lowered by medge, int8 by ONNX Runtime's quantize_static
(uint8 activations, int8 weights per channel) and int8 as NNCF wrote it. Rounds of blocks of five in random order with
an A/A control; a ratio is exp(median(log of block medians)) with a block-bootstrap 95 % interval. OpenVINO int8 is then
compared with `benchmark_app -api sync -hint latency` on the same file and image: bursts of both in turn.
Run it on a quiet machine: it says "unstable" where the control misses 1 by more than 0.02.
Writes benchmarks/results/engine_latency.json. Aims are in AIMS.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from medge import interleave, plugins
from medge.bench_worker import BenchWorker
from medge.devices import local
from medge.interleave import CONTROL, Interleaved
from medge.onnx_lint import refuse
from medge.onnx_lowering import lower
from medge.records import Engine, Preprocess, file_record, write_json
from medge.runtime.preprocess import prepare
from medge.sections import ProfileSection
from medge.stages.profile import AA_TOLERANCE
from medge.statistics.latency import paired_ratio

RESULT = Path(__file__).parent / "results" / "engine_latency.json"
SIZE, IMAGES, CALIBRATION = 224, 16, 32
BURST_SECONDS = 3
# (engine, compared with): at most this ratio. Only EfficientNet-Lite0 has aims; other models are reported.
AIMS = {
    ("int8/openvino-int8", "float/openvino-float32"): 0.48,
    ("int8/openvino-int8", "benchmark_app"): 1.05,
    ("int8/onnxruntime-int8", "float/onnxruntime-float32"): 0.65,
}
COMPARED = [
    ("int8/openvino-int8", "float/openvino-float32"),
    ("float/openvino-bfloat16", "float/openvino-float32"),
    ("int8/onnxruntime-int8", "float/onnxruntime-float32"),
    ("int8/onnxruntime-int8", "quantize_static/onnxruntime-int8"),
    ("int8/onnxruntime-int8", "nncf/onnxruntime-int8"),
    ("quantize_static/onnxruntime-int8", "float/onnxruntime-float32"),
    ("nncf/onnxruntime-int8", "float/onnxruntime-float32"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tf_efficientnet_lite0", "efficientnet_b0"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--bursts", type=int, default=8, help="pairs of bursts with benchmark_app")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--graphs", type=Path, help="keep the graphs there, and take those that are there already")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.prepare is not None:
        write_graphs(chosen.models[0], chosen.prepare)
        return
    before = local.state()
    results = {name: measure(name, chosen) for name in chosen.models}
    document = {
        "command": " ".join(["python", *sys.argv]),
        "device": {"facts": local.facts(), "before": before, "after": local.state()},
        "threads": chosen.threads,
        "image_size": SIZE,
        "versions": {name: plugins.load("backends", name).versions() for name in ("openvino", "onnxruntime")},
        "models": results,
    }
    write_json(RESULT, document)
    for name, result in results.items():
        print(f"{name} (A/A control {result['control']['ratio']:.3f}, {result['control']['verdict']})")
        for key, item in result["ratios"].items():
            aim = f"   aim {item['aim']}: {'met' if item['ratio'] <= item['aim'] else 'MISSED'}" if item["aim"] else ""
            print(f"  {key}: {item['ratio']:.3f} [{item['lower']:.3f}, {item['upper']:.3f}]{aim}")


def measure(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        graphs = chosen.graphs / name if chosen.graphs is not None else folder
        if not (graphs / "quantize_static.onnx").is_file():
            graphs.mkdir(parents=True, exist_ok=True)
            # torch and NNCF stay in a process of their own: their threads would slow the engines.
            arguments = [sys.executable, __file__, "--models", name, "--prepare", str(graphs)]
            subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        engines = build(graphs, folder)
        section = ProfileSection(blocks=chosen.rounds)
        images = graphs / "images.npy"
        threads = chosen.threads
        measured = interleave.measure(engines, images=images, threads=threads, section=section, seed=0, logs=folder)
        if measured.failures:
            sys.exit("\n".join(measured.failures.values()))
        result = {**summary(measured), "ratios": ratios(name, measured)}
        engine, where = next(pair for pair in engines if pair[0].name == "int8/openvino-int8")
        result["ratios"]["int8/openvino-int8 to benchmark_app"] = {
            **against_benchmark_app(engine, where, images, threads=threads, bursts=chosen.bursts, logs=folder),
            "aim": aim_of(name, "int8/openvino-int8", "benchmark_app"),
        }
        return result


def write_graphs(name: str, folder: Path) -> None:
    """Writes images.npy, float.onnx, nncf.onnx (post-training int8) and quantize_static.onnx, from one checkpoint."""
    import torch

    from medge import model as models
    from medge import weights
    from medge.compressors import ptq
    from medge.data.sources.phantom import draw
    from medge.fold import fold_batch_norms
    from medge.onnx_export import onnx_from_torch

    torch.manual_seed(0)
    classifier = models.create(models.specify(name, classes=2, head="batchnorm", dropout=0.0, size=SIZE))
    if name == "tf_efficientnet_lite0":
        weights.fill(classifier, "package:efficientnet-lite0")
    classifier.eval()
    drawn = [draw(0, group=k, row=k, positive=k % 2 == 1, difficulty=0.5) for k in range(CALIBRATION)]
    pictures = np.stack([prepare(image, Preprocess(SIZE, SIZE)) for image in drawn])
    np.save(folder / "images.npy", pictures[:IMAGES])
    np.save(folder / "calibration.npy", pictures)
    onnx_from_torch(classifier, folder / "float.onnx", size=(SIZE, SIZE))
    folded, _ = fold_batch_norms(classifier, torch.from_numpy(pictures[:1]))
    quantised = ptq.quantise(folded, (torch.from_numpy(p[None]) for p in pictures), ptq.Options())
    onnx_from_torch(quantised, folder / "nncf.onnx", size=(SIZE, SIZE))
    quantise_statically(folder, pictures)


def quantise_statically(folder: Path, pictures: np.ndarray) -> None:
    """ONNX Runtime's own way, as its documentation recommends it for x86: pre-process, then quantize_static."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(pictures)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._images, None)
            return None if image is None else {"images": image[None]}

    lower(folder / "float.onnx", folder / "static.onnx", plugins.load("backends", "openvino").QUANT)
    quant_pre_process(str(folder / "static.onnx"), str(folder / "ready.onnx"), skip_symbolic_shape=True)
    quantize_static(
        str(folder / "ready.onnx"), str(folder / "quantize_static.onnx"), Reader(),
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def build(graphs: Path, folder: Path) -> list[tuple[Engine, Path]]:
    """Every engine that is compared, built below `folder` by medge's backends."""
    calibration = np.load(graphs / "calibration.npy")
    found = []
    for source, variant, backend, precision, lowered in [
        ("float", "float", "openvino", "float32", True),
        ("float", "float", "openvino", "bfloat16", True),
        ("nncf", "int8", "openvino", "int8", True),
        ("float", "float", "onnxruntime", "float32", True),
        ("nncf", "int8", "onnxruntime", "int8", True),
        ("quantize_static", "quantize_static", "onnxruntime", "int8", False),
        ("nncf", "nncf", "onnxruntime", "int8", False),
    ]:
        module = plugins.load("backends", backend)
        if module.missing(precision) is not None:
            print(f"left out: {variant}/{backend}-{precision}. {module.missing(precision)}", file=sys.stderr)
            continue
        graph = graphs / f"{source}.onnx"
        if lowered:
            graph = folder / f"{source}-{backend}.onnx"
            lower(graphs / f"{source}.onnx", graph, module.QUANT, calibration_images=calibration)
            refuse(graph, module.QUANT)
        where = folder / variant / f"{backend}-{precision}"
        files = tuple(file_record(where, where / file) for file in module.build(graph, where, precision=precision))
        found.append((Engine(variant, backend, precision, files, "", {}), where))
    return found


def summary(measured: Interleaved) -> dict[str, Any]:
    control = paired(measured, CONTROL, measured.reference or "")
    stable = control["lower"] >= 1 - AA_TOLERANCE and control["upper"] <= 1 + AA_TOLERANCE
    medians = {name: round(float(np.median(one.all_ns())) / 1e6, 3) for name, one in measured.series.items()}
    return {
        "rounds": measured.rounds,
        "p50_ms": medians,
        "control": {**control, "engine": measured.reference, "verdict": "stable" if stable else "unstable"},
    }


def ratios(model: str, measured: Interleaved) -> dict[str, Any]:
    return {
        f"{a} to {b}": {**paired(measured, a, b), "aim": aim_of(model, a, b)}
        for a, b in COMPARED
        if a in measured.series and b in measured.series
    }


def aim_of(model: str, a: str, b: str) -> float | None:
    return AIMS.get((a, b)) if model == "tf_efficientnet_lite0" else None


def paired(measured: Interleaved, a: str, b: str) -> dict[str, float]:
    found = paired_ratio(measured.series[a].block_medians_ms(), measured.series[b].block_medians_ms(), seed=0)
    return {"ratio": round(found.ratio, 4), "lower": round(found.lower, 4), "upper": round(found.upper, 4)}


def against_benchmark_app(
    engine: Engine, folder: Path, images: Path, *, threads: int, bursts: int, logs: Path
) -> dict[str, Any]:
    """medge's session and OpenVINO's benchmark_app on one file and one image, in bursts of seconds in turn."""
    one = logs / "one.npy"
    np.save(one, np.load(images)[:1])
    ours: list[float] = []
    theirs: list[float] = []
    with BenchWorker("against benchmark_app", log=logs / "against.log") as worker:
        worker.load(engine, folder, images=one, threads=threads)
        request = {"command": "warm_up", "runs": 10, "seconds": float(BURST_SECONDS)}
        worker.ask(request)
        for number in range(bursts):
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                if side == "ours":
                    ours.append(worker.ask(request)["p50_ns"] / 1e6)
                else:
                    theirs.append(benchmark_app(folder / "model.xml", one))
    found = paired_ratio(np.array(ours), np.array(theirs), seed=0)
    ratio = {"ratio": round(found.ratio, 4), "lower": round(found.lower, 4), "upper": round(found.upper, 4)}
    return {**ratio, "ours_ms": [round(v, 3) for v in ours], "theirs_ms": theirs}


def benchmark_app(model: Path, image: Path) -> float:
    """Its median latency in ms. It takes all cores: with a hint it refuses to be told how many."""
    command = [
        str(Path(sys.executable).with_name("benchmark_app")), "-m", str(model), "-d", "CPU", "-api", "sync", "-hint",
        "latency", "-infer_precision", "f32", "-t", str(BURST_SECONDS), "-i", str(image),
    ]  # fmt: skip
    # CI=true is what OpenVINO's telemetry takes for "send nothing".
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "CI": "true"})
    found = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    if found is None:
        sys.exit(f"benchmark_app printed no median:\n{done.stdout[-2000:]}")
    return float(found.group(1))


if __name__ == "__main__":
    main()
