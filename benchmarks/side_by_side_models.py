"""The int8 models that benchmarks/quantise_side_by_side.py compares: made by each tool, started by medge's backends."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medge import engines, plugins
from medge.backends import OUTPUTS
from medge.errors import MedgeError
from medge.onnx_lowering import lower
from medge.records import Engine, file_record, read_json

__all__ = ["BOTH", "METHODS", "Method", "built", "make", "rules"]

MAKER = Path(__file__).with_name("quantise_peers.py")
INSTALL = 'python -m venv PEERS && PEERS/bin/pip install "optimum-intel[openvino,nncf]" olive-ai onnxruntime timm'


@dataclass(frozen=True)
class Method:
    """One way to quantise. `own`: medge's; `apart`: in the peers' environment."""

    what: str
    backends: tuple[str, ...]
    own: bool = False
    apart: bool = False


BOTH = ("openvino", "onnxruntime")
METHODS = {
    "medge-all-layers": Method("ptq with its defaults, before gate and rollback", BOTH, own=True),
    "nncf": Method("nncf.quantize, its defaults", ("openvino",)),
    "nncf-no-overflow-fix": Method("nncf.quantize, overflow_fix=DISABLE", ("openvino",)),
    "onnxruntime": Method("quantize_static, its defaults", BOTH),
    "onnxruntime-u8s8": Method("quantize_static, QDQ, uint8 activations, int8 weights per channel", BOTH),
    "optimum-intel": Method("OVQuantizer with OVQuantizationConfig()", ("openvino",), apart=True),
    "olive-onnx": Method("OnnxQuantizationPreprocess, OnnxStaticQuantization", BOTH, apart=True),
    "olive-openvino": Method("OpenVINOQuantization", ("openvino",), apart=True),
}


def make(name: str, chosen: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Has a tool make its model below `work`/made: {"seconds", "versions"}, or {"error", "install"}."""
    folder = work / "made" / name
    if (folder / "made.json").is_file():
        return dict(read_json(folder / "made.json"))
    apart = METHODS[name].apart
    if apart and chosen.peers_python is None:
        return {"error": "not installed here: no --peers-python", "install": INSTALL}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python = chosen.peers_python if apart else sys.executable
    command = [str(python), str(MAKER), name, str(work / "float.onnx"), str(work / "calibration.npy"), str(folder)]
    command += ["--finetuned", str(chosen.run / "2-finetune")]
    # No tool may send anything, nor ask a hub for anything.
    silent = {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "CI": "true"}
    print(f"{name}: {METHODS[name].what}", file=sys.stderr)
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **silent})
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"error": last, "install": INSTALL if apart else "pip install nncf openvino onnxruntime onnx"}
    return dict(read_json(folder / "made.json"))


def built(
    made: dict[str, dict[str, Any]], chosen: argparse.Namespace, work: Path
) -> tuple[list[tuple[Engine, Path]], dict[str, str]]:
    """The run's own engines and one of every made model and backend; and, by name, what a backend refused."""
    found = engines.load_all(chosen.run / "4-compile")
    problems = {}
    for name in made:
        for backend in METHODS[name].backends if "error" not in made[name] else ():
            try:
                found.append(engine_of(name, backend, work))
            except MedgeError as error:
                problems[f"{name}/{backend}-int8"] = error.message
    return found, problems


def engine_of(name: str, backend: str, work: Path) -> tuple[Engine, Path]:
    """A made model as an engine that medge's own backend starts; medge's graph is lowered for it first."""
    source, folder = work / "made" / name, work / "engines" / name / f"{backend}-int8"
    folder.mkdir(parents=True, exist_ok=True)
    names = ["model.xml", "model.bin"]
    if (source / "model.xml").is_file():
        for file in names:
            shutil.copyfile(source / file, folder / file)
    else:
        graph = source / "model.onnx"
        if METHODS[name].own:
            graph = work / f"{name}-{backend}.onnx"
            images = np.load(work / "calibration.npy")
            lower(source / "model.onnx", graph, rules(backend), calibration_images=images[:128])
        names = openvino_from_onnx(graph, folder) if backend == "openvino" else build(graph, folder, backend)
    files = tuple(file_record(folder, folder / file) for file in names)
    return Engine(name, backend, "int8", files, "", {}), folder


def rules(backend: str) -> Any:
    return plugins.load("backends", backend).QUANT


def build(graph: Path, folder: Path, backend: str) -> list[str]:
    names: list[str] = plugins.load("backends", backend).build(graph, folder, precision="int8")
    return names


def openvino_from_onnx(graph: Path, folder: Path) -> list[str]:
    """As medge's backend builds it, but no tensor except the outputs has a name: OpenVINO fuses ONNX Runtime's
    quantisers, whose names would then be the outputs' too, and the backend asks for any of them."""
    plugins.load("backends", "openvino").versions()  # imports openvino without its telemetry
    import openvino as ov

    model = ov.convert_model(str(graph))
    inputs = {port.get_node().get_friendly_name() for port in model.inputs}
    for op in model.get_ops():
        for port in op.outputs() if op.get_friendly_name() not in inputs else ():
            port.get_tensor().set_names(set())
    for port, name in zip(model.outputs, OUTPUTS, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    return ["model.xml", "model.bin"]
