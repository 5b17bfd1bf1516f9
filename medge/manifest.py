"""What a bundle says of itself: the parts of `manifest.json`, from the records of the stages that made it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import medge
from medge import plugins, protocol_log
from medge.data.dataset import DataSet
from medge.devices import local
from medge.receipts import FOLDER, Receipt, file_name, validated_by
from medge.records import NOTICE, Engine, Preprocess, file_record, read_json, sha256_of_file, sha256_of_json, to_json
from medge.runtime.bundle import MANIFEST, SCHEMA, SEAL, OperatingPoint, files_in
from medge.runtime.machine import machine
from medge.runtime.selftest import TOLERANCE
from medge.workspace import Inputs

__all__ = ["compose", "engine_package", "metrics", "provenance"]

_PACKAGES = (
    "torch", "torchvision", "timm", "nncf", "onnx", "onnxruntime", "openvino", "numpy", "pillow", "scipy",
    "scikit-learn",
)  # fmt: skip


def compose(
    folder: Path,
    *,
    name: str,
    engine: Engine,
    engine_folder: str,
    data: DataSet,
    point: OperatingPoint,
    threads: int,
    golden: list[dict[str, Any]],
    pattern: str,
    metrics: dict[str, Any],
    provenance: dict[str, Any],
    ood: dict[str, Any] | None,
    receipt: Receipt | None = None,
    judged_there: bool = False,
) -> dict[str, Any]:
    """The manifest of everything that lies in `folder`. `engine_folder`: of the engine, below it. judged_there: on the
    device of the receipt, which built the engine."""
    backend = plugins.load("backends", engine.backend)
    return {
        "schema": SCHEMA,
        "name": name,
        "notice": NOTICE,
        "engines": [_engine_entry(engine, engine_folder, requires=engine_package(engine))],
        "preprocess": _preprocess_entry(data.preprocess, pattern),
        "labels": list(data.labels),
        "operating_point": to_json(point),
        "threads": threads,
        "metrics": metrics,
        "ood": ood,
        "provenance": provenance,
        "validated_on": {
            **_validated_on(receipt, backend),
            "by": validated_by(receipt, judged_there=judged_there),
        },
        "receipts": [] if receipt is None else [_receipt_entry(folder, receipt)],
        "golden": golden,
        "golden_tolerance": _tolerance(engine.precision),
        "golden_note": f"Golden vectors are test images of the data set '{data.name}' at model size: its licence holds "
        "for them. Do not pass the bundle on where the images may not go.",
        "files": [to_json(file_record(folder, folder / p)) for p in files_in(folder) if p not in (MANIFEST, SEAL)],
    }


def _validated_on(receipt: Receipt | None, backend: Any) -> dict[str, Any]:
    """The device of the receipt; without one this host, where validate ran the engine."""
    if receipt is None:
        return {**machine(backend.versions()), "cpu": local.facts()["cpu"], "device": "local", "receipt": None}
    known = receipt.facts.get("board") or receipt.facts.get("cpu")
    path = f"{FOLDER}/{file_name(receipt.engine)}"
    return {**receipt.machine, "cpu": known, "device": receipt.device, "receipt": path}


def _receipt_entry(folder: Path, receipt: Receipt) -> dict[str, Any]:
    path = f"{FOLDER}/{file_name(receipt.engine)}"
    about = {"device": receipt.device, "kind": receipt.kind, "engine_sha256": receipt.engine_sha256}
    return {"path": path, "sha256": sha256_of_file(folder / path), **about}


def engine_package(engine: Engine) -> str:
    """What pip installs on the device, e.g. `openvino==2026.4.1`."""
    package = str(plugins.load("backends", engine.backend).PACKAGE)
    version = _version(package) or engine.versions.get(package)
    return f"{package}=={version}" if version else package


def metrics(trials: dict[str, Any], latency: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """Test metrics with their intervals of the float model and the chosen engine, its checks, verdicts and latency."""
    name = choice["chosen"]
    of_engine = trials["engines"][name]
    trial = of_engine["test"]
    return {
        "split": "test",
        "verdict": trial["verdict"],
        "validation_verdict": of_engine["validation"]["verdict"],
        "float": trial["metrics"]["float"],
        "engine": trial["metrics"]["engine"],
        "confusion": trial.get("confusion"),
        "flips": {key: value for key, value in (trial.get("flips") or {}).items() if key != "rows"},
        "checks": trial["checks"],
        "latency": latency.get("engines", {}).get(name),
        "latency_ratio_to_float": latency.get("ratio_to_float", {}).get(name),
        "chosen_because": choice.get("sentence"),
    }


def provenance(inputs: Inputs, data: DataSet, recipe: str) -> dict[str, Any]:
    """Where everything came from: data, code, weights, recipe, stages, packages."""
    return {
        "data": {
            "name": data.name,
            "manifest_sha256": data.sha256,
            "synthetic": data.synthetic,
            "counts": {
                split: {
                    label: int(((data.split == split) & (data.label == k)).sum()) for k, label in enumerate(data.labels)
                }
                for split in sorted(set(np.unique(data.split).tolist()))
            },
        },
        "code": {"medge": medge.__version__, **_git_state()},
        "model": read_json(inputs["finetune"].folder / "model.json"),
        "recipe": {"sha256": sha256_of_json(recipe), "text": recipe},
        "validate_protocol_sha256": read_json(inputs["validate"].folder / "trials.json")["protocol_sha256"],
        "protocols_seen": [
            {key: entry[key] for key in ("protocol_sha256", "date")}
            for entry in protocol_log.seen(inputs["data"].folder.parent, data.sha256)
        ],
        "stages": {stage: inputs[stage].sha256 for stage in sorted(inputs)},
        "packages": {package: _version(package) for package in _PACKAGES},
        "python": sys.version.split()[0],
    }


def _engine_entry(engine: Engine, folder: str, *, requires: str) -> dict[str, Any]:
    return {
        "backend": engine.backend,
        "precision": engine.precision,
        "variant": engine.variant,
        "sha256": engine.sha256,
        "folder": folder,
        "files": [{**to_json(file), "path": f"{folder}/{file.path}"} for file in engine.files],
        "onnx_sha256": engine.onnx_sha256,
        "versions": engine.versions,
        "requires": requires,
    }


def _preprocess_entry(record: Preprocess, pattern: str) -> dict[str, Any]:
    return {
        **to_json(record),
        "engine_input": f"uint8 [1, {record.height}, {record.width}, 3], RGB; cast, layout, mean and standard "
        "deviation are inside the engine's graph",
        "pattern": pattern,
    }


def _tolerance(precision: str) -> dict[str, float]:
    """Of an unknown precision (an out-of-tree backend's) the widest."""
    return TOLERANCE.get(precision, TOLERANCE["int8"])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any]:
    """Commit, and whether the code differs from it, where medge runs from its own repository; else nothing."""
    root = Path(medge.__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "medge/__init__.py") is None:
        return {}
    return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "medge"))}
