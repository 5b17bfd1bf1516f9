"""A run folder made of made-up numbers, in the form that the stages write: for tests of what reads runs."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from medge import engines, interleave, predictions
from medge.data import dataset
from medge.devices import local
from medge.interleave import Interleaved, Series
from medge.pipeline import PARENTS
from medge.recipe import Recipe, dump
from medge.records import Engine, File, sha256_of_file, to_json, write_json
from medge.sections import SelectLimits, SelectSection
from medge.stages import profile
from medge.stages import select as select_stage
from medge.trial import judge
from medge.workspace import STAGES, Inputs, Stage, step

LABELS = ("NORMAL", "PNEUMONIA")


def write_data(
    folder: Path, *, images: int, size: int, synthetic: bool = True, labels: tuple[str, ...] = LABELS
) -> None:
    """A data stage: blobs on noise, two images per group, split 40/20/40 by group."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    label = np.arange(images) // 2 % len(labels)
    pixels = _pictures(label, size, random)
    pixels.tofile(folder / "images.u8")
    splits = ["train", "train", "train", "validation", "validation", "test", "test", "train", "test", "test"]
    with open(folder / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "label", "group", "split", "sha256", "sex"])
        for k in range(images):
            group = k // 2
            name = labels[label[k]]
            split, sex = splits[group // len(labels) % 10], "FM"[group % 3 % 2]
            writer.writerow([f"{name}/{k:04d}.png", name, f"person{group:03d}", split, f"{k:064x}", sex])
    about = {
        "name": "phantom",
        "labels": list(labels),
        "synthetic": synthetic,
        "preprocess": {"width": size, "height": size, "resize": "squash", "interpolation": "bicubic"},
        "sha256": sha256_of_file(folder / "manifest.csv"),
    }
    write_json(folder / "dataset.json", about)


def _pictures(label: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    lungs = sum(np.exp(-(((x - cx) / 0.13) ** 2 + ((y - 0.5) / 0.3) ** 2)) for cx in (0.3, 0.7))
    pictures = []
    for positive in label:
        cx, cy = random.uniform(0.25, 0.75), random.uniform(0.3, 0.7)
        blob = positive * np.exp(-(((x - cx) / 0.1) ** 2 + ((y - cy) / 0.1) ** 2))
        grey = 190 - 120 * lungs + 70 * blob + random.normal(0, 8, (size, size))
        pictures.append(np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2))
    return np.stack(pictures)


@dataclass(frozen=True)
class Made:
    """An engine of the made-up run: how far its scores are from the float model's, and how long a run takes."""

    name: str
    noise: float
    milliseconds: float
    bytes: int
    memory_mb: float = 180.0


ENGINES = (
    Made("float/onnxruntime-float32", 1e-6, 9.1, 13_700_000, 142.0),
    Made("float/openvino-float32", 1e-6, 7.2, 13_650_000, 205.0),
    Made("float/openvino-bfloat16", 0.02, 4.8, 13_650_000, 211.0),
    Made("int8/onnxruntime-int8", 0.06, 5.3, 3_900_000, 119.0),
    Made("int8/openvino-int8", 0.05, 3.3, 4_100_000, 168.0),
    Made("pruned-int8/openvino-int8", 1.6, 2.2, 2_300_000, 151.0),
)


def write_run(
    run: Path,
    *,
    images: int = 1200,
    until: str = "select",
    select: SelectSection | None = None,
    synthetic: bool = True,
    labels: tuple[str, ...] = LABELS,
) -> Path:
    """A run folder with the stages up to `until`, each through `workspace.step`, so that records are real ones."""
    quick = {"bootstrap": 200}
    recipe = Recipe(name="made-up", validate=quick, select=select or SelectSection(limits=SelectLimits(size_mb=20)))
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(dump(recipe))
    done: dict[str, Stage] = {}
    for name in STAGES[: STAGES.index(until) + 1]:
        section = getattr(recipe, "validate_" if name == "validate" else name)
        inputs = {parent: done[parent] for parent in PARENTS[name]}
        drawn = partial(_data, images=images, synthetic=synthetic, labels=labels)
        module = SimpleNamespace(run=drawn if name == "data" else _WRITERS[name])
        done[name] = step(run, name, section, inputs, module, seed=0)
    return run


def _data(section: Any, inputs: Inputs, work: Path, seed: int, *, images: int, **keys: Any) -> dict[str, Any]:
    shutil.rmtree(work)
    write_data(work, images=images, size=48, **keys)
    (work / ".key").touch()
    return {"images": images, "pixel_identical": 0, "near_duplicates": 3, "notes": []}


def _finetune(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    epochs = [
        {"phase": "head" if k < 3 else "blocks", "epoch": k + 1 if k < 3 else k - 2, "loss": 0.6 * 0.7**k,
         "learning_rate": 1e-3, "unfrozen_blocks": max(0, k - 2), "validation_auc": 1 - 0.2 * 0.6**k,
         "validation_accuracy": 1 - 0.3 * 0.7**k, "validation_loss": 0.5 * 0.75**k}
        for k in range(8)
    ]  # fmt: skip
    write_json(work / "history.json", epochs)
    return {"verdict": "pass", "limits": [], "best": {"phase": "blocks", "epoch": 4}}


def _compress(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    for name in ("float", "int8", "pruned-int8"):
        (work / name).mkdir()
        (work / name / "model.onnx").write_bytes(b"")
        chain = [] if name == "float" else [{"compressor": "ptq", "options": {}}]
        variant = {
            "name": name,
            "quantised": bool(chain),
            "chain": chain,
            "log": ["12 layers quantised"],
            "verdict": "pass",
        }
        write_json(work / name / "variant.json", {**variant, "onnx_sha256": "0" * 64})
    return {"variants": ["float", "int8", "pruned-int8"]}


def _compile(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    for made in ENGINES:
        variant, target = made.name.split("/")
        backend, precision = target.split("-")
        folder = work / made.name
        folder.mkdir(parents=True)
        file = File("engine.bin", f"{made.bytes:064x}", made.bytes)
        versions = {backend: "1.2.3"}
        write_json(folder / "engine.json", Engine(variant, backend, precision, (file,), "0" * 64, versions))
    skipped = [{"backend": "tensorrt", "precision": "float16", "reason": "no NVIDIA driver here"}]
    return {"engines": [made.name for made in ENGINES], "skipped": skipped}


def _validate(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    data = dataset.load(inputs["data"].folder)
    random = np.random.default_rng(1)
    truth = np.eye(len(data.labels))[data.label] * 2.6
    logits = random.normal(truth, 1.2)
    (work / "predictions").mkdir()
    trials: dict[str, Any] = {}
    floats = {}
    for made in (None, *ENGINES):
        noisy = logits + (0 if made is None else random.normal(0, made.noise / 1.4, logits.shape))
        tables = {}
        for split in ("validation", "test"):
            rows = data.indices(split)
            tables[split] = data.predictions(rows, noisy[rows])
            stem = "float" if made is None else made.name.replace("/", "__")
            predictions.write(work / "predictions" / f"{stem}-{split}.csv", tables[split])
        if made is None:
            floats = tables
            continue
        trials[made.name] = {
            split: to_json(
                judge(
                    floats["validation"], tables["validation"], floats[split], tables[split], section=section, seed=seed
                )
            )
            for split in ("validation", "test")
        }
    about = {"schema": 1, "synthetic": data.synthetic, "labels": list(data.labels)}
    write_json(work / "trials.json", {**about, "protocol": section.model_dump(mode="json"), "engines": trials})
    return {"engines": {name: {split: t["verdict"] for split, t in both.items()} for name, both in trials.items()}}


def write_stress(folder: Path, *, flipped: list[str], engine: str = "int8/openvino-int8") -> None:
    """What a stress stage leaves: three kinds of corruption, refusals of two engines, pictures of the first flips."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k, kind in enumerate(("gaussian_noise", "defocus_blur", "jpeg_compression")):
        for severity in range(1, 6):
            auc = 0.97 - 0.02 * (k + 1) * severity - (0.2 if (k, severity) == (1, 5) else 0)
            rows.append({"kind": kind, "severity": severity, "auc_float": auc + 0.004, "auc_engine": auc,
                         "difference": -0.004, "lower": -0.011, "flips": 0.01 * severity})  # fmt: skip
    asked = {"images": 400, "refused": 8, "rate": 0.02, "lower": 0.01, "upper": 0.039}
    sets = {
        "skin": {"images": 200, "refused": 200, "rate": 1.0, "lower": 0.981, "upper": 1.0},
        "adult_x-rays": {"images": 150, "refused": 12, "rate": 0.08, "lower": 0.046, "upper": 0.135},
    }
    of_engine = {"threshold": 31.5, "validation": {"images": 240, "refused": 5}, "test": asked, "sets": sets}
    pictures = []
    for k, sha256 in enumerate(flipped):
        for what in ("cam", "difference"):
            Image.fromarray(np.full((64, 64, 3), 40 * k + 60, np.uint8)).save(folder / f"{what}-{k}.png")
        pictures.append({"sha256": sha256, "kind": "new miss", "grad_cam": f"cam-{k}.png",
                         "difference": f"difference-{k}.png"})  # fmt: skip
    document = {
        "schema": 1,
        "engine": engine,
        "reference": "float",
        "corruptions": {"images": 480, "rows": rows},
        "ood": {"method": "mahalanobis", "false_refusal_rate": 0.02, "engines": {engine: of_engine}},
        "saliency": pictures,
    }
    write_json(folder / "stress.json", document)


def _profile(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(2)
    machine = random.lognormal(0, 0.04, (100, 1))
    series = {}
    for made in (*ENGINES, ENGINES[1]):
        wall = made.milliseconds * machine * random.lognormal(0, 0.03, (100, 5)) * 1e6
        one = Series(made.name, made.milliseconds * 9 + 300, made.milliseconds * 9 + 420, made.memory_mb)
        one.wall_ns, one.cpu_ns = wall.astype(int).tolist(), (wall.sum(axis=1) * 1.9).astype(int).tolist()
        one.order = [0] * 100
        series[interleave.CONTROL if made.name in series else made.name] = one
    found = [engine for engine, _ in engines.load_all(inputs["compile"].folder)]
    report = profile.assemble(
        found,
        Interleaved(series, {}, "float/openvino-float32", 100, 17.2),
        device={"kind": "local", "facts": local.facts(), "before": local.state(), "after": local.state()},
        threads=2,
        seed=seed,
    )
    write_json(work / "latency.json", report)
    return {"reference": report["reference"]}


_WRITERS: dict[str, Any] = {
    "finetune": _finetune,
    "compress": _compress,
    "compile": _compile,
    "validate": _validate,
    "profile": _profile,
    "select": select_stage.run,
}
