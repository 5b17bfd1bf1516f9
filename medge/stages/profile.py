"""Profile: how fast and how heavy every engine is on a device, beside each other and beside the float engine.

Writes `latency.json` and `raw/<engine>.csv` (block, place in its round, query, wall_ns, cpu_ns of the block); of other
scenarios than steady `raw/<scenario>.json`, of estimates `estimates` in `latency.json`, which nothing ranks.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import console, engines, interleave, plugins, scenario_results, scenarios
from medge.data import dataset
from medge.devices._power import powered
from medge.devices.local import run_here
from medge.errors import ToolError
from medge.interleave import CONTROL, Interleaved, Series
from medge.records import Engine, sha256_of_json, to_json, write_json
from medge.runtime.bench import BLOCK, latency_of
from medge.runtime.sampling import Sampler
from medge.sections import ProfileSection
from medge.statistics.latency import Ratio, paired_ratio
from medge.workspace import Inputs

__all__ = ["AA_TOLERANCE", "assemble", "fingerprint", "run"]

AA_TOLERANCE = 0.02  # the interval of one engine against itself within 1 +- this, or the machine was too restless
_IMAGES = 16  # real ones, in turn: sparse activations can be faster than noise


def fingerprint(section: ProfileSection) -> str:
    """The machine: on another one the same engines are measured again."""
    facts = plugins.load("devices", section.device).facts()
    return sha256_of_json([facts[key] for key in ("cpu", "cores", "board", "memory_mb")])


def run(section: ProfileSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Measures every engine of the compile stage on `section.device`. Raises ToolError where not one could run."""
    device = plugins.load("devices", section.device)
    found = engines.load_all(inputs["compile"].folder)
    threads = section.threads or _cores_allowed()
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    images = _write_images(inputs["data"].folder, scratch / "images.npy")
    facts, before = device.facts(), device.state()
    with powered(device, run_here, mode=section.power_mode, lock=section.lock_clocks) as power:
        with Sampler(device.sample) as sampler:
            measured = interleave.measure(
                found, images=images, threads=threads, section=section, seed=seed, logs=scratch
            )
        if not set(measured.series) - {CONTROL}:
            raise ToolError(
                "Not one engine could be measured: " + " ".join(measured.failures.values()),
                fix="Run the engine by itself: medge validate; it says what the backend refuses.",
            )
        raw = _other_scenarios(section, found, measured, images, threads, seed, scratch, device.sample)
    after = device.state()
    _write_raw(work / "raw", measured.series)
    _write_raw_scenarios(work / "raw", raw)
    device_facts = {
        "kind": section.device, "facts": facts, "before": before, "after": after, "power": power,
        "samples": sampler.samples,
    }  # fmt: skip
    report = assemble(
        [engine for engine, _ in found], measured, device=device_facts, threads=threads, seed=seed, scenarios=raw
    )
    report["estimates"] = _estimates(section, inputs, report)
    write_json(work / "latency.json", report)
    return _values(report)


