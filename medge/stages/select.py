"""Select: the operating point. Candidates are judged on validation; the chosen one's verdict on test is the stage's.

Writes `choice.json`: the chosen engine (null where none is left), its operating point, the sentence that says why,
and every candidate with what spoke against it; and `built.json`, the trials of engines that the device built, if any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medge import built, console, engines, predictions
from medge.errors import ToolError
from medge.predictions import Predictions, table_path
from medge.records import Engine, read_json, write_json
from medge.scenario_results import known_stability
from medge.sections import SelectSection
from medge.selection import Candidate, Choice, Limits, Ratios, choose, scaled_threshold
from medge.statistics.latency import Ratio
from medge.statistics.scores import positive_score, softmax
from medge.workspace import Inputs

__all__ = ["run"]


def run(section: SelectSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Chooses an engine and its operating point. Raises RecipeError for an unknown `engine`, ToolError where no engine
    has both predictions and latencies."""
    judged = read_json(inputs["validate"].folder / "trials.json")
    trials = judged["engines"]
    latency = read_json(inputs["profile"].folder / "latency.json")
    found = [engine for engine, _ in engines.load_all(inputs["compile"].folder)]
    folder = inputs["profile"].folder
    there = built.judged(folder, inputs["validate"].folder, latency, seed=seed)
    if there is not None:
        trials = {**trials, **there.trials}
        judged = {**judged, "engines": trials}
        found += [engine for engine, _ in built.load_all(folder)]
        write_json(work / built.FILE, {"schema": 1, "device": there.device, "engines": there.trials})
    candidates = [
        _candidate(engine, trials[engine.name]["validation"], latency["engines"][engine.name])
        for engine in found
        if engine.name in trials and engine.name in latency["engines"]
    ]
    if not candidates:
        raise ToolError("No engine has both predictions and latencies.", fix="See what validate and profile reported.")
    limits = Limits(**section.limits.model_dump())
    choice = choose(candidates, _ratios(latency), prefer=section.prefer, limits=limits, engine=section.engine)
    document = {**_document(choice, trials, section), "operating_point": None, **_built_there(there, latency)}
    document["sentence"] += _unsteady(latency)
    if choice.chosen is not None:
        document["operating_point"] = _operating_point(judged, choice.chosen.name)
        tables = built.place_of(inputs, choice.chosen.name).tables
        table = predictions.read(table_path(tables, choice.chosen.name, "validation"))
        _check_decisions(table, document["operating_point"], trials[choice.chosen.name]["validation"])
    write_json(work / "choice.json", document)
    return {key: document[key] for key in ("chosen", "verdict", "sentence", "operating_point")}


def _candidate(engine: Engine, validation: Mapping[str, Any], latency: Mapping[str, Any]) -> Candidate:
    metrics = validation["metrics"]["engine"]
    return Candidate(
        name=engine.name,
        verdict=validation["verdict"],
        auc=_number(metrics["auc"]["value"]),
        auc_lower=_number(metrics["auc"]["lower"]),
        sensitivity=_number(metrics.get("sensitivity", metrics["recall"])["value"]),
        p50_ms=latency["p50_ms"],
        p90_ms=latency["p90_ms"],
        bytes=engine.bytes,
        memory_mb=latency["peak_memory_mb"],
        compressed=(engine.variant, engine.precision) != ("float", "float32"),
    )


def _unsteady(latency: Mapping[str, Any]) -> str:
    """A warning where the machine was too restless for latencies to be compared; empty where it was not."""
    stability = known_stability(latency)
    if stability["verdict"] != "unstable":
        return ""
    reasons = f" ({'; '.join(stability['reasons'])})" if stability["reasons"] else ""
    return f" The latencies are unstable{reasons}: mend that and repeat medge profile."


def _built_there(there: built.Judged | None, latency: Mapping[str, Any]) -> dict[str, Any]:
    """Which candidates the device built, and which of its engines are none, with the reason, said aloud."""
    if there is None:
        return {}
    left_out = []
    for name, reason in there.not_judged.items():
        p50 = latency["engines"].get(name, {}).get("p50_ms")
        left_out.append({"name": name, "p50_ms": p50, "reason": reason})
        takes = "" if p50 is None else f" and takes {p50:.3g} ms"
        console.warn(f"{name} was built on {there.device}{takes}, but is no candidate: {reason}.")
    return {"built_on": {"device": there.device, "engines": sorted(there.trials), "not_candidates": left_out}}


