"""Profile: how fast and how heavy every engine is on a device, beside each other and beside the float engine.

Writes `latency.json`, `raw/<engine>.csv` (block, place in its round, query, wall_ns, cpu_ns of the block) and
`receipts/<engine>.json`; of other scenarios than steady `raw/<scenario>.json`, of estimates `estimates` in
`latency.json`, which nothing ranks. On a device other than `local` a job does the same there (medge.remote_profile).
"""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import console, engines, measuring, plugins, receipts, scenario_results, scenarios
from medge.data import dataset
from medge.errors import RecipeError, ToolError
from medge.interleave import CONTROL, Interleaved, Series
from medge.measuring import Conditions
from medge.records import Engine, file_stem, sha256_of_json, to_json, write_json
from medge.runtime.bench import BLOCK, latency_of
from medge.runtime.machine import cores_allowed, machine
from medge.sections import ProfileSection
from medge.statistics.latency import Ratio, paired_ratio
from medge.workspace import Inputs

__all__ = [
    "AA_TOLERANCE", "assemble", "conditions_of", "estimates", "fingerprint", "refuse_threads", "run", "steadiness",
    "values_of", "write_images", "write_raw", "write_raw_scenarios",
]  # fmt: skip

AA_TOLERANCE = 0.02  # the interval of one engine against itself within 1 +- this, or the machine was too restless
_IMAGES = 16  # real ones, in turn: sparse activations can be faster than noise


def fingerprint(section: ProfileSection) -> str:
    """The machine, on another one the same engines are measured again; and the form of a receipt, so that one of an
    earlier form is not kept."""
    if section.device != "local":
        from medge import remote_profile

        return sha256_of_json([receipts.SCHEMA, remote_profile.fingerprint(section)])
    facts = plugins.load("devices", section.device).facts()
    return sha256_of_json([receipts.SCHEMA, *(facts[key] for key in ("cpu", "cores", "board", "memory_mb"))])


