"""From what the scenarios measured to figures and a verdict: is this machine steady enough to be believed?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medge.records import to_json
from medge.runtime.bench import latency_of
from medge.runtime.sampling import mean_power_mw, throttle_events
from medge.statistics.latency import drift

__all__ = ["DRIFT_TOLERANCE", "SPREAD_LIMIT", "known_stability", "stability", "summarise"]

DRIFT_TOLERANCE = 0.05  # the interval of last over first tenth of a soak within 1 +- this, or heat changes the answer
# Of 60 engines in measurements kept while this was written, quiet ones reached 1.8 and those on a machine that was busy
# with something else 2.5 to 11, where the A/A control still read 1 +- 0.02: it compares medians, which half of the
# images do not touch.
SPREAD_LIMIT = 2.0  # p90 over p50 of an engine, at most
_PERCENTILES = ("queries", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
_ENOUGH_BLOCKS = 50  # of a soak: five to each tenth


def summarise(raw: Mapping[str, Any], steady_p50_ms: Mapping[str, float], *, seed: int) -> dict[str, Any]:
    """`scenarios` of latency.json: {scenario: {settings, engines, failures}}, of a sweep also `rows`. `raw`: what
    `scenarios.run` returned."""
    found: dict[str, Any] = {}
    for name, measured in raw.items():
        rows = {"rows": [_swept(row) for row in measured["rows"]]} if name == "sweep" else {}
        if name == "sporadic":
            engines = {key: _sporadic(wall, steady_p50_ms.get(key)) for key, wall in measured["wall_ns"].items()}
        elif name == "cold":
            engines = {key: _cold(one) for key, one in measured["engines"].items()}
        elif name == "sweep":
            engines = {}
        else:
            engines = {key: _soak(one, seed=seed) for key, one in measured["engines"].items()}
        found[name] = {"settings": measured["settings"], "engines": engines, **rows, "failures": measured["failures"]}
    return found


def known_stability(latency: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on the machine in a `latency.json` and its reasons; one of before there was one has the A/A control's
    and no reason."""
    found: dict[str, Any] = latency.get("stability") or {"verdict": latency["aa_control"]["verdict"], "reasons": []}
    return found


