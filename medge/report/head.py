"""The first page, for the person who decides: the verdict, why, what it costs, and what to bear in mind."""

from __future__ import annotations

from typing import Any

from medge import protocol_log
from medge.gate import worst
from medge.report import tables
from medge.report.fails import where_it_fails
from medge.report.gather import Found
from medge.report.several import spent
from medge.report.transfer import sentences
from medge.report.words import count, interval, milliseconds, percent, ratio, share, signed, verdict_words
from medge.workspace import STAGES

__all__ = ["caveats", "head"]


def head(found: Found) -> dict[str, Any]:
    """The verdict, why, and what it costs: for the person who decides."""
    choice, name = found.choice, found.choice.get("chosen")
    if choice:
        verdict, sentence = choice["verdict"], choice["sentence"]
        title = name or "no engine"
    else:
        stopped = [(n, r["values"].get("verdict")) for n, r in found.records.items()]
        stopped = [(n, v) for n, v in stopped if v not in (None, "pass", "accepted")]
        done = [stage for stage in STAGES if stage in found.records]
        verdict = str(stopped[-1][1]) if stopped else "not finished"
        title = f"stopped at {stopped[-1][0]}" if stopped else "no engine chosen yet"
        sentence = f"Finished: {', '.join(done) or 'nothing yet'}."
        searched = found.records.get("compress", {}).get("values", {})
        if stopped and stopped[-1][0] == "compress" and "search" in searched:
            sentence = searched["search"]["sentence"]
    point = choice.get("operating_point")
    return {
        "verdict": verdict_words(verdict),
        "title": title,
        "sentence": sentence,
        "tiles": _tiles(found, name) if name else [],
        "undecided": tables.undecided(found, name) if name else [],
        "point": None if point is None else _point(found, point),
        "transfer": sentences(found, name) if name else [],
        "fails": where_it_fails(found, name) if name else [],
        "spent": spent(found) if found.judged else "",
        "bundle": found.records.get("package", {}).get("values", {}).get("bundle"),
    }


def _point(found: Found, point: dict[str, Any]) -> list[tuple[str, str]]:
    """The operating point as pairs of a name and a value."""
    chosen = next(e for e in found.engines if e.name == found.choice["chosen"])
    if point["threshold"] is None:
        decision = "the most probable class"
    else:
        decision = f"{point['positive']} where its probability is at least {point['threshold']:.4f}"
    return [
        ("decision", decision),
        ("rule", f"{point['rule']}, on validation images"),
        ("temperature", f"{point['temperature']:.3f} (divides the logits before the probability)"),
        ("engine", f"{chosen.name}, sha256 {chosen.sha256[:16]}…"),
        ("measured on", f"{_cpu(found)}, {count(found.latency['threads'], 'thread')}, one image at a time"),
    ]


def _cpu(found: Found) -> str:
    return str(found.latency["device"]["facts"].get("cpu") or "unknown processor")


_OTHER = {"carried": "refitted", "refitted": "carried"}


def _tiles(found: Found, name: str) -> list[dict[str, Any]]:
    trial = found.judged[name]["test"]
    float_metrics, metrics = trial["metrics"]["float"], trial["metrics"]["engine"]
    by_name = {check["quantity"]: check for check in trial["checks"]}
    keys = ("auc", "sensitivity", "specificity") if "sensitivity" in metrics else ("auc", "accuracy")
    tiles = []
    for key in keys:
        transfer = found.trials["protocol"]["transfer"]
        made = [by_name[n] for n in (key, f"{key}_{transfer}", f"{key}_{_OTHER[transfer]}") if n in by_name]
        used = made[0]
        tiles.append(
            {
                "name": _shown(key),
                "value": share(metrics[key]["value"]),
                "interval": interval(metrics[key]),
                "lines": [
                    f"float model {share(float_metrics[key]['value'])}",
                    f"difference {signed(used['difference'], 4)}, at least {signed(tables.deciding(used), 4)}",
                    f"margin {signed(used['margin'])}",
                ],
                "verdict": verdict_words(worst([check["verdict"] for check in made])),
            }
        )
    return [*tiles, _flip_tile(trial, by_name["flips"]), *_cost_tiles(found, name)]


def _flip_tile(trial: dict[str, Any], check: dict[str, Any]) -> dict[str, Any]:
    flips, images = trial["flips"], sum(trial["images"].values())
    lines = [f"{flips['count']:,} of {count(images, 'test image')}"]
    if flips.get("new_misses") is not None:
        lines.append(
            f"{count(flips['new_misses'], 'new miss', 'new misses')}, {count(flips['new_alarms'], 'new alarm')}"
        )
    lines.append(f"limit {percent(check['margin'])}")
    value = percent(flips["rate"], 2)
    return {
        "name": "changed decisions",
        "value": value,
        "interval": "",
        "lines": lines,
        "verdict": verdict_words(check["verdict"]),
    }


def _cost_tiles(found: Found, name: str) -> list[dict[str, Any]]:
    one, own = found.latency["engines"][name], found.latency["ratio_to_float"].get(name)
    p90 = [] if one["p90_ms"] is None else [f"p90 {milliseconds(one['p90_ms'])} ms"]
    against = [f"{ratio(own)} × float32 of the same backend"] if own and own["to"] != name else []
    float_size = next((e.bytes for e in found.engines if e.name == (own or {}).get("to")), None)
    size = [] if float_size is None else [f"{one['bytes'] / float_size:.2f} × float32"]
    memory = [] if one["peak_memory_mb"] is None else [f"{one['peak_memory_mb']:.0f} MB of memory at most"]
    latency = {"name": "median latency", "value": f"{milliseconds(one['p50_ms'])} ms", "lines": [*p90, *against]}
    file = {"name": "engine file", "value": f"{one['bytes'] / 1e6:.1f} MB", "lines": [*size, *memory]}
    return [{**tile, "interval": "", "verdict": None} for tile in (latency, file)]


def _shown(quantity: str) -> str:
    return "AUC" if quantity == "auc" else quantity


def caveats(found: Found) -> list[str]:
    """What the person who decides should bear in mind, each in one sentence."""
    notes = [f"The {name} stage is out of date and not shown: repeat medge {name}." for name in found.stale]
    for limit in found.records.get("finetune", {}).get("values", {}).get("limits", []):
        if limit["verdict"] != "pass":
            figures = f"{share(limit['value'], 4)} on validation, under the recipe's limit of {share(limit['limit'])}"
            notes.append(f"The float model reaches {_shown(limit['quantity'])} {figures}.")
    if found.data is not None and (caution := protocol_log.caution(protocol_log.seen(found.run, found.data.sha256))):
        notes.append(caution)
    control = found.latency.get("aa_control", {})
    if control.get("verdict") == "unstable":
        notes.append(
            f"The machine was restless: one engine measured twice gave a ratio of {ratio(control, 3)}, so "
            "differences in latency of that order mean nothing."
        )
    if control.get("verdict") == "not measured":
        notes.append(f"Latencies have no A/A control: {control['reason']}.")
    notes += [f"{message}" for message in found.latency.get("failures", {}).values()]
    values = found.records.get("data", {}).get("values", {})
    if values.get("near_duplicates"):
        notes.append(f"{count(values['near_duplicates'], 'pair')} of images of different groups look alike.")
    for item in found.records.get("compile", {}).get("values", {}).get("skipped", []):
        notes.append(f"Not built: {item['backend']} {item['precision']} ({item['reason']}).")
    return notes
