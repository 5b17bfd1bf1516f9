"""profile.html: what the profile stage measured, in one file without the network."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medge.records import NOTICE, file_stem, read_json
from medge.report import costs, figures, profile_plots, there
from medge.report.gather import Found, checked
from medge.report.machine import machine
from medge.report.profile_plots import Readings, Timed
from medge.report.words import DASH, milliseconds, ratio
from medge.scenario_results import known_stability

__all__ = ["render", "stability_words"]

_VERDICTS = {"stable": ("✓", "pass"), "unstable": ("!", "fail"), "not measured": ("?", "unsure")}


def render(found: Found) -> str:
    """The page of a run whose profile stage is finished. Raises IntegrityError where its files are not whole."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medge.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    document = found.latency
    timed = _steady(found)
    blocks = [_of_blocks(one) for one in timed]
    samples = document["device"].get("samples", [])
    return environment.get_template("profile.html.j2").render(
        style=Markup(resources.files("medge.report").joinpath("page.css").read_text(encoding="utf-8")),
        notice=NOTICE,
        name=found.recipe.get("name", found.run.name),
        run=found.run.name,
        document=document,
        stability=stability_words(document),
        device=machine(document["device"]),
        power=document["device"].get("power") or None,
        rows=_rows(found),
        there=there.rows(found),
        distribution=_figure(profile_plots.distributions(timed) if timed else None),
        rounds=_figure(
            profile_plots.over_time("Latency over the rounds", blocks, None, unit="round") if blocks else None
        ),
        steady_machine=_machine_over_time(samples),
        soaks=_soaks(found),
        scenarios=_scenarios(document.get("scenarios", {})),
        sweep=[list(row.values()) for row in costs.sweep_rows(document)],
        front=_figure(figures.latency_plane(found) if found.choice else None),
        estimates=_estimates(document.get("estimates")),
    )


def stability_words(document: dict[str, Any]) -> dict[str, Any]:
    """The verdict on the machine with its symbol and reasons."""
    control = document["aa_control"]
    found = known_stability(document)
    symbol, style = _VERDICTS.get(found["verdict"], ("·", "none"))
    return {
        **found,
        "symbol": symbol,
        "style": style,
        "control": ratio(control, 3) if "ratio" in control else None,
        "engine": control.get("engine"),
        "tolerance": control.get("tolerance"),
    }


def _figure(text: str | None) -> Markup | None:
    return None if text is None else Markup(text)


def _steady(found: Found) -> list[Timed]:
    """Every engine's raw latencies of the steady scenario, the fastest first; none where raw values are not there."""
    timed = []
    for row in costs.latencies(found):
        path = f"raw/{file_stem(row['name'])}.csv"
        if not (found.folders["profile"] / path).is_file():
            return []
        with open(checked(found.folders["profile"], path, found.records["profile"]), encoding="utf-8") as stream:
            values = [(int(line["block"]), int(line["wall_ns"]) / 1e6) for line in csv.DictReader(stream)]
        blocks, wall = (np.asarray(column, dtype=np.float64) for column in zip(*values, strict=True))
        timed.append(Timed(row["name"], wall, blocks))
    return timed


def _of_blocks(one: Timed) -> Timed:
    """The medians of the blocks."""
    blocks = np.unique(one.at)
    medians = np.asarray([np.median(one.milliseconds[one.at == block]) for block in blocks])
    return Timed(one.label, medians, blocks)


def _readings(samples: list[dict[str, Any]]) -> Readings | None:
    if len(samples) < 2:
        return None

    def series(key: str, scale: float = 1.0) -> NDArray[np.float64]:
        return np.asarray([np.nan if s.get(key) is None else s[key] * scale for s in samples], dtype=np.float64)

    at = series("at_s")
    power, energy = series("power_mw", 1e-3), series("energy_uj", 1e-6)
    if np.isfinite(energy).sum() > 1:
        power = np.concatenate([[np.nan], np.diff(energy) / np.maximum(np.diff(at), 1e-9)])
        power[power < 0] = np.nan  # the counter wrapped around
    counts = [sum(s.get("throttle_counts", {}).values()) for s in samples]
    rises = np.diff(counts, prepend=counts[0]) > 0
    held_back = np.asarray([bool(s.get("throttled")) for s in samples]) | rises
    return Readings(at, series("temperature_c"), series("frequency_mhz"), power, held_back)


def _machine_over_time(samples: list[dict[str, Any]]) -> str:
    """In words, what the machine showed while the steady scenario ran."""
    readings = _readings(samples)
    if readings is None:
        return "Nothing was read from the machine while it was measured."
    words = []
    for name, values, unit in (
        ("temperature", readings.temperature_c, "°C"),
        ("clock", readings.frequency_mhz, "MHz"),
        ("power", readings.power_w, "W"),
    ):
        known = values[np.isfinite(values)]
        words.append(f"{name} not shown" if not known.size else f"{name} {known.min():.4g} to {known.max():.4g} {unit}")
    held = int(readings.held_back.sum())
    throttled = f"held back in {held} of {len(samples)} readings" if held else "no throttling seen"
    return f"While it was measured: {', '.join(words)}; {throttled}."