def stability(
    control: Mapping[str, Any],
    scenarios: Mapping[str, Any],
    samples: Sequence[Any],
    *,
    engines: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """`verdict`: stable, unstable or not measured, and in words why. Unstable where the A/A control is, where the p90
    of one of `engines` (their latencies) is too far above its p50, where the machine throttled while it was measured,
    or where a soak drifted. One rule for every machine, measured here, over a link or from a stick."""
    reasons = []
    if control["verdict"] == "unstable":
        reasons.append(
            f"one engine measured twice gave a ratio of {control['ratio']:.3f} [{control['lower']:.3f}, "
            f"{control['upper']:.3f}], and 1 ± {control['tolerance']:g} is asked for"
        )
    reasons += _spread(engines)
    reasons += [f"the machine throttled while it was measured ({event})" for event in throttle_events(samples)]
    soaked = scenarios.get("soak", {}).get("engines", {})
    reasons += [f"the soak of {name}: {why}" for name, one in soaked.items() for why in one["reasons"]]
    if reasons:
        return {"verdict": "unstable", "reasons": reasons}
    if control["verdict"] != "stable":
        return {
            "verdict": "not measured",
            "reasons": [f"no A/A control: {control.get('reason', 'it was not measured')}"],
        }
    return {"verdict": "stable", "reasons": []}


def _spread(engines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One reason for all engines whose slow tenth is far from their median, the widest named; a p90 that the sample
    does not carry says nothing."""
    spreads = {name: one["p90_ms"] / one["p50_ms"] for name, one in engines.items() if one["p90_ms"] and one["p50_ms"]}
    wide = {name: spread for name, spread in spreads.items() if spread > SPREAD_LIMIT}
    if not wide:
        return []
    worst = max(wide, key=lambda name: (wide[name], name))
    return [
        f"the slowest tenth of the images took {wide[worst]:.1f} times the median or longer ({worst}; so "
        f"{len(wide)} of {len(engines)} engines), and {SPREAD_LIMIT:g} times is allowed"
    ]


def _percentiles(wall_ns: Sequence[int]) -> dict[str, Any]:
    latency = to_json(latency_of(wall_ns, first_inference_ms=0.0, peak_memory_mb=None))
    return {key: latency[key] for key in _PERCENTILES}


def _swept(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a sweep: milliseconds of a call, which answers a whole batch, and images a second over all calls."""
    found = {key: row[key] for key in ("engine", "batch_size", "threads", "refused")}
    wall = row["wall_ns"]
    if not wall:
        return {**found, "calls": 0, "p50_ms": None, "p90_ms": None, "images_per_second": None}
    figures = _percentiles(wall)
    rate = row["batch_size"] * len(wall) / (sum(wall) / 1e9)
    return {**found, "calls": len(wall), "p50_ms": figures["p50_ms"], "p90_ms": figures["p90_ms"],
            "images_per_second": round(rate, 2)}  # fmt: skip


def _sporadic(wall_ns: Sequence[int], steady_p50_ms: float | None) -> dict[str, Any]:
    found = _percentiles(wall_ns)
    times = None if not steady_p50_ms else round(found["p50_ms"] / steady_p50_ms, 3)
    return {**found, "times_steady": times}


def _cold(one: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    starts = one["cold_start_ms"]
    return {
        "starts": len(starts),
        "median_ms": round(statistics.median(starts), 1),
        "lowest_ms": min(starts),
        "highest_ms": max(starts),
        "first_inference_median_ms": round(statistics.median(one["first_inference_ms"]), 1),
    }


def _soak(one: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    wall = [value for block in one["wall_ns"] for value in block]
    found = {**_percentiles(wall), "seconds": one["at_s"][-1], "blocks": len(one["at_s"])}
    reasons = list(throttle_events(one["samples"]))
    ratio = None
    note: str | None = f"{len(one['wall_ns'])} blocks are too few to see a drift: at least {_ENOUGH_BLOCKS} are needed"
    if len(one["wall_ns"]) >= _ENOUGH_BLOCKS:
        note = None
        ratio = drift(np.asarray([statistics.median(block) for block in one["wall_ns"]], dtype=np.float64), seed=seed)
        if ratio.lower < 1 - DRIFT_TOLERANCE or ratio.upper > 1 + DRIFT_TOLERANCE:
            reasons.append(
                f"the last tenth took {ratio.ratio:.3f} [{ratio.lower:.3f}, {ratio.upper:.3f}] times as long as the "
                f"first, and 1 ± {DRIFT_TOLERANCE:g} is asked for"
            )
    return {
        **found,
        "drift": None if ratio is None else {key: round(value, 5) for key, value in to_json(ratio).items()},
        "tolerance": DRIFT_TOLERANCE,
        "verdict": "unstable" if reasons else "stable" if note is None else "not measured",
        "note": note,
        "reasons": reasons,
        "energy": _energy(one, mean_ms=statistics.fmean(wall) / 1e6),
    }


def _energy(one: Mapping[str, Any], *, mean_ms: float) -> dict[str, Any]:
    """(mean power while soaking - idle) x mean latency, in millijoules an image; null with the reason."""
    power, why = mean_power_mw(one["samples"])
    idle, why_idle = mean_power_mw(one["idle_samples"])
    of = next((sample["power_of"] for sample in one["samples"] if sample.get("power_of")), None)
    found: dict[str, Any] = {"millijoules_per_image": None, "of": of, "mean_mw": power, "idle_mw": idle}
    if power is None or idle is None:
        return {**found, "reason": why or f"idle: {why_idle}"}
    if power <= idle:
        return {**found, "reason": "the machine took no more power than when it was idle"}
    return {**found, "millijoules_per_image": round((power - idle) * mean_ms / 1000, 4), "reason": None}
