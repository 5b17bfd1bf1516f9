"""What a search leaves to be read: search.json (all outcomes), search.png (the front), searched.yaml (to be pasted)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medge import console
from medge.records import to_json, write_json, write_text
from medge.search import Found
from medge.search_trials import Outcome
from medge.sections import SearchSection, ValidateSection

__all__ = ["recipe_of", "summary", "write"]

_COLOURS = {"pass": "#1b7837", "inconclusive": "#e08214", "fail": "#b2182b"}


def write(found: Found, folder: Path, section: SearchSection, gate: ValidateSection) -> None:
    """The three files, and a table of the front on stderr; no searched.yaml where nothing was chosen."""
    about = {"sentence": found.sentence, "front": [o.key for o in found.front], "margin_auc": gate.margins.auc}
    chosen = None if found.chosen is None else found.chosen.key
    write_json(folder / "search.json", {**about, "chosen": chosen, "trials": to_json(found.outcomes)})
    _draw(found, folder / "search.png", gate.margins.auc)
    if found.chosen is not None:
        write_text(folder / "searched.yaml", recipe_of(found.chosen, section))
    _show(found)


def summary(found: Found) -> dict[str, Any]:
    """For the stage's record: what was chosen, or came nearest, and why."""
    best = found.chosen or found.nearest
    return {
        "verdict": found.chosen.verdict if found.chosen else "fail",
        "sentence": found.sentence,
        "trials": len(found.outcomes),
        "front": [o.words for o in found.front],
        "best": None if best is None else {"chain": best.chain, "precision": best.precision},
    }


def recipe_of(outcome: Outcome, section: SearchSection) -> str:
    """The keys of a recipe that make this engine again."""
    steps = [{s["compressor"]: s["options"]} if s["options"] else s["compressor"] for s in outcome.chain]
    keys: dict[str, Any] = {"compress": {"variants": {"searched": steps}}} if steps else {}
    floats = ["float32"] if outcome.precision == "int8" else list(dict.fromkeys(["float32", outcome.precision]))
    keys["compile"] = {"backends": {section.backend: floats}}
    text: str = yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110)
    return f"# Found by medge compress --search: {outcome.words}\n{text}"


def _draw(found: Found, path: Path, margin: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for verdict, colour in _COLOURS.items():
        points = [o for o in found.outcomes if o.verdict == verdict and o.latency]
        if points:
            axes.scatter(*_places(points), s=22, color=colour, label=verdict)
    if found.front:
        axes.plot(*_places(found.front), color="0.4", linewidth=1, drawstyle="steps-post", label="front")
    axes.axhline(margin, color="0.7", linestyle="--", linewidth=1)
    axes.set(xlabel="latency / float32 latency", ylabel="AUC difference, lower bound")
    if found.outcomes and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, format="png", metadata={"Software": None})
    aside.replace(path)


def _places(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    """Latency ratios and bounds of AUC."""
    judged = [(o.latency.ratio, o.auc_lower) for o in outcomes if o.latency and o.auc_lower is not None]
    return [x for x, _ in judged], [y for _, y in judged]


def _show(found: Found) -> None:
    from rich.table import Table

    table = Table(title="the front: no other chain is both faster and nearer in AUC", title_justify="left")
    for name in ("chain", "verdict", "latency", "AUC bound", "flips"):
        table.add_column(name, justify="left" if name in ("chain", "verdict") else "right")
    for o in found.front:
        ratio = "" if o.latency is None else f"{o.latency.ratio:.2f} [{o.latency.lower:.2f}, {o.latency.upper:.2f}]"
        mark = "* " if o is found.chosen else ""
        cells = (f"{mark}{o.words}", o.verdict, ratio, f"{o.auc_lower or 0:+.4f}", f"{o.flips or 0:.2%}")
        table.add_row(*(cell.replace("[", r"\[") for cell in cells))
    if found.front:
        console.stderr.print(table)
    console.stderr.print(found.sentence, markup=False)
