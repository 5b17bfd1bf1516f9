"""The page: what the template is filled with. Each section is None where its stage is not finished."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

import medge
from medge.records import NOTICE
from medge.report import benefit, costs, figures, pictures, stress, tables
from medge.report.gather import Found
from medge.report.head import caveats, head
from medge.report.machine import machine
from medge.report.profile_page import stability_words
from medge.report.several import corrected
from medge.report.subgroups import subgroups
from medge.report.ties import ties
from medge.report.words import count, percent, ratio, verdict_words

__all__ = ["render"]


def render(found: Found) -> str:
    """The whole page as HTML, with its style, figures and pictures inside it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medge.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("medge.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        style=Markup(style),
        notice=NOTICE,
        name=found.recipe.get("name", found.run.name),
        run=found.run.name,
        synthetic=_synthetic(found),
        head=head(found),
        caveats=caveats(found),
        validate=_validate(found),
        latency=_latency(found),
        select=_select(found),
        flips=_flips(found),
        stress=_stress(found),
        data=_data(found),
        training=_training(found),
        variants=tables.variants(found),
        provenance=_provenance(found),
    )


def _svg(text: str | None) -> Markup | None:
    return None if text is None else Markup(text)


def _synthetic(found: Found) -> bool:
    return bool(found.data.synthetic if found.data is not None else found.trials.get("synthetic", False))


def _validate(found: Found) -> dict[str, Any] | None:
    if not found.judged or found.focus is None:
        return None
    columns, rows = tables.engines_on_test(found)
    check_columns, check_rows = tables.checks(found, "test")
    trial = found.judged[found.focus]["test"]
    return {
        "focus": found.focus,
        "columns": columns,
        "rows": rows,
        "check_columns": check_columns,
        "check_rows": check_rows,
        "roc": _svg(figures.roc(found)),
        "differences": _svg(figures.auc_differences(found)),
        "reliability": _svg(figures.reliability(found)),
        "benefit": _benefit(found, found.focus),
        "ties": _ties(found),
        "corrected": _corrected(found),
        "confusion": [
            {"title": title, "matrix": trial["confusion"][key], "largest": max(map(max, trial["confusion"][key]))}
            for title, key in (("float model", "float"), (found.focus, "engine"))
        ],
        "labels": found.labels,
        "quantities": tables.quantities(found, found.focus, "test"),
        "external": tables.external(found, found.focus),
        "subgroups": subgroups(found, found.focus),
        "images": sum(trial["images"].values()),
        "counts": {found.labels[k]: n for k, n in enumerate(trial["images"].values())},
        "groups": trial["groups"],
        "repeated": trial["repeated"],
        "protocol": found.trials["protocol"],
        "mcnemar": trial["mcnemar"],
    }


def _benefit(found: Found, name: str) -> Markup | None:
    curves = benefit.benefit(found, name)
    return None if curves is None else Markup(benefit.drawn(curves))


def _ties(found: Found) -> list[dict[str, str]]:
    return [
        {
            "name": "float model" if name == "float" else name,
            "role": "chosen" if name == found.choice.get("chosen") else "other",
            "distinct": f"{one.distinct:,} of {one.images:,}",
            "tied": f"{one.tied_images:,}",
            "pairs": percent(one.tied_pairs, 3),
            "bound": f"± {one.auc_bound:.5f}",
        }
        for name, one in ties(found).items()
    ]


def _corrected(found: Found) -> dict[str, Any]:
    made = corrected(found)
    rows = [
        {"name": name, **{key: verdict_words(one[key]) for key in ("alone", "bonferroni", "holm")}}
        for name, one in made["engines"].items()
    ]
    return {
        "tests": made["tests"],
        "alpha": f"{made['alpha']:g}",
        "rows": rows,
        "each": f"{made['bonferroni_alpha']:.3g}",
    }


def _stress(found: Found) -> dict[str, Any] | None:
    if not found.stress:
        return None
    return {
        "corruptions": stress.corruptions(found),
        "ood": stress.ood(found),
        "not_run": stress.not_run(found),
    }


