"""What a job does on the device, in order: lay out the engines, build, selftest, score, measure. Light ring.

An engine that is refused, or whose process dies, is a result: it is named under `failures` and the others go on.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from medge import plugins
from medge.devices._kind import looks_like, refuse_other
from medge.errors import DataError, IntegrityError, MedgeError, MissingError, ToolError
from medge.job.caches import Caches
from medge.job.files import link
from medge.job.labelled import labelled_set
from medge.job.spec import Graph, Spec
from medge.measuring import Measured, measure
from medge.records import (
    Engine,
    File,
    file_record,
    from_json,
    read_json,
    sha256_of_json,
    to_json,
    verify_files,
    write_json,
)
from medge.runtime.child import logits_in_child
from medge.runtime.machine import cores_allowed, machine

__all__ = ["Steps"]

Tell = Callable[[Dict[str, Any]], None]


class Steps:
    """One job in its folder. `stores` are searched for files named by their sha256; `out` takes those to bring home;
    `kept` is the store in which an engine that was built here may be found by the next job, None where nothing stays.
    """

    def __init__(
        self, spec: Spec, folder: Path, stores: List[Path], out: Path, tell: Tell, *, kept: Optional[Path] = None
    ) -> None:
        self._spec, self._folder, self._stores, self._out, self._tell = spec, folder, stores, out, tell
        self._kept = kept
        self._threads = spec.threads or cores_allowed()
        self._failures: Dict[str, Dict[str, str]] = {}
        self._engines: List[Tuple[Engine, Path]] = []

    def run(self) -> Dict[str, Any]:
        """Everything but the result's frame. Raises MedgeError where the job as a whole cannot be done."""
        looks = self._refuse_other_kind()
        kind = plugins.load("devices", self._spec.kind)
        images = self._file(self._spec.images)
        if np.load(str(images), mmap_mode="r").dtype != np.uint8:
            raise DataError("The job's images are not uint8.", fix="Make the job again.")
        asked = self._spec.labelled  # what is wrong with it is known before anything takes long
        labelled = None if asked is None else labelled_set(asked, images, self._folder, find=self._file)
        if labelled is not None:
            self._tell({"step": "labelled", "images": len(labelled[1]["label"])})
        facts = kind.facts()
        caches = Caches(
            self._spec, self._folder, self._out, cpu=facts.get("cpu"), find=self._file,
            note=lambda text: self._tell({"step": "note", "text": text}),
        )  # fmt: skip
        self._lay_out()
        built = self._build(caches)
        self._drop_unready()
        for engine, folder in self._engines:
            caches.before_start(engine, folder, plugins.load("backends", engine.backend))
        named = self._folder / "images.npy"
        link(images, named)
        answers = self._answers(named, step="selftest")
        scores = None
        if labelled is not None:
            path, about = labelled
            scores = {**about, "logits": self._answers(path, step="score")}
        measured = self._measure(kind, named)
        return {
            "device": {
                "kind": self._spec.kind,
                "looks_like": looks,
                "facts": facts,
                **(measured.device if measured else {}),
            },
            "facts_sha256": sha256_of_json(facts),
            "threads": self._threads,
            "engines": {engine.name: self._about(engine) for engine, _ in self._engines},
            "built": built,
            "answers": answers,
            "score": scores,
            "measured": None if measured is None else asdict(measured.steady),
            "scenarios": {} if measured is None else measured.others,
            "failures": self._failures,
            "caches": caches.collected(),
        }

    def _refuse_other_kind(self) -> str:
        """What this machine looks like. Raises MissingError where that is not the kind of the job."""
        looks, name = looks_like(), self._spec.device
        fix = (
            f"On the machine that made the job: medge devices remove {name}; add it again with --kind {looks}, and "
            "make the job again."
        )
        refuse_other(name, self._spec.kind, looks, fix=fix)
        return looks

    def _about(self, engine: Engine) -> Dict[str, Any]:
        versions = plugins.load("backends", engine.backend).versions()
        return {"sha256": engine.sha256, "machine": machine(versions)}

    def _lay_out(self) -> None:
        for engine in self._spec.engines:
            folder = self._folder / "engines" / engine.name
            for file in engine.files:
                link(self._file(file), folder / file.path)
            verify_files(folder, engine.files)
            self._engines.append((engine, folder))

    def _file(self, file: File) -> Path:
        """A file by its sha256, checked. Raises IntegrityError."""
        for store in self._stores:
            if (store / file.sha256).is_file():
                verify_files(store, [File(file.sha256, file.sha256, file.bytes)])
                return store / file.sha256
        raise DataError(f"{file.path} did not come with the job.", fix="Repeat the command; export the job again.")

    def _build(self, caches: Caches) -> List[Dict[str, Any]]:
        """Engines that can only be built here; their files are left in `out`, named by their sha256."""
        built = []
        for number, graph in enumerate(self._spec.graphs, start=1):
            self._tell(
                {"step": "build", "text": f"build {graph.name}", "done": number, "total": len(self._spec.graphs)}
            )
            try:
                engine = self._build_one(graph, caches)
            except MedgeError as error:
                self._fail(graph.name, error)
                continue
            folder = self._folder / "engines" / engine.name
            self._engines.append((engine, folder))
            self._out.mkdir(exist_ok=True)
            for file in engine.files:
                link(folder / file.path, self._out / file.sha256)
            built.append(to_json(engine))
        return built

    def _build_one(self, graph: Graph, caches: Caches) -> Engine:
        backend = plugins.load("backends", graph.backend)
        lack = backend.missing(graph.precision)
        if lack is not None:
            raise MissingError(lack)
        made_with = backend.versions()
        pin: Dict[str, str] = getattr(backend, "cache_pin", dict)()  # the GPU, its driver: a plan is of these too
        key = sha256_of_json([graph.backend, graph.precision, graph.file.sha256, made_with, pin])
        folder = self._folder / "engines" / graph.name
        found = self._kept_build(key, folder)
        if found is not None:
            return replace(found, variant=graph.variant)  # another name's graph may have been the same
        source = self._folder / "graphs" / graph.name / "graph.onnx"
        link(self._file(graph.file), source)
        folder.mkdir(parents=True)
        caches.before_build(graph, backend, source)
        names = backend.build(source, folder, precision=graph.precision)
        caches.after_build(graph, backend, source)
        files = tuple(file_record(folder, folder / name) for name in sorted(names))
        engine = Engine(graph.variant, graph.backend, graph.precision, files, graph.file.sha256, made_with)
        if self._kept is not None:
            for file in files:
                shutil.copyfile(str(folder / file.path), str(self._kept / file.sha256))
            write_json(self._kept / f"built-{key}.json", engine)
        return engine

    def _kept_build(self, key: str, folder: Path) -> Optional[Engine]:
        """An engine that an earlier job built here from the same graph with the same versions, whole; else None."""
        record = None if self._kept is None else self._kept / f"built-{key}.json"
        if record is None or not record.is_file():
            return None
        try:
            engine = from_json(Engine, read_json(record))
            for file in engine.files:
                link(self._file(file), folder / file.path)
        except (DataError, IntegrityError):
            shutil.rmtree(str(folder), ignore_errors=True)
            return None
        return engine

    def _drop_unready(self) -> None:
        """Engines whose package this device lacks. Raises MissingError where no engine is left."""
        ready = []
        for engine, folder in self._engines:
            lack = plugins.load("backends", engine.backend).missing(engine.precision)
            if lack is None:
                ready.append((engine, folder))
            else:
                self._fail(engine.name, MissingError(lack))
        self._engines = ready
        if not ready:
            reasons = "; ".join(sorted({failure["message"] for failure in self._failures.values()}))
            only_missing = all(failure["kind"] == "MissingError" for failure in self._failures.values())
            error = MissingError if only_missing else ToolError
            raise error(f"Not one engine can run on this device: {reasons or 'the job has none'}.",
                        fix="Install one engine package there, for the python that medge uses: medge devices doctor "
                        + self._spec.device)  # fmt: skip

    def _answers(self, images: Path, *, step: str) -> Dict[str, Any]:
        """{engine: logits [n][classes]} of every image, each engine in a process of its own. Those that fail are
        dropped from what is measured."""
        shape = np.load(str(images), mmap_mode="r").shape
        found = {}
        engines = list(self._engines)
        for number, (engine, folder) in enumerate(engines, start=1):
            event = {"step": step, "done": number, "total": len(engines), "text": f"{step} {engine.name}",
                     "images": shape[0]}  # fmt: skip
            self._tell(event)
            try:
                logits = logits_in_child(
                    engine, folder, images=images, rows=range(shape[0]), height=shape[1], width=shape[2],
                    threads=self._threads, output=self._folder / "logits.npy",
                    advance=_each_second(self._tell, event),
                    seconds=self._spec.limit_seconds,
                )  # fmt: skip
            except MedgeError as error:
                self._fail(engine.name, error)
                self._engines.remove((engine, folder))
                continue
            found[engine.name] = np.asarray(logits, dtype=np.float64).round(9).tolist()
        return found

    def _measure(self, kind: Any, images: Path) -> Optional[Measured]:
        if self._spec.bench is None or not self._engines:
            return None
        rounds = self._spec.bench.blocks
        done = [0]

        def advance() -> None:
            done[0] += 1
            self._tell({"step": "measure", "done": done[0], "total": max(rounds, done[0])})

        logs = self._folder / "logs"
        logs.mkdir(exist_ok=True)
        return measure(
            kind, self._engines, images=images, threads=self._threads, seed=self._spec.seed, logs=logs,
            conditions=self._spec.bench, advance=advance, warn=lambda text: self._tell({"step": "note", "text": text}),
            begin=lambda name: self._tell({"step": "scenario", "text": name}),
        )  # fmt: skip

    def _fail(self, name: str, error: MedgeError) -> None:
        self._tell({"step": "failure", "text": f"{name}: {error.message}"})
        self._failures[name] = {"kind": type(error).__name__, "message": error.message, "fix": error.fix}


def _each_second(tell: Tell, event: Dict[str, Any]) -> Callable[[int], None]:
    """Counts images, and tells of them in `image` not more often than once a second."""
    seen, told = [0], [time.monotonic()]

    def advance(units: int = 1) -> None:
        seen[0] += units
        if time.monotonic() - told[0] >= 1:
            told[0] = time.monotonic()
            tell({**event, "image": seen[0]})

    return advance
