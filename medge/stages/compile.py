"""compile: every variant for every backend in every precision, as engine files beside an engine.json.

    <variant>/<backend>-<precision>/    engine files, parity.json (against torch), engine.json (written last)
    <variant>/<backend>-<precision>/graph.onnx, skipped.json    where the engine can only be built elsewhere

A folder with an engine.json is finished, so a killed stage goes on at the engine where it stopped. An engine that
cannot be built here is named with its reason, and its graph is proved as far as this machine can.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import calibration, console, engines, onnx_lint, onnx_lowering, parity, plugins, variants
from medge.backends import QUANTISED, is_int8, offered
from medge.data import dataset
from medge.data.dataset import DataSet
from medge.errors import IntegrityError, MissingError, RecipeError, ToolError
from medge.protocols import Backend
from medge.records import (
    Engine,
    file_record,
    read_json,
    sha256_of_file,
    sha256_of_json,
    verify_files,
    write_json,
)
from medge.sections import CompileSection
from medge.variants import CompressedVariant
from medge.workspace import Inputs

__all__ = ["fingerprint", "run"]

GRAPH, SKIPPED = "graph.onnx", "skipped.json"
_RANGE_IMAGES = 128  # of the calibration list, for ranges that NNCF's graph does not hold


def fingerprint(section: CompileSection) -> str:
    """What can be built here and with which versions: on another machine the stage is repeated."""
    facts: list[Any] = []
    for name, precisions in section.backends.items():
        backend = plugins.load("backends", name)
        lacks = {precision: backend.missing(precision) for precision in (*precisions, QUANTISED)}
        facts.append([name, lacks, backend.versions() if None in lacks.values() else None])
    return sha256_of_json(facts)


def run(section: CompileSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Returns {"engines": [names], "skipped": [{"variant", "backend", "precision", "reason", "graph"}], "parity":
    {name: figures}}. Raises RecipeError for an unknown precision, MissingError where nothing could be built, ToolError
    where a tool refuses a graph or a float32 engine disagrees with torch."""
    _check_precisions(section)
    stage = _Stage(dataset.load(inputs["data"].folder), inputs, work)
    built: list[str] = []
    skipped: list[dict[str, str]] = []
    figures: dict[str, Any] = {}
    for target in _targets(section, variants.load_all(inputs["compress"].folder)):
        lack = target.backend.missing(target.precision)
        if lack is not None:
            skipped.append(_skip(stage, target, lack))
            continue
        engine = _engine(stage, target)
        built.append(engine.name)
        figures[engine.name] = read_json(work / engine.name / parity.FILE)
        console.say(f"{engine.name}: {engine.bytes / 1e6:.2f} MB; {parity.sentence(figures[engine.name])}")
    if not built:
        reasons = "\n".join(f"  - {item['backend']} {item['precision']}: {item['reason']}" for item in skipped)
        raise MissingError(f"Not one engine can be built on this machine:\n{reasons}", fix="Name another backend.")
    return {"engines": built, "skipped": skipped, "parity": figures}


@dataclass(frozen=True)
class _Target:
    """One engine to build."""

    variant: CompressedVariant
    name: str  # the backend's
    backend: Backend
    precision: str

    @property
    def folder(self) -> str:
        return f"{self.variant.name}/{self.name}-{self.precision}"


@dataclass(frozen=True)
class _Stage:
    """What every engine is made from and checked with."""

    data: DataSet
    inputs: Inputs
    work: Path

    def source(self, variant: CompressedVariant) -> Path:
        return self.inputs["compress"].folder / variant.name / "model.onnx"

    def scratch(self, *parts: str) -> Path:
        """An empty folder that the end of the stage deletes."""
        folder = self.work.joinpath("scratch", *parts)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def calibration_images(self) -> NDArray[np.uint8]:
        """Training images of the list that compress used. Raises IntegrityError where that list has changed since."""
        listed = self.inputs["compress"].values["calibration"]
        path = Path(listed["path"])
        if not path.is_file() or sha256_of_file(path) != listed["sha256"]:
            raise IntegrityError(
                f"{path} is not the list that compress used.", fix="Make the variants again: medge compress."
            )
        return self.data.read(calibration.read(path, self.data)[:_RANGE_IMAGES])


