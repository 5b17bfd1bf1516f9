"""The selftest of a job: what engines answered on a device against this host's answers to the same images.

An engine that this host has too is run here. One that the device built is not: it is held against the graph that it was
built from, as ONNX Runtime computes that here; so a plan that computes another thing than its graph is found, while the
trial of what it answered to the labelled images (medge.built) is what validates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medge import console, plugins, receipts
from medge.backends import QUANTISED, is_int8
from medge.errors import DataError, MedgeError, MissingError, ToolError
from medge.job.spec import Spec
from medge.records import Engine, file_record, sha256_of_file
from medge.runtime.child import logits_in_child
from medge.stages.compile import GRAPH

__all__ = ["run"]

_SAME, _GRAPH = "the same engine on this host", "its graph, by ONNX Runtime on this host"
_REFERENCE = "onnxruntime"


def run(
    spec: Spec, built: Sequence[Engine], answers: Mapping[str, Any], *, images: Path, compiled: Path, scratch: Path
) -> dict[str, Any]:
    """{engine: verdict, figures, and what it was compared `against`}; `not run` with its reason where this host has no
    answer of its own. `answers`: {engine: logits [n, classes] there}; `images`: the job's; `compiled`: the compile
    stage's folder."""
    found = {}
    for engine in [*spec.engines, *built]:
        there = answers.get(engine.name)
        if there is None:
            continue
        against = _GRAPH if engine in built else _SAME
        try:
            if engine in built:
                reference, folder = _of_graph(engine, compiled / engine.name / GRAPH, scratch / "graph")
            else:
                reference, folder = _own(engine), compiled / engine.name
            here = _answers(reference, folder, images, scratch / "here.npy")
        except MedgeError as error:
            found[engine.name] = {"verdict": receipts.NOT_RUN, "against": against, "reason": error.message}
            continue
        found[engine.name] = {**receipts.compared(here, there, precision=engine.precision), "against": against}
        if found[engine.name]["verdict"] == "fail":
            reason = found[engine.name]["reason"]
            console.warn(f"{engine.name} fails its selftest on {spec.device}, against {against}: {reason}.")
    return found


def _own(engine: Engine) -> Engine:
    """The engine itself. Raises MissingError where this host lacks its package."""
    lack = plugins.load("backends", engine.backend).missing(engine.precision)
    if lack is not None:
        raise MissingError(f"this host has no answer of its own. {lack}")
    return engine


def _of_graph(engine: Engine, graph: Path, folder: Path) -> tuple[Engine, Path]:
    """The graph of an engine as one that this host can run. Raises DataError where it is another graph by now,
    ToolError where ONNX Runtime does not take it."""
    if not graph.is_file() or sha256_of_file(graph) != engine.onnx_sha256:
        raise DataError("this host has no answer of its own: the graph is not the one that was built there")
    backend = plugins.load("backends", _REFERENCE)
    precision = QUANTISED if is_int8(engine.precision) else "float32"  # what is left in float runs in float32 here
    lack = backend.missing(precision)
    if lack is not None:
        raise MissingError(f"this host has no answer of its own. {lack}")
    try:
        names = backend.build(graph, folder, precision=precision)
    except ToolError as error:
        raise ToolError(f"this host has no answer of its own: {error.message}") from error
    files = tuple(file_record(folder, folder / name) for name in names)
    return Engine(engine.variant, _REFERENCE, precision, files, engine.onnx_sha256, backend.versions()), folder


def _answers(engine: Engine, folder: Path, images: Path, output: Path) -> Any:
    shape = np.load(images, mmap_mode="r").shape
    return logits_in_child(
        engine, folder, images=images, rows=range(shape[0]), height=shape[1], width=shape[2], threads=1, output=output
    )
