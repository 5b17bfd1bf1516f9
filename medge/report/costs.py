"""What engines cost in time, memory and size, and what spoke for or against each, as rows of text."""

from __future__ import annotations

from typing import Any

from medge.report.gather import Found
from medge.report.words import DASH, milliseconds, ratio, share, verdict_words
from medge.scenario_results import known_stability

__all__ = ["candidates", "latencies", "scenario_rows", "sweep_rows"]

Row = dict[str, Any]


def latencies(found: Found) -> list[Row]:
    """Latency, ratios with their intervals, memory and size of every engine, the fastest first."""
    rows = []
    slowest = max((one["p50_ms"] for one in found.latency["engines"].values()), default=1.0)
    for name, one in sorted(found.latency["engines"].items(), key=lambda item: item[1]["p50_ms"]):
        own = found.latency["ratio_to_float"].get(name)
        rows.append(
            {
                "name": name,
                "role": "chosen" if name == found.choice.get("chosen") else "other",
                "bar": round(100 * one["p50_ms"] / slowest, 1),
                **{key: milliseconds(one[key]) for key in ("p50_ms", "p90_ms", "p95_ms", "p99_ms")},
                "queries": f"{one['queries']:,}",
                "own": ratio(own),
                "own_to": own["to"] if own else "",
                "reference": ratio(found.latency["ratio_to_reference"].get(name)),
                "first": milliseconds(one["first_inference_ms"]),
                "cold": milliseconds(one["cold_start_ms"]),
                "memory": DASH if one["peak_memory_mb"] is None else f"{one['peak_memory_mb']:.0f}",
                "size": f"{one['bytes'] / 1e6:.2f}",
            }
        )
    return rows


def candidates(found: Found) -> list[Row]:
    """Every candidate, numbered, and what spoke against it: kept ones first, by latency."""
    ranked = sorted(found.choice["candidates"], key=lambda row: (not row["kept"], row["p50_ms"]))
    return [
        {
            **row,
            "number": number,
            "shown": found.named(row["name"]),
            "p50": milliseconds(row["p50_ms"]),
            "p90": milliseconds(row["p90_ms"]),
            "size": f"{row['bytes'] / 1e6:.2f}",
            "auc_text": share(row["auc"], 4),
            "lower_text": share(row["auc_lower"], 4),
            "sensitivity_text": share(row["sensitivity"]),
            "memory": DASH if row["memory_mb"] is None else f"{row['memory_mb']:.0f}",
            "verdict": verdict_words(row["validation"]),
            "role": "chosen" if row["name"] == found.choice["chosen"] else "other",
        }
        for number, row in enumerate(ranked, start=1)
    ]


def scenario_rows(found: Found) -> tuple[list[dict[str, str]], str | None]:
    """For a terminal: steady latencies, medians of the other scenarios that were measured, estimates of machines that
    are not here (marked so), and what makes the measurement unstable."""
    scenarios, estimates = found.latency.get("scenarios", {}), found.latency.get("estimates") or {"machines": {}}
    stability = known_stability(found.latency)
    rows = []
    for row in latencies(found):
        to_itself = found.latency["ratio_to_reference"].get(row["name"], {}).get("to") == row["name"]
        cells = {
            "engine": row["name"], "p50 ms": row["p50_ms"], "p90": row["p90_ms"],
            "x reference": "reference" if to_itself else row["reference"],
        }  # fmt: skip
        for name, key in (("sporadic", "p50_ms"), ("cold", "median_ms"), ("soak", "p50_ms")):
            if name in scenarios:
                one = scenarios[name]["engines"].get(row["name"])
                cells[f"{name} ms"] = DASH if one is None else milliseconds(one[key])
        soak = scenarios.get("soak", {}).get("engines", {}).get(row["name"])
        if "soak" in scenarios:
            cells["drift"] = DASH if soak is None or not soak["drift"] else ratio(soak["drift"])
        rows.append({**cells, "stability": stability["verdict"]})
    for machine, of in estimates["machines"].items():
        for variant, one in of["variants"].items():
            blank = {key: "" for key in rows[0]} if rows else {}
            name = f"{variant}, {one['precision']} on {machine}"
            rows.append({**blank, "engine": name, "p50 ms": f"~{one['estimate_ms']:.2g}", "stability": one["what"]})
    return rows, "; ".join(stability["reasons"]) if stability["verdict"] == "unstable" else None


def sweep_rows(latency: Row) -> list[dict[str, str]]:
    """Every (engine, batch size, threads) of a sweep in words; what was refused says why in the last column. A number
    of threads that is refused to all engines for one reason is one row."""
    rows = latency.get("scenarios", {}).get("sweep", {}).get("rows", [])
    refusals: dict[int, set[str | None]] = {}
    for row in rows:
        refusals.setdefault(row["threads"], set()).add(row["refused"])
    shown: list[Row] = []
    for row in rows:
        if len(rows) > 1 and len(refusals[row["threads"]]) == 1 and row["refused"]:
            row = {**row, "engine": "all engines", "batch_size": "all"}
        if row not in shown:
            shown.append(row)
    return [
        {
            "engine": row["engine"],
            "batch": str(row["batch_size"]),
            "threads": str(row["threads"]),
            "p50 ms a batch": DASH if row["p50_ms"] is None else milliseconds(row["p50_ms"]),
            "p90": DASH if row["p90_ms"] is None else milliseconds(row["p90_ms"]),
            "images/s": DASH if row["images_per_second"] is None else f"{row['images_per_second']:.1f}",
            "": row["refused"] or "",
        }
        for row in shown
    ]
