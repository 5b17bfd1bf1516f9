"""medge's int8 engines beside those of NNCF, ONNX Runtime, optimum-intel and Olive, from one checkpoint.

    python benchmarks/quantise_side_by_side.py RUN [--peers-python PEERS/bin/python] [--rounds 100] [--threads N]

RUN is a finished run, which is only read: its float ONNX, its calibration list, its decoded images and its engines.
Every tool gets the same graph (uint8 image in, normalisation inside) and the same calibration images, and works in a
process of its own (quantise_peers.py). All models are then run by the same OpenVINO and ONNX Runtime: predictions on
validation and test, judged by the run's own protocol (flips at the float model's threshold, chosen on validation), and
latency interleaved with the float engines. optimum-intel and Olive pin other versions than medge, so they live apart:

    python -m venv PEERS && PEERS/bin/pip install "optimum-intel[openvino,nncf]" olive-ai onnxruntime "torch<2.14" timm

A tool that is absent or fails is a row that says so. --work FOLDER keeps models and predictions: a second start
measures latency alone. --images is for trials. Run it on a quiet machine.
Writes benchmarks/results/quantise_side_by_side.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side_models import BOTH, METHODS, built, make, rules
from side_by_side_standing import standing

from medge import calibration, interleave, plugins, predictions
from medge.backends import is_int8
from medge.data import dataset
from medge.data.dataset import DataSet
from medge.devices import local
from medge.errors import DataError, IntegrityError, MedgeError
from medge.interleave import CONTROL, Interleaved
from medge.onnx_lowering import lower
from medge.predictions import Predictions
from medge.records import NOTICE, Engine, read_json, sha256_of_file, sha256_of_json, to_json, write_json
from medge.runtime.child import logits_in_child
from medge.sections import ProfileSection, ValidateSection
from medge.stages.validate import FLOAT, table_path
from medge.statistics.latency import paired_ratio
from medge.trial import judge

RESULT = Path(__file__).parent / "results" / "quantise_side_by_side.json"
REFERENCE = "float/openvino-float32"
LATENCY_IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--peers-python", type=Path, help="the interpreter of the environment that has the peers")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--images", type=int, help="at most so many of validation, of test and of the calibration list")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--work", type=Path, help="keep the models there, and take those that are there already")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        document = compared(chosen, work)
    write_json(chosen.result, document)
    show(document)


def compared(chosen: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The whole comparison as a document. Raises MedgeError where the run is not whole."""
    data = dataset.load(chosen.run / "1-data")
    listed = calibration_list(chosen.run)
    rows = calibration.read(Path(listed["path"]), data)[: chosen.images]
    np.save(work / "calibration.npy", data.read(rows))
    lower(chosen.run / "3-compress" / "float" / "model.onnx", work / "float.onnx", rules("openvino"))
    before = local.state()
    made = {name: make(name, chosen, work) for name in chosen.methods}
    found, problems = built(made, chosen, work)
    protocol = ValidateSection(**read_json(chosen.run / "5-validate" / "trials.json")["protocol"])
    trials, refused = judged(found, chosen, data, protocol=protocol, work=work)
    found = [pair for pair in found if pair[0].name in trials]
    splits = {name: subset(data, name, chosen.images) for name in ("validation", "test")}
    images = work / "latency.npy"
    np.save(images, data.read(splits["test"][:LATENCY_IMAGES]))
    section = ProfileSection(blocks=chosen.rounds)
    measured = interleave.measure(found, images=images, threads=chosen.threads, section=section, seed=0, logs=work)
    table = {engine.name: row(engine, trials[engine.name], measured, made) for engine, _ in found}
    reference_trial = trials[REFERENCE]["test"]
    return {
        "run": chosen.run.name,
        "command": f"python benchmarks/quantise_side_by_side.py runs/{chosen.run.name} --peers-python PEERS/bin/python",
        "notice": NOTICE,
        "device": {"facts": local.facts(), "before": before, "after": local.state()},
        "threads": chosen.threads,
        "versions": {k: v for name in BOTH for k, v in plugins.load("backends", name).versions().items()},
        "float_onnx_sha256": sha256_of_file(chosen.run / "3-compress" / "float" / "model.onnx"),
        "data_sha256": data.sha256,
        "images": {name: len(of) for name, of in splits.items()},
        "calibration": {"images": len(rows), "sha256": listed["sha256"]},
        "protocol": protocol.model_dump(mode="json"),
        "float": {"auc": reference_trial.metrics["float"]["auc"], "cut": reference_trial.cuts["float"]},
        "latency": {"rounds": measured.rounds, "reference": REFERENCE, "control": paired(measured, CONTROL)},
        "engines": table,
        "methods": {name: {"what": METHODS[name].what, **made[name]} for name in made},
        "failures": {**problems, **refused, **measured.failures},
        "standing": standing(table),
    }


def calibration_list(run: Path) -> dict[str, Any]:
    """{"path", "sha256"} of the list that the run's compress stage used. Raises IntegrityError where it changed."""
    listed = read_json(run / "3-compress" / "record.json")["values"]["calibration"]
    path = run.resolve().parent.parent / listed["path"]  # medge ran in the folder that holds runs/
    if not path.is_file() or sha256_of_file(path) != listed["sha256"]:
        raise IntegrityError(f"{path} is not the list that {run} used.", fix="Put it back, or make the run again.")
    return {"path": path, "sha256": listed["sha256"]}


