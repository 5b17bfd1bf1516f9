"""The profile stage on another machine: the same measurement, done there by a job, read back in the same shape."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import medge
from medge import (
    console,
    conversation,
    device_book,
    device_scores,
    device_selftest,
    engine_caches,
    engines,
    plugins,
    predictions,
    receipts,
    remote,
)
from medge.data import dataset
from medge.device_book import Device
from medge.errors import ToolError
from medge.interleave import CONTROL, Interleaved, Series
from medge.job.spec import Graph, Labelled, Spec
from medge.link_errors import LinkCut, Unreachable
from medge.package_runtime import write_job
from medge.records import Engine, File, from_json, read_json, sha256_of_file, sha256_of_json, write_json
from medge.sections import ProfileSection
from medge.stages import profile
from medge.stages.compile import GRAPH, SKIPPED
from medge.workspace import Inputs

__all__ = ["Made", "facts_of", "fingerprint", "make", "measured_of", "run", "send"]

_FINGERPRINT = ("cpu", "cores", "board", "memory_mb")


@dataclass(frozen=True)
class Made:
    """A job ready to go: its spec, where its files lie by their sha256, and job.pyz."""

    spec: Spec
    files: dict[str, Path]
    archive: Path


def fingerprint(section: ProfileSection) -> str:
    """The machine, or the result that was brought from it. Raises MissingError where it was never reached."""
    if section.result is not None:
        return sha256_of_file(Path(section.result))
    facts = facts_of(device_book.find(section.device))
    return sha256_of_json([facts.get(key) for key in _FINGERPRINT])


def facts_of(device: Device) -> dict[str, Any]:
    """What the device is; where it does not answer now, what it was, with a warning. Raises MissingError."""
    kind = plugins.load("devices", device.kind)
    try:
        with conversation.connected(device) as agent:
            conversation.refuse_other_kind(agent, device)
            facts: dict[str, Any] = kind.facts(agent.output)
    except (LinkCut, Unreachable) as error:
        if device.facts is None:
            raise
        console.warn(f"{error.message} Taken for the machine that it was when it last answered.")
        return device.facts
    device_book.remember(device, facts)
    return facts


def run(section: ProfileSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Measures every engine of the compile stage on `section.device`, or reads what was brought from it."""
    device = device_book.find(section.device)
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    if section.result is not None:
        from medge import offline

        spec, result, fetched = offline.opened(Path(section.result), inputs, scratch)
    else:
        profile.refuse_threads(section, (device.facts or {}).get("cores"), device.name)
        made = make(section, inputs, scratch, device=device, seed=seed)
        finished = send(device, made, scratch / "fetched", section=section)
        spec, result, fetched = made.spec, finished.result, finished.folder
    device_book.remember(device, result["device"]["facts"])
    return write_stage(section, device, spec, result, fetched, inputs, work)


def make(section: ProfileSection, inputs: Inputs, scratch: Path, *, device: Device, seed: int) -> Made:
    """The job that measures a run's engines on a device. Writes its files below `scratch`."""
    found = engines.load_all(inputs["compile"].folder)
    files: dict[str, Path] = {}

    def listed(path: Path, name: str) -> File:
        file = File(name, sha256_of_file(path), path.stat().st_size)
        files[file.sha256] = path
        return file

    for engine, folder in found:
        files.update({file.sha256: folder / file.path for file in engine.files})
    graphs = tuple(
        Graph(entry["variant"], entry["backend"], entry["precision"], listed(path, GRAPH))
        for path, entry in _graphs(inputs["compile"].folder)
    )
    images = profile.write_images(inputs["data"].folder, scratch / "images.npy")
    caches, kept = engine_caches.load(
        device.name, backends=[graph.backend for graph in graphs],
        blobs_of=[engine.sha256 for engine, _ in found] if section.blob_cache else [],
    )  # fmt: skip
    files.update(kept)
    spec = Spec(
        id=uuid.uuid4().hex[:16],
        device=device.name,
        kind=device.kind,
        medge=medge.__version__,
        seed=seed,
        threads=section.threads,
        engines=tuple(engine for engine, _ in found),
        graphs=graphs,
        images=listed(images, "images.npy"),
        labelled=_labelled(section, inputs["data"].folder, scratch, listed),
        bench=profile.conditions_of(section),
        limit_seconds=section.limit_minutes * 60,
        caches=caches,
        blob_cache=section.blob_cache,
    )
    archive = scratch / "job.pyz"
    write_job(archive, sorted({engine.backend for engine in spec.engines} | {graph.backend for graph in graphs}))
    return Made(spec, files, archive)


def send(device: Device, made: Made, fetched: Path, *, section: ProfileSection) -> remote.Finished:
    """Does the job on the device, its progress on stderr."""
    with console.progress(f"profile on {device.name}", section.blocks, unit="rounds") as advance:

        def told(event: Mapping[str, Any]) -> None:
            if event["step"] == "measure":
                advance()
            elif event["step"] in ("failure", "link", "note"):
                console.warn(f"{device.name}: {event['text']}")

        return remote.run_job(device, made.spec, files=made.files, archive=made.archive, fetched=fetched, told=told,
                              keep=section.keep_on_device == "engines")  # fmt: skip