def _soaks(found: Found) -> list[dict[str, Any]]:
    """A figure for each engine that soaked."""
    if "soak" not in found.latency.get("scenarios", {}):
        return []
    raw = read_json(checked(found.folders["profile"], "raw/soak.json", found.records["profile"]))
    made = []
    for name, one in raw["engines"].items():
        medians = np.asarray([np.median(block) for block in one["wall_ns"]], dtype=np.float64) / 1e6
        timed = Timed(name, medians, np.asarray(one["at_s"], dtype=np.float64))
        figure = profile_plots.over_time(f"Soak of {name}", [timed], _readings(one["samples"]), tenths=True)
        made.append({"name": name, "figure": Markup(figure), **_soak_words(found.latency["scenarios"]["soak"], name)})
    return made


def _soak_words(soak: dict[str, Any], name: str) -> dict[str, Any]:
    one = soak["engines"][name]
    energy = one["energy"]
    symbol, style = _VERDICTS[one["verdict"]]
    return {
        "verdict": one["verdict"],
        "symbol": symbol,
        "style": style,
        "drift": ratio(one["drift"], 3) if one["drift"] else f"{DASH} ({one['note']})",
        "tolerance": one["tolerance"],
        "reasons": one["reasons"],
        "energy": f"{DASH} ({energy['reason']})"
        if energy["millijoules_per_image"] is None
        else f"{energy['millijoules_per_image']:.3g} mJ an image ({energy['of']}: {energy['mean_mw'] / 1000:.2f} W, "
        f"idle {energy['idle_mw'] / 1000:.2f} W)",
    }


def _rows(found: Found) -> list[dict[str, Any]]:
    """The table of latencies with what each scenario gave."""
    scenarios = found.latency.get("scenarios", {})
    rows = []
    for row in costs.latencies(found):
        of = {name: one["engines"].get(row["name"]) for name, one in scenarios.items()}
        sporadic, cold, soak = of.get("sporadic"), of.get("cold"), of.get("soak")
        rows.append(
            {
                **row,
                "sporadic": DASH if sporadic is None else milliseconds(sporadic["p50_ms"]),
                "cold_median": DASH if cold is None else milliseconds(cold["median_ms"]),
                "soak": DASH if soak is None else milliseconds(soak["p50_ms"]),
            }
        )
    return rows


def _scenarios(scenarios: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for an engine in a scenario, in words."""
    rows = []
    for scenario, measured in scenarios.items():
        for name, one in measured["engines"].items():
            if scenario == "cold":
                first, sample = milliseconds(one["median_ms"]), f"{one['starts']} starts"
                more = f"{milliseconds(one['lowest_ms'])} to {milliseconds(one['highest_ms'])} ms"
            else:
                first, sample = milliseconds(one["p50_ms"]), f"{one['queries']:,} images"
                percentiles = [f"{p} {milliseconds(one[f'{p}_ms'])}" for p in ("p90", "p95", "p99") if one[f"{p}_ms"]]
                more = ", ".join(percentiles) or "too few for more percentiles"
            if scenario == "sporadic" and one["times_steady"] is not None:
                more += f"; {one['times_steady']:.2f} times as long as steady"
            if scenario == "soak":
                more += f"; last over first tenth {ratio(one['drift'], 3) if one['drift'] else DASH}: {one['verdict']}"
            rows.append({"scenario": scenario, "name": name, "median": first, "sample": sample, "more": more})
        rows += [
            {"scenario": scenario, "name": name, "median": DASH, "sample": "failed", "more": why}
            for name, why in measured["failures"].items()
        ]
    return rows


def _estimates(estimates: dict[str, Any] | None) -> dict[str, Any] | None:
    if estimates is None:
        return None
    rows = [
        {
            "machine": machine_name,
            "variant": variant,
            "precision": one["precision"],
            "ms": f"{one['estimate_ms']:.2g}",
            "waiting": DASH if one["memory_bound_share"] is None else f"{100 * one['memory_bound_share']:.0f} %",
            "operations": f"{one['operations'] / 1e9:.2f}",
            "megabytes": f"{one['bytes'] / 1e6:.1f}",
            "source": of["source"],
        }
        for machine_name, of in estimates["machines"].items()
        for variant, one in of["variants"].items()
    ]
    error = estimates["error"]
    return {"rows": rows, "error": error, "ratios": sorted(error["measured_over_estimate"].items())}