def _latency(found: Found) -> dict[str, Any] | None:
    if not found.latency:
        return None
    document = found.latency
    control = document["aa_control"]
    return {
        "rows": costs.latencies(found),
        "reference": document["reference"],
        "blocks": document["blocks"],
        "queries": document["queries_per_block"],
        "seconds": document["seconds"],
        "threads": document["threads"],
        "control": {**control, "text": ratio(control, 3) if "ratio" in control else None},
        "stability": stability_words(document),
        "device": machine(document["device"]),
    }


def _select(found: Found) -> dict[str, Any] | None:
    if not found.choice:
        return None
    words = {"p90_ms": "p90 ≤ {:g} ms", "size_mb": "file ≤ {:g} MB", "memory_mb": "memory ≤ {:g} MB"}
    words["sensitivity"] = "sensitivity ≥ {:g}"
    limits = [words[name].format(value) for name, value in found.choice["limits"].items() if value is not None]
    return {
        "rows": costs.candidates(found),
        "dropped": any(not row["kept"] for row in found.choice["candidates"]),
        "plane": _svg(figures.latency_plane(found)),
        "prefer": found.choice["prefer"],
        "limits": limits,
        "by_hand": found.choice["by_hand"],
        "built_on": found.choice.get("built_on"),
    }


def _flips(found: Found) -> dict[str, Any] | None:
    if found.focus is None:
        return None
    ledger = found.judged[found.focus]["test"]["flips"]
    kinds = {k: n for k, n in ledger.items() if k not in ("rate", "count", "rows") and n is not None}
    return {
        "engine": found.focus,
        "rows": pictures.flips(found, found.focus, "test"),
        "saliency": {item["sha256"]: item for item in stress.saliency(found)},
        "count": ledger["count"],
        "rate": percent(ledger["rate"], 2),
        "counts": [count(n, _singular(kind), kind.replace("_", " ")) for kind, n in kinds.items()],
        "binary": len(found.labels) == 2,
    }


def _singular(kinds: str) -> str:
    """`new_misses` -> `new miss`."""
    words = kinds.replace("_", " ")
    return words.removesuffix("es") if words.endswith("misses") else words.removesuffix("s")


def _data(found: Found) -> dict[str, Any] | None:
    if found.data is None:
        return None
    data, values = found.data, found.records["data"]["values"]
    splits = [split for split in ("train", "validation", "test", "external") if (data.split == split).any()]
    rows = []
    for split in splits:
        at = data.indices(split)
        by_class = Counter(data.label[at].tolist())
        groups = len({data.groups[k] for k in at.tolist()})
        counts = [f"{by_class[k]:,}" for k in range(len(data.labels))]
        rows.append({"split": split, "images": f"{len(at):,}", "groups": f"{groups:,}", "counts": counts})
    size = data.preprocess
    return {
        "name": data.name,
        "labels": data.labels,
        "rows": rows,
        "preprocess": f"{size.width} × {size.height} px, {size.resize}, {size.interpolation}",
        "identical": values.get("pixel_identical"),
        "near": values.get("near_duplicates"),
        "notes": values.get("notes", []),
        "sha256": data.sha256,
    }


def _training(found: Found) -> dict[str, Any] | None:
    plot = figures.training(found)
    if plot is None and not found.model:
        return None
    phases = [epoch["phase"] for epoch in found.history]
    begins = [k for k, phase in enumerate(phases) if k == 0 or phase != phases[k - 1]]
    words = ", then ".join(f"{phases[k]} from epoch {k + 1}" for k in begins)
    return {
        "plot": _svg(plot),
        "phases": words,
        "model": [(k.replace("_", " "), str(v)) for k, v in found.model.items()],
    }


def _provenance(found: Found) -> dict[str, Any]:
    stages = [
        {"name": name, "seconds": f"{record['seconds']:,.1f}", "sha256": record["sha256"]}
        for name, record in found.records.items()
    ]
    engines = [
        {
            "name": engine.name,
            "sha256": engine.sha256,
            "bytes": f"{engine.bytes:,}",
            "versions": ", ".join(f"{k} {v}" for k, v in engine.versions.items()),
        }
        for engine in found.engines
    ]
    recipe = json.dumps(found.recipe, indent=2, default=str)
    return {"stages": stages, "engines": engines, "recipe": recipe, "medge": medge.__version__}