def _number(value: float | None) -> float:
    """A bound that could not be computed is the worst one, so that it never wins by being absent."""
    return -math.inf if value is None else float(value)


def _ratios(latency: Mapping[str, Any]) -> Ratios:
    return {(a, b): Ratio(**ratio) for a, others in latency["ratios"].items() for b, ratio in others.items()}


def _document(choice: Choice, trials: Mapping[str, Any], section: SelectSection) -> dict[str, Any]:
    chosen, next_best = choice.chosen, choice.next_best
    verdict, sentence = "fail", choice.sentence
    if chosen is not None:
        test = trials[chosen.name]["test"]["verdict"]
        accepted = test == "inconclusive" and section.accept_inconclusive
        verdict = "fail" if not chosen.kept else "accepted" if accepted else test
        sentence += _confirmation(test, accepted=accepted)
        if verdict == "inconclusive" and chosen.verdict != "pass":
            sentence += _instead(choice)
    return {
        "chosen": None if chosen is None else chosen.name,
        "verdict": verdict,
        "sentence": sentence,
        "next_best": None if next_best is None else next_best.name,
        "prefer": section.prefer,
        "by_hand": section.engine is not None,
        "limits": section.limits.model_dump(),
        "candidates": [_row(candidate) for candidate in choice.candidates],
    }


def _confirmation(test: str, *, accepted: bool) -> str:
    words = {
        "pass": " On the test images the chosen engine is not worse than the float model.",
        "fail": " On the test images the chosen engine fails the gate.",
        "inconclusive": " On the test images the gate of the chosen engine is inconclusive"
        + (", which the recipe accepts." if accepted else ": more images are needed."),
    }
    return words[test]


def _instead(choice: Choice) -> str:
    """Which engine would have been chosen among those that pass on validation; empty where there is none."""
    passing = [c for c in choice.candidates if c.kept and c.verdict == "pass"]
    if not passing:
        return ""
    name = min(passing, key=lambda c: (c.p50_ms, c.name)).name
    return f" The fastest that passes on validation is {name}: medge select --engine {name}."


def _row(candidate: Candidate) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "name": candidate.name,
        "kept": candidate.kept,
        "reason": "; ".join(candidate.problems),
        "pareto": candidate.pareto,
        "validation": candidate.verdict,
        "auc": finite(candidate.auc),
        "auc_lower": finite(candidate.auc_lower),
        "sensitivity": finite(candidate.sensitivity),
        "p50_ms": candidate.p50_ms,
        "p90_ms": candidate.p90_ms,
        "bytes": candidate.bytes,
        "memory_mb": candidate.memory_mb,
    }


def _operating_point(judged: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Threshold on the probability after temperature; None, like `positive`, for more than two classes."""
    trial = judged["engines"][name]["validation"]
    plain, temperature = trial["thresholds"]["used"], trial["temperature"]
    return {
        "rule": judged["protocol"]["threshold"] if plain is not None else "most probable class",
        "threshold": None if plain is None else scaled_threshold(plain, temperature),
        "temperature": temperature,
        "positive": None if plain is None else judged["labels"][1],
    }


def _check_decisions(table: Predictions, point: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
    """The bundle's rule must decide as the trial did. Raises ToolError where rounding would change a decision."""
    if point["threshold"] is None:
        return
    # The cut, not the probability: beyond log odds of about 36 every probability is 1.
    judged = positive_score(table.logits) >= trial["cuts"]["used"]
    shipped = softmax(table.logits / point["temperature"])[:, 1] >= point["threshold"]
    changed = int(np.sum(judged != shipped))
    if changed:
        raise ToolError(
            f"The threshold after temperature decides {changed} of {len(table)} validation images otherwise.",
            fix="Scores lie closer to the threshold than float64 can tell apart: choose another validate.threshold.",
        )
