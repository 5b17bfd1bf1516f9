"""The stages before package as folders of plain files, around a small ONNX network made by hand: no training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medge import plugins, predictions
from medge.data import dataset
from medge.records import Engine, file_record, sha256_of_file, to_json, write_json, write_text
from medge.runtime.predict import predict_logits, start_engine
from medge.sections import CorruptionSection, StressSection
from medge.stages import stress
from medge.workspace import Stage
from tests.synthetic_run import write_data

__all__ = ["fake_inputs", "write_onnx"]


def write_onnx(path: Path, *, size: int) -> None:
    """uint8 [1, size, size, 3] -> logits [1, 2], features [1, 6]: means of the channels, then a linear layer; the
    features are the means and the standard deviations, so that a blank frame has others than any picture."""
    import onnx
    from onnx import TensorProto, helper

    weights = np.array([[0.02, -0.03], [0.01, 0.02], [-0.03, 0.02]], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMean", ["float"], ["wide"], axes=[1, 2], keepdims=1),
        helper.make_node("Sub", ["float", "wide"], ["rest"]),
        helper.make_node("Mul", ["rest", "rest"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variances"], axes=[1, 2], keepdims=0),
        helper.make_node("Sqrt", ["variances"], ["deviations"]),
        helper.make_node("Concat", ["means", "deviations"], ["features"], axis=1),
        helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, size, size, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 6]),
        ],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([0.1, -0.1], np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def fake_inputs(
    run: Path,
    *,
    size: int = 32,
    images: int = 60,
    synthetic: bool = True,
    backend: str = "onnxruntime",
    onnx: Path | None = None,
    precision: str = "float32",
    stressed: bool = True,
) -> dict[str, Stage]:
    """Every stage that package reads, in `run`. The float model is the engine itself: `onnx`, or the means."""
    names = ("data", "finetune", "compress", "compile", "validate", "profile", "select", "stress")
    stages = {name: _stage(run, k, name) for k, name in enumerate(names, start=1)}
    write_data(stages["data"].folder, images=images, size=size, synthetic=synthetic)
    for stage in stages.values():
        stage.folder.mkdir(parents=True, exist_ok=True)
    write_text(run / "recipe.yaml", "name: fake\nseed: 0\n")
    write_json(stages["finetune"].folder / "model.json", {"timm_name": "means", "weights": "none"})
    if onnx is None:
        onnx = run / "means.onnx"
        write_onnx(onnx, size=size)
    engine, folder = _write_engine(stages["compile"].folder, onnx, backend, precision)
    _write_predictions(stages, engine, folder)
    _write_judgement(stages, engine.name)
    if stressed:
        section = StressSection(corruptions=CorruptionSection(images=10, kinds=("jpeg",)), saliency=0)
        stress.run(section, stages, stages["stress"].folder, 0)
        shutil.rmtree(stages["stress"].folder / "scratch")
    return stages


def _stage(run: Path, number: int, name: str) -> Stage:
    values: Mapping[str, Any] = {}
    return Stage(name, run / f"{number}-{name}", f"{number:064x}", f"{number:064x}", values, 0.0, {}, False)


def _write_engine(compile_folder: Path, onnx: Path, backend: str, precision: str) -> tuple[Engine, Path]:
    variant = "int8" if precision == "int8" else "float"
    folder = compile_folder / variant / f"{backend}-{precision}"
    folder.mkdir(parents=True)
    module = plugins.load("backends", backend)
    files = tuple(file_record(folder, folder / name) for name in module.build(onnx, folder, precision=precision))
    engine = Engine(variant, backend, precision, files, sha256_of_file(onnx), module.versions())
    write_json(folder / "engine.json", to_json(engine))
    return engine, folder


def _write_predictions(stages: Mapping[str, Stage], engine: Engine, folder: Path) -> None:
    data = dataset.load(stages["data"].folder)
    session = start_engine(engine, folder, threads=1)
    tables = stages["validate"].folder / "predictions"
    tables.mkdir()
    for split in ("validation", "test"):
        rows = data.indices(split)
        table = data.predictions(rows, predict_logits(session, data.read(rows)))
        for name in ("float", engine.name.replace("/", "__")):
            predictions.write(tables / f"{name}-{split}.csv", table)


def _write_judgement(stages: Mapping[str, Stage], name: str) -> None:
    metric = {"value": 0.9, "lower": 0.8, "upper": 0.95}
    trial = {
        "verdict": "pass",
        "checks": [{"quantity": "auc", "verdict": "pass"}],
        "metrics": {"float": {"auc": metric}, "engine": {"auc": metric}},
        "confusion": {"float": [[1, 0], [0, 1]], "engine": [[1, 0], [0, 1]]},
        "flips": {"rate": 0.0, "count": 0, "rows": ["secret path"]},
        "cuts": {"float": -0.2, "used": -0.2},
        "temperature": 1.5,
        "temperature_float": 1.5,
    }
    trials = {
        "protocol": {"alpha": 0.05},
        "protocol_sha256": "5" * 64,
        "engines": {name: {"validation": trial, "test": trial}},
    }
    write_json(stages["validate"].folder / "trials.json", trials)
    latency = {"threads": 2, "engines": {name: {"p50_ms": 1.0}}, "ratio_to_float": {name: None}}
    write_json(stages["profile"].folder / "latency.json", latency)
    point = {"rule": "youden", "threshold": 0.45, "temperature": 1.5, "positive": "PNEUMONIA"}
    choice = {"chosen": name, "sentence": "It is the only one.", "operating_point": point}
    write_json(stages["select"].folder / "choice.json", choice)
