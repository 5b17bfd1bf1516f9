"""The same job on many devices at once, and how much they differ from unit to unit.

Writes `fleet.json`: per engine the median latency of each device, and of those medians the median, the range and the
coefficient of variation (standard deviation, n - 1, over mean; null for fewer than two); and whether each device was
steady, by the rule of `medge profile`: the spread between units is worth no more than that.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from medge import console, remote, remote_profile
from medge.device_book import Device
from medge.errors import MedgeError, ToolError
from medge.interleave import CONTROL, Series
from medge.recipe import Recipe
from medge.records import NOTICE, sha256_of_json, to_json, write_json
from medge.runtime.bench import latency_of
from medge.stages import profile
from medge.workspace import Inputs

__all__ = ["FILE", "measure", "show", "summary"]

FILE = "fleet.json"


def measure(devices: Sequence[Device], recipe: Recipe, inputs: Inputs, run: Path) -> dict[str, Any]:
    """Measures on all devices side by side. A device that fails is named and the others count. Raises ToolError where
    not one could."""
    found: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(devices)) as pool:
        scratch = Path(folder)
        first = remote_profile.make(recipe.profile, inputs, scratch, device=devices[0], seed=recipe.seed)
        jobs = {device.name: pool.submit(_one, device, first, scratch / device.name, recipe) for device in devices}
        for name, job in jobs.items():
            try:
                found[name] = job.result()
                console.stderr.print(f"{name}: measured", markup=False)
            except MedgeError as error:
                failures[name] = error.message
                console.warn(f"{name}: {error.message}")
    if not found:
        raise ToolError(f"Not one device could measure: {' '.join(failures.values())}", fix="medge devices doctor NAME")
    document = {**summary(found, seed=recipe.seed), "failures": failures}
    write_json(run / FILE, document)
    return document


def summary(found: Mapping[str, Mapping[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """From each device's result: {"devices": {name: about}, "engines": {engine: variance between units}}."""
    medians: dict[str, dict[str, float]] = {}
    for device, result in found.items():
        for name, one in ((result["measured"] or {}).get("series") or {}).items():
            if name != CONTROL:
                series = Series(**one)
                latency = latency_of(series.all_ns(), first_inference_ms=0.0, peak_memory_mb=None)
                medians.setdefault(name, {})[device] = latency.p50_ms
    about = {
        name: {
            "facts_sha256": sha256_of_json(result["device"]["facts"]),
            "cpu": result["device"]["facts"].get("cpu"),
            "board": result["device"]["facts"].get("board"),
            "power_mode": result["device"].get("before", {}).get("power_mode"),
            "stability": _stability(result, seed=seed),
            "failures": {engine: one["message"] for engine, one in result["failures"].items()},
        }
        for name, result in found.items()
    }
    return {"schema": 1, "devices": about, "engines": {name: _variance(of) for name, of in sorted(medians.items())}}


def _stability(result: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """The verdict on a device, with its reasons, as a profile of it alone would have."""
    measured = remote_profile.measured_of(result["measured"])
    series = {name: one for name, one in measured.series.items() if name != CONTROL}
    latencies = {
        name: to_json(latency_of(one.all_ns(), first_inference_ms=0.0, peak_memory_mb=None))
        for name, one in series.items()
    }
    samples = result["device"].get("samples", [])
    return profile.steadiness(measured, latencies, result.get("scenarios") or {}, samples, seed=seed)[-1]


def _variance(medians: Mapping[str, float]) -> dict[str, Any]:
    values = list(medians.values())
    spread = statistics.stdev(values) / statistics.mean(values) if len(values) > 1 else None
    return {
        "p50_ms": dict(medians),
        "units": len(values),
        "median_ms": round(statistics.median(values), 4),
        "min_ms": min(values),
        "max_ms": max(values),
        "cv": None if spread is None else round(spread, 5),
    }


def show(document: Mapping[str, Any], path: Path) -> None:
    """The tables of the devices and of what differs on stdout; what makes one unstable, what failed and where all of it
    is written on stderr."""
    devices = document["devices"]
    columns = ("device", "hardware", "stability")
    about = [(name, one["board"] or one["cpu"] or "-", one["stability"]["verdict"]) for name, one in devices.items()]
    console.stdout.print(console.table(columns, about, left=columns))
    rows = []
    for name, one in document["engines"].items():
        cv = "one unit" if one["cv"] is None else f"{100 * one['cv']:.1f} %"
        rows.append((name, str(one["units"]), *(f"{one[k]:.2f}" for k in ("median_ms", "min_ms", "max_ms")), cv))
    columns_of_engines = ("engine", "units", "median ms", "min", "max", "CV")
    console.stdout.print(console.table(columns_of_engines, rows, left=("engine",)))
    for name, one in devices.items():
        if one["stability"]["verdict"] != "stable":
            text = f"{name}: {one['stability']['verdict']}: {'; '.join(one['stability']['reasons'])}."
            console.stderr.print(text, markup=False, soft_wrap=True)
    for device, failure in document["failures"].items():
        console.stderr.print(f"{device}: {failure}", markup=False, soft_wrap=True)
    console.stderr.print(f"fleet {path}", markup=False, soft_wrap=True)
    console.say(f"[dim]{NOTICE}[/dim]")


def _one(device: Device, first: remote_profile.Made, scratch: Path, recipe: Recipe) -> dict[str, Any]:
    """The first device's job, as this device's own."""
    import uuid

    spec = replace(first.spec, id=uuid.uuid4().hex[:16], device=device.name, kind=device.kind)
    keep = recipe.profile.keep_on_device == "engines"
    finished = remote.run_job(
        device, spec, files=first.files, archive=first.archive, fetched=scratch / "fetched", keep=keep
    )
    return finished.result