def run(section: ProfileSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Measures every engine of the compile stage on `section.device`. Raises ToolError where not one could run."""
    if section.device != "local":
        from medge import remote_profile

        return remote_profile.run(section, inputs, work, seed)
    device = plugins.load("devices", section.device)
    found = engines.load_all(inputs["compile"].folder)
    refuse_threads(section, cores_allowed(), "this machine")
    threads = section.threads or cores_allowed()
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    images = write_images(inputs["data"].folder, scratch / "images.npy")
    facts = device.facts()
    with console.progress("profile", section.blocks, unit="rounds") as advance:
        measured = measuring.measure(
            device, found, images=images, threads=threads, seed=seed, logs=scratch, conditions=conditions_of(section),
            advance=advance, warn=console.warn,
        )  # fmt: skip
    if not set(measured.steady.series) - {CONTROL}:
        raise ToolError(
            "Not one engine could be measured: " + " ".join(measured.steady.failures.values()),
            fix="Run the engine by itself: medge validate; it says what the backend refuses.",
        )
    write_raw(work / "raw", measured.steady.series)
    write_raw_scenarios(work / "raw", measured.others)
    about = {"kind": section.device, "facts": facts, **measured.device}
    report = assemble(
        [engine for engine, _ in found], measured.steady, device=about, threads=threads, seed=seed,
        raw_scenarios=measured.others,
    )  # fmt: skip
    report["estimates"] = estimates(section, inputs, report)
    write_json(work / "latency.json", report)
    _write_receipts(work, [engine for engine, _ in found], report)
    return values_of(report)


def refuse_threads(section: ProfileSection, cores: int | None, where: str) -> None:
    """Raises RecipeError for a sweep over more threads than the machine has; `cores` is None where nobody knows."""
    asked = max(section.sweep.threads, default=0) if "sweep" in section.scenarios else 0
    if cores and asked > cores:
        raise RecipeError(
            f"--threads {asked} (profile.sweep.threads): {where} has {cores} {'core' if cores == 1 else 'cores'}.",
            fix=f"At most {cores}: --threads {cores}",
        )


def conditions_of(section: ProfileSection) -> Conditions:
    """What the section says of how to measure, in the light ring's words."""
    settings = {name: getattr(section, name).model_dump() for name in scenarios.SCENARIOS}
    return Conditions(
        section.blocks, section.seconds, section.warmup_seconds, section.scenarios, settings, section.power_mode,
        section.lock_clocks,
    )  # fmt: skip


def write_raw_scenarios(folder: Path, raw: dict[str, Any]) -> None:
    for name, measured in raw.items():
        (folder / f"{name}.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")


def estimates(section: ProfileSection, inputs: Inputs, report: dict[str, Any]) -> dict[str, Any] | None:
    """A roofline for each machine that was asked for, and how far the same method is off here; None if none was."""
    if not section.estimate:
        return None
    from medge import estimate, host_peak

    graphs = {path.parent.name: path for path in inputs["compress"].folder.glob("*/model.onnx")}
    host = None
    if section.device == "local":
        host = host_peak.host_machine(report["device"]["facts"]["cpu"] or "this machine", report["threads"])
    return estimate.report(graphs, section.estimate, host=host, measured=report["engines"])


def write_images(data_folder: Path, path: Path) -> Path:
    """A few validation images as a .npy file (time does not depend on which, and test images stay untouched)."""
    data = dataset.load(data_folder)
    np.save(path, data.read(data.indices("validation")[:_IMAGES]))
    return path


def _write_receipts(work: Path, found: list[Engine], report: dict[str, Any]) -> None:
    """Of this host: `validate` has run every image through the engine here, so no selftest is repeated."""
    machines = {e.name: machine(plugins.load("backends", e.backend).versions()) for e in found}
    done = {"verdict": receipts.NOT_RUN, "reason": "validate runs every image on this machine"}
    made = receipts.made_of(
        found, report, device="local", machines=machines, selftests=dict.fromkeys(machines, done), metrics={},
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"), seal=None,
    )  # fmt: skip
    receipts.write_all(work, made)


def write_raw(folder: Path, series: dict[str, Series]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # a killed attempt may have left other engines' values
    folder.mkdir()
    for name, one in series.items():
        with open(folder / f"{file_stem(name)}.csv", "w", encoding="utf-8", newline="") as stream:
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
    raw_scenarios: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What latency.json holds: latencies, the ratio of each pair of engines, what came of other scenarios
    (`raw_scenarios`), and whether the machine was steady enough, from the series alone."""
    series = {name: one for name, one in measured.series.items() if name != CONTROL}
    medians = {name: one.block_medians_ms() for name, one in series.items()}
    sizes = {engine.name: engine.bytes for engine in found}
    ratios = _all_ratios(medians, seed=seed)
    latencies = {name: {**_latency(one), "bytes": sizes[name]} for name, one in series.items()}
    control, others, stability = steadiness(
        measured, latencies, raw_scenarios or {}, device.get("samples", []), seed=seed
    )
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


def steadiness(
    measured: Interleaved, latencies: Mapping[str, Mapping[str, Any]], raw_scenarios: dict[str, Any],
    samples: list[Any], *, seed: int,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The A/A control, what came of the other scenarios, and the verdict on the machine that both lead to."""
    control = _control_of(measured, seed=seed)
    medians = {name: one["p50_ms"] for name, one in latencies.items()}
    others = scenario_results.summarise(raw_scenarios, medians, seed=seed)
    return control, others, scenario_results.stability(control, others, samples, engines=latencies)


def _control_of(measured: Interleaved, *, seed: int) -> dict[str, Any]:
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


def values_of(report: dict[str, Any]) -> dict[str, Any]:
    keys = ("p50_ms", "p90_ms", "peak_memory_mb", "bytes")
    return {
        "engines": {name: {key: one[key] for key in keys} for name, one in report["engines"].items()},
        "reference": report["reference"],
        "threads": report["threads"],
        "aa_control": report["aa_control"]["verdict"],
        "stability": report["stability"]["verdict"],
        "failures": report["failures"],
    }