def write_stage(
    section: ProfileSection,
    device: Device,
    spec: Spec,
    result: Mapping[str, Any],
    fetched: Path,
    inputs: Inputs,
    work: Path,
) -> dict[str, Any]:
    """latency.json, raw/, receipts/, the engines that were built there, and predictions/ of a labelled set."""
    measured = measured_of(result["measured"])
    if not set(measured.series) - {CONTROL}:
        raise _nothing_measured(device, result["failures"])
    built = [from_json(Engine, item) for item in result["built"]]
    _keep_built(built, fetched, work)
    engine_caches.keep(device.name, result, fetched)
    profile.write_raw(work / "raw", measured.series)
    profile.write_raw_scenarios(work / "raw", result["scenarios"])
    about = {**result["device"], "name": device.name, "python": result["python"]}
    found = [*spec.engines, *built]
    report = profile.assemble(
        found, measured, device=about, threads=result["threads"], seed=spec.seed, raw_scenarios=result["scenarios"]
    )
    report["estimates"] = profile.estimates(section, inputs, report)
    report["failures"] = {**report["failures"], **{name: one["message"] for name, one in result["failures"].items()}}
    if result["clock_jump_seconds"]:
        console.warn(f"the clock of {device.name} jumped by {result['clock_jump_seconds']} s while it measured.")
        report["clock_jump_seconds"] = result["clock_jump_seconds"]
    write_json(work / "latency.json", report)
    images = profile.write_images(inputs["data"].folder, work / "scratch/images.npy")
    metrics, answers = device_scores.scored(spec, result["score"], inputs, work)
    selftests = device_selftest.run(
        spec,
        built,
        result["answers"],
        images=images,
        compiled=inputs["compile"].folder,
        scratch=work / "scratch",
    )
    receipts.write_all(
        work,
        receipts.made_of(
            found,
            report,
            device=device.name,
            seal=result["seal"],
            time=_now(),
            machines={name: one["machine"] for name, one in result["engines"].items()},
            selftests=selftests,
            metrics=metrics,
            answers=answers,
            caches=result.get("caches", []),
        ),
    )
    return {
        **profile.values_of(report),
        "device": device.name,
        "built": [engine.name for engine in built],
        "selftests": {name: one["verdict"] for name, one in selftests.items()},
        "scores": metrics,
    }


def _nothing_measured(device: Device, failures: Mapping[str, Mapping[str, str]]) -> ToolError:
    """Each reason once, with the engines that gave it, and each fix once."""
    by_reason: dict[str, list[str]] = {}
    for name, one in failures.items():
        by_reason.setdefault(one["message"], []).append(name)
    reasons = " ".join(f"{', '.join(names)}: {message}" for message, names in by_reason.items())
    fixes = dict.fromkeys(one["fix"] for one in failures.values() if one.get("fix"))
    fix = " ".join(fixes) or f"Does an engine package run there at all? medge devices doctor {device.name}"
    return ToolError(f"Not one engine could be measured on {device.name}: {reasons}", fix=fix)


def _graphs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Graphs that compile kept for a machine that can build them."""
    found = sorted(folder.glob(f"*/*/{SKIPPED}"))
    return [(path.parent / GRAPH, read_json(path)) for path in found if (path.parent / GRAPH).is_file()]


def _labelled(section: ProfileSection, data_folder: Path, scratch: Path, listed: Any) -> Labelled | None:
    if section.data_on_device is not None:
        return Labelled(Path(section.data_on_device).name, path=section.data_on_device)
    if section.score == "none":
        return None
    data = dataset.load(data_folder)
    rows = np.concatenate([data.indices(split) for split in device_scores.splits(section.score)])
    images, table = scratch / "labelled.npy", scratch / "labelled.csv"
    np.save(images, data.read(rows))
    empty = data.predictions(rows, np.zeros((len(rows), len(data.labels))))
    predictions.write(table, empty)
    return Labelled(section.score, listed(images, "labelled.npy"), listed(table, "labelled.csv"))


def measured_of(value: Mapping[str, Any] | None) -> Interleaved:
    """The interleaved series of a result; none of one that measured nothing."""
    if value is None:
        return Interleaved({}, {}, None, 0, 0.0)
    series = {name: Series(**one) for name, one in value["series"].items()}
    return Interleaved(series, value["failures"], value["reference"], value["rounds"], value["seconds"])


def _keep_built(built: Sequence[Engine], fetched: Path, work: Path) -> None:
    """`engines/<name>/` of what the device built: it is a device's own, and runs there only."""
    for engine in built:
        folder = work / "engines" / engine.name
        for file in engine.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.path).write_bytes((fetched / file.sha256).read_bytes())
        engines.save(engine, folder)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