def _other_scenarios(
    section: ProfileSection,
    found: list[tuple[Engine, Path]],
    measured: Interleaved,
    images: Path,
    threads: int,
    seed: int,
    logs: Path,
    sample: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Raw values of the scenarios besides steady, over the engines that lived through that one."""
    medians = {name: float(np.median(one.all_ns())) for name, one in measured.series.items() if name != CONTROL}
    return scenarios.run(
        section.scenarios,
        [pair for pair in found if pair[0].name in medians],
        settings={name: getattr(section, name).model_dump() for name in scenarios.SCENARIOS},
        fastest=min(medians, key=lambda name: (medians[name], name)),
        images=images,
        threads=threads,
        seed=seed,
        logs=logs,
        sample=sample,
        warn=console.warn,
    )


def _write_raw_scenarios(folder: Path, raw: dict[str, Any]) -> None:
    for name, measured in raw.items():
        (folder / f"{name}.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")


def _estimates(section: ProfileSection, inputs: Inputs, report: dict[str, Any]) -> dict[str, Any] | None:
    """A roofline for each machine that was asked for, and how far the same method is off here; None if none was."""
    if not section.estimate:
        return None
    from medge import estimate, host_peak

    graphs = {path.parent.name: path for path in inputs["compress"].folder.glob("*/model.onnx")}
    host = None
    if section.device == "local":
        host = host_peak.host_machine(report["device"]["facts"]["cpu"] or "this machine", report["threads"])
    return estimate.report(graphs, section.estimate, host=host, measured=report["engines"])


def _cores_allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_images(data_folder: Path, path: Path) -> Path:
    """A few validation images as a .npy file (time does not depend on which, and test images stay untouched)."""
    data = dataset.load(data_folder)
    np.save(path, data.read(data.indices("validation")[:_IMAGES]))
    return path


def _write_raw(folder: Path, series: dict[str, Series]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # a killed attempt may have left other engines' values
    folder.mkdir()
    for name, one in series.items():
        stem = name.replace("/", "__").replace(" ", "-")
        with open(folder / f"{stem}.csv", "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["block", "place", "query", "wall_ns", "block_cpu_ns"])
            for block, (wall, cpu, place) in enumerate(zip(one.wall_ns, one.cpu_ns, one.order, strict=True)):
                writer.writerows([block, place, query, value, cpu] for query, value in enumerate(wall))


def assemble(
    found: list[Engine],
    measured: Interleaved,
    *,
    device: dict[str, Any],
    threads: int,
    seed: int,
    scenarios: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What latency.json holds: latencies, the ratio of each pair of engines, what came of other scenarios (`scenarios`:
    their raw values), and whether the machine was steady enough, from the series alone."""
    series = {name: one for name, one in measured.series.items() if name != CONTROL}
    medians = {name: one.block_medians_ms() for name, one in series.items()}
    sizes = {engine.name: engine.bytes for engine in found}
    ratios = _all_ratios(medians, seed=seed)
    latencies = {name: {**_latency(one), "bytes": sizes[name]} for name, one in series.items()}
    control = _control(measured, seed=seed)
    others = scenario_results.summarise(
        scenarios or {}, {name: one["p50_ms"] for name, one in latencies.items()}, seed=seed
    )
    stability = scenario_results.stability(control, others, device.get("samples", []))
    for reason in stability["reasons"] if stability["verdict"] == "unstable" else []:
        console.warn(f"unstable: {reason}.")
    return {
        "device": device,
        "threads": threads,
        "queries_per_block": BLOCK,
        "blocks": measured.rounds,
        "seconds": measured.seconds,
        "reference": measured.reference,
        "engines": latencies,
        "ratio_to_float": {e.name: _to_own_float(e, ratios) for e in found if e.name in series},
        "ratio_to_reference": {name: _to(name, measured.reference, ratios) for name in series},
        "ratios": ratios,
        "aa_control": control,
        "scenarios": others,
        "stability": stability,
        "failures": measured.failures,
    }


def _all_ratios(medians: dict[str, NDArray[np.float64]], *, seed: int) -> dict[str, dict[str, Any]]:
    """{a: {b: ratio of a to b with its interval}} for every ordered pair."""
    ratios: dict[str, dict[str, Any]] = {name: {} for name in medians}
    for a, b in itertools.combinations(medians, 2):
        ratio = paired_ratio(medians[a], medians[b], seed=seed)
        ratios[a][b], ratios[b][a] = _rounded(ratio), _rounded(ratio.inverse())
    return ratios


def _rounded(ratio: Ratio) -> dict[str, float]:
    return {key: round(value, 5) for key, value in to_json(ratio).items()}


def _latency(one: Series) -> dict[str, Any]:
    latency = latency_of(one.all_ns(), first_inference_ms=one.first_inference_ms, peak_memory_mb=one.peak_memory_mb)
    wall = sum(one.all_ns())
    return {**to_json(latency), "cold_start_ms": one.cold_start_ms, "cpu_per_wall": round(sum(one.cpu_ns) / wall, 3)}


def _to_own_float(engine: Engine, ratios: dict[str, Any]) -> dict[str, Any] | None:
    """To the uncompressed float32 engine of the same backend; None where that was not measured."""
    return _to(engine.name, f"float/{engine.backend}-float32", ratios)


def _to(name: str, other: str | None, ratios: dict[str, Any]) -> dict[str, Any] | None:
    if other is None or other not in ratios:
        return None
    if name == other:
        return {"to": other, "ratio": 1.0, "lower": 1.0, "upper": 1.0}
    return {"to": other, **ratios[name][other]}


def _control(measured: Interleaved, *, seed: int) -> dict[str, Any]:
    """The same engine in two workers. `verdict`: stable, unstable, or not measured (with the reason)."""
    reference = measured.reference
    if reference is None or CONTROL not in measured.series or reference not in measured.series:
        reason = measured.failures.get(CONTROL) or "there is no measured float32 engine of the variant 'float'"
        return {"engine": reference, "verdict": "not measured", "reason": reason}
    ratio: Ratio = paired_ratio(
        measured.series[CONTROL].block_medians_ms(), measured.series[reference].block_medians_ms(), seed=seed
    )
    stable = ratio.lower >= 1 - AA_TOLERANCE and ratio.upper <= 1 + AA_TOLERANCE
    verdict = "stable" if stable else "unstable"
    return {"engine": reference, **_rounded(ratio), "tolerance": AA_TOLERANCE, "verdict": verdict}


def _values(report: dict[str, Any]) -> dict[str, Any]:
    keys = ("p50_ms", "p90_ms", "peak_memory_mb", "bytes")
    return {
        "engines": {name: {key: one[key] for key in keys} for name, one in report["engines"].items()},
        "reference": report["reference"],
        "threads": report["threads"],
        "aa_control": report["aa_control"]["verdict"],
        "stability": report["stability"]["verdict"],
        "failures": report["failures"],
    }