def judged(
    found: list[tuple[Engine, Path]], chosen: argparse.Namespace, data: DataSet, *, protocol: Any, work: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """{engine: {"validation", "test"}: Trial} against the run's float tables, by the run's own protocol; and, by name,
    why an engine gave no answers that can be judged."""
    rows = {split: subset(data, split, chosen.images) for split in ("validation", "test")}
    reference = {split: table_of_run(chosen.run, data, FLOAT, split, of) for split, of in rows.items()}
    trials: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for engine, folder in found:
        print(f"{engine.name}: predictions", file=sys.stderr)
        try:
            own = {
                split: of_run(engine, chosen.run, data, split, of) or answers(engine, folder, data, of, work)
                for split, of in rows.items()
            }
            trials[engine.name] = {
                split: judge(
                    reference["validation"], own["validation"], reference[split], own[split], section=protocol, seed=0
                )
                for split in rows
            }
        except MedgeError as error:
            refused[engine.name] = error.message
    return trials, refused


def of_run(engine: Engine, run: Path, data: DataSet, split: str, rows: Any) -> Predictions | None:
    """The run's own predictions of one of its engines, made by the runtime that is installed here; else None."""
    if not engine.versions or engine.versions != plugins.load("backends", engine.backend).versions():
        return None
    return table_of_run(run, data, engine.name, split, rows)


def answers(engine: Engine, folder: Path, data: DataSet, rows: Any, work: Path) -> Predictions:
    """An engine's predictions of `rows`, kept in `work`. Raises ToolError where it dies or refuses the images.

    One thread: two that wait for each other lose more than they gain on a busy machine."""
    output = work / f"logits-{sha256_of_json([engine.sha256, data.sha256, rows.tolist()])[:16]}.npy"
    if not output.is_file():
        logits_in_child(
            engine, folder, images=data.folder / "images.u8", rows=rows.tolist(), height=data.preprocess.height,
            width=data.preprocess.width, threads=1, output=output,
        )  # fmt: skip
    return data.predictions(rows, np.load(output))


def subset(data: DataSet, split: str, images: int | None) -> Any:
    """Rows of a split, evenly spaced where it has more than `images`."""
    rows = data.indices(split)
    if images is None or images >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, images).astype(int)]


def table_of_run(run: Path, data: DataSet, name: str, split: str, rows: Any) -> Predictions:
    """What an engine of the run, or the torch model as `float`, said of `rows`. Raises DataError for a lacking row."""
    table = predictions.read(table_path(run / "5-validate", name, split))
    index = {digest: k for k, digest in enumerate(table.sha256)}
    missing = [k for k in rows.tolist() if data.sha256s[k] not in index]
    if missing:
        raise DataError(f"{name} lacks {len(missing)} {split} images.", fix="Validate again: medge validate.")
    return data.predictions(rows, table.logits[[index[data.sha256s[k]] for k in rows.tolist()]])


def row(engine: Engine, trials: Any, measured: Interleaved, made: dict[str, Any]) -> dict[str, Any]:
    """Everything about one engine; `latency_ratio` is to REFERENCE, None where the engine died while measured."""
    test = trials["test"]
    auc = next(check for check in test.checks if check.quantity == "auc")
    series = measured.series.get(engine.name)
    return {
        "own": engine.variant not in METHODS or METHODS[engine.variant].own,
        "quantised": is_int8(engine.precision),
        "backend": engine.backend,
        "bytes": engine.bytes,
        "sha256": engine.sha256,
        "auc": test.metrics["engine"]["auc"].value,
        "auc_difference": to_json(auc),
        "flips": {key: value for key, value in test.flips.items() if key != "rows"},
        "flipped": sorted(item["sha256"] for item in test.flips["rows"]),
        "validation": {"verdict": trials["validation"].verdict, "flips": trials["validation"].flips["count"]},
        "verdict": test.verdict,
        "p50_ms": None if series is None else round(float(np.median(series.all_ns())) / 1e6, 3),
        "latency_ratio": None if series is None else paired(measured, engine.name),
    }


def paired(measured: Interleaved, name: str) -> dict[str, float] | None:
    if name not in measured.series or REFERENCE not in measured.series:
        return None
    # The control is a second worker of the float engine that was fastest in the warm-up.
    other = measured.reference or REFERENCE if name == CONTROL else REFERENCE
    found = paired_ratio(measured.series[name].block_medians_ms(), measured.series[other].block_medians_ms(), seed=0)
    return {"ratio": round(found.ratio, 4), "lower": round(found.lower, 4), "upper": round(found.upper, 4)}


def show(document: dict[str, Any]) -> None:
    """The table, fewest flips first, then what is missing and where each of medge's engines stands."""
    print(f"{'engine':38} {'AUC':>7} {'flips':>6} {'':>7} {'valid.':>6} {'verdict':>12} {'MB':>6} {'p50 ms':>7}  ratio")
    for name, of in sorted(document["engines"].items(), key=lambda item: item[1]["flips"]["count"]):
        ratio = of["latency_ratio"] or {"ratio": float("nan"), "lower": float("nan"), "upper": float("nan")}
        print(
            f"{name:38} {of['auc']:7.4f} {of['flips']['count']:6} {of['flips']['rate']:7.2%} "
            f"{of['validation']['flips']:6} {of['verdict']:>12} {of['bytes'] / 1e6:6.2f} {of['p50_ms'] or 0:7.2f}  "
            f"{ratio['ratio']:.3f} [{ratio['lower']:.3f}, {ratio['upper']:.3f}]"
        )
    print(f"A/A control {document['latency']['control']}")
    for name, of in document["methods"].items():
        if "error" in of:
            print(f"{name}: {of['error']}   ({of['install']})")
    for name, why in document["failures"].items():
        print(f"{name}: {why}")
    for name, of in document["standing"].items():
        print(f"{name}: {of['sentence']}")


if __name__ == "__main__":
    main()