def _check_precisions(section: CompileSection) -> None:
    for name, precisions in section.backends.items():
        known = offered(plugins.load("backends", name))
        for precision in precisions:
            if precision not in known:
                raise RecipeError(
                    f"Backend '{name}' has no precision '{precision}' that could be asked for.",
                    fix=f"{plugins.nearest(precision, known)} (Known: {', '.join(known)}; "
                    "quantised variants are int8 without being asked.)",
                )


def _targets(section: CompileSection, found: list[CompressedVariant]) -> Iterator[_Target]:
    for variant in found:
        for name, precisions in section.backends.items():
            backend: Any = plugins.load("backends", name)
            mixed = [precision for precision in precisions if is_int8(precision)]
            floats = [precision for precision in precisions if not is_int8(precision)]
            for precision in dict.fromkeys([QUANTISED, *mixed] if variant.quantised else floats):
                yield _Target(variant, name, backend, precision)


def _engine(stage: _Stage, target: _Target) -> Engine:
    """The engine of a target, built unless a finished one is there."""
    folder = stage.work / target.folder
    if (folder / engines.RECORD).is_file():
        engine = engines.load(folder)
        verify_files(folder, engine.files)
        return engine
    aside = stage.scratch(target.folder)
    graph = _lowered(stage, target, stage.scratch("graphs", target.folder) / GRAPH)
    names = target.backend.build(graph, aside, precision=target.precision)
    if not names:
        raise ToolError(f"Backend '{target.name}' built no file.", fix="Report this to the backend's author.")
    files = tuple(file_record(aside, aside / name) for name in sorted(names))
    made_with = target.backend.versions()
    engine = Engine(target.variant.name, target.name, target.precision, files, target.variant.onnx_sha256, made_with)
    tables = stage.inputs["compress"].folder / target.variant.name / "validation.csv"
    write_json(aside / parity.FILE, parity.measure(engine, aside, stage.data, tables, stage.scratch("parity")))
    engines.save(engine, aside)
    _move(aside, folder)
    return engine


def _lowered(stage: _Stage, target: _Target, path: Path) -> Path:
    """The variant's graph as the backend declares it, which has passed the lint."""
    rules = target.backend.QUANT
    images = stage.calibration_images() if target.variant.quantised and rules.quantize_conv_outputs else None
    onnx_lowering.lower(stage.source(target.variant), path, rules, calibration_images=images)
    onnx_lint.refuse(path, rules)
    return path


def _skip(stage: _Stage, target: _Target, lack: str) -> dict[str, str]:
    """What is skipped and why, said aloud; the graph is kept for the machine that can build it."""
    folder = stage.work / target.folder
    if (folder / SKIPPED).is_file():
        found: dict[str, str] = read_json(folder / SKIPPED)
        if found["reason"] == lack:
            return found
    aside = stage.scratch(target.folder)
    graph = _lowered(stage, target, aside / GRAPH)
    entry = {
        "variant": target.variant.name,
        "backend": target.name,
        "precision": target.precision,
        "reason": lack,
        "graph": _proof(target, graph),
    }
    write_json(aside / SKIPPED, entry)
    _move(aside, folder)
    console.warn(f"{target.folder} is skipped. {lack} Its graph: {entry['graph']}.")
    return entry


def _proof(target: _Target, graph: Path) -> str:
    """How far the graph is proved without the machine it is for. Raises ToolError where the check refuses it."""
    module = getattr(target.backend, "GRAPH_CHECK", None)
    if module is None:
        return "it passes the lint"
    checker = import_module(module)
    lack = checker.missing()
    if lack is not None:
        return f"it passes the lint; not checked further. {lack}"
    answer = checker.check(graph, precision=target.precision)
    if answer.failure:
        raise ToolError(f"{target.folder}: {answer.failure}", fix="Report this model to medge, or drop the backend.")
    return f"it passes the lint, and {checker.MODULE} {answer.version} parsed and built it ({answer.layers} layers)"


def _move(aside: Path, folder: Path) -> None:
    """Puts a finished folder in place of what a killed or older attempt left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(aside, folder)
