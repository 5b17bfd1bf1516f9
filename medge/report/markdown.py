"""The model card and the change control plan: the records of a run in the shapes that readers of them know."""

from __future__ import annotations

import re
from typing import Any

import jinja2

import medge
from medge.records import NOTICE
from medge.report.fails import where_it_fails
from medge.report.gather import Found
from medge.report.head import caveats, head
from medge.report.several import corrected, spent
from medge.report.subgroups import subgroups
from medge.report.tables import checks, external, quantities
from medge.report.transfer import sentences
from medge.report.words import percent, signed

__all__ = ["change_control", "model_card"]


def model_card(found: Found) -> str:
    """Markdown after Mitchell et al., Model Cards for Model Reporting, FAT* 2019."""
    name = found.focus
    trial = None if name is None else found.judged[name]["test"]
    return _render(
        "model-card.md.j2",
        found,
        trial=trial,
        quantities=[] if name is None else quantities(found, name, "test"),
        subgroups=[] if name is None else subgroups(found, name),
        external=[] if name is None else external(found, name),
        checks=_checks(found, name),
        transfer=[] if name is None else sentences(found, name),
        spent=spent(found) if found.judged else "",
        caveats=caveats(found),
        splits=_splits(found),
    )


def change_control(found: Found) -> str:
    """Markdown in the parts of FDA's guidance on predetermined change control plans (for AI-enabled device software
    functions, December 2024): description of modifications, modification protocol, impact assessment."""
    protocol = found.recipe.get("validate", {})
    return _render(
        "change-control.md.j2",
        found,
        protocol=protocol,
        margins=_margins(protocol),
        limits={key: value for key, value in found.recipe.get("select", {}).get("limits", {}).items() if value},
        floor={k: v for k, v in found.recipe.get("finetune", {}).get("limits", {}).items() if v is not None},
        checks=_checks(found, found.focus),
        corrected=corrected(found) if found.judged else None,
        changes=_changes(found),
    )


def _render(template: str, found: Found, **keys: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medge.report", "."),
        autoescape=False,  # it is not HTML: `_plain` keeps a name from being read as a table, a tag or a link
        finalize=_plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = found.focus
    text = environment.get_template(template).render(
        name=found.recipe.get("name", found.run.name),
        run=found.run.name,
        notice=NOTICE,
        medge=medge.__version__,
        found=found,
        head=head(found),
        focus=name,
        engine=next((e for e in found.engines if e.name == name), None),
        latency=found.latency.get("engines", {}).get(name),
        labels=found.labels,
        fails=[] if name is None else where_it_fails(found, name),
        synthetic=bool(found.data.synthetic if found.data is not None else found.trials.get("synthetic")),
        **keys,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _plain(value: Any) -> str:
    """A value inside Markdown: one line, with what would begin a table cell, a tag, a link or emphasis escaped."""
    return re.sub(r"([|<\[\]*`])", r"\\\1", re.sub(r"\s*\n\s*", " ", str(value)))


def _checks(found: Found, name: str | None) -> list[dict[str, Any]]:
    """One row per check of an engine on test, as in the page."""
    if name is None:
        return []
    columns, rows = checks(found, "test")
    cells = next(row["cells"] for row in rows if row["name"] == name)
    return [{**cell, **column} for column, cell in zip(columns, cells, strict=True)]


def _splits(found: Found) -> list[dict[str, Any]]:
    if found.data is None:
        return []
    data = found.data
    rows = []
    for split in ("train", "validation", "test", "external"):
        at = data.indices(split)
        counts = [int((data.label[at] == k).sum()) for k in range(len(data.labels))]
        if len(at):
            rows.append({"split": split, "images": len(at), "groups": len({data.groups[k] for k in at}), "of": counts})
    return rows


def _margins(protocol: dict[str, Any]) -> list[tuple[str, str]]:
    """What an acceptable change must hold, from the recipe, in words."""
    words = {"auc": "AUC", "f1": "F1", "ece": "expected calibration error", "flips": "decisions that change"}
    by_class = {
        "sensitivity": "sensitivity (or recall of each class)",
        "accuracy": "accuracy (of three or more classes)",
    }
    rows = []
    for key, margin in protocol.get("margins", {}).items():
        name = {**words, **by_class}.get(key, key)
        if key == "flips":
            rows.append((name, f"at most {percent(margin)}"))
        elif key == "ece":
            rows.append((name, f"rises by at most {margin:g}"))
        else:
            rows.append((name, f"one-sided lower bound of the difference above {signed(margin)}"))
    return rows


def _changes(found: Found) -> list[dict[str, str]]:
    """The modifications that the recipe's own stages can make and test, with the command that does both."""
    backends = ", ".join(found.recipe.get("compile", {}).get("backends", {})) or "none named"
    variants = ", ".join(found.recipe.get("compress", {}).get("variants", {})) or "none named"
    run = found.run.name
    return [
        {
            "what": "Weights: fine-tuning again on more or newer images of the same kind, with the same classes",
            "how": "finetune, then every later stage",
            "command": f"medge run RECIPE --run {run}-NEXT, then medge compare {run} {run}-NEXT",
            "limit": "the float model's own limits, then all of the gate",
        },
        {
            "what": f"Compression: another chain, options or calibration images (now: {variants})",
            "how": "compress and every later stage, against the same float model",
            "command": f"medge compress --run {run}, compile, validate",
            "limit": "all of the gate, against the float model and never the previous engine",
        },
        {
            "what": f"Engine: another backend, version or precision (now: {backends})",
            "how": "compile, validate, profile, select",
            "command": f"medge compile --run {run}, validate, profile, select",
            "limit": "all of the gate and the limits of the choice",
        },
        {
            "what": "Operating point: threshold and temperature fitted again on validation images, by the same rule",
            "how": "validate and select; the engine's file does not change",
            "command": f"medge validate --run {run}, select",
            "limit": "sensitivity and specificity of the gate, at both thresholds",
        },
    ]
