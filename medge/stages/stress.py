"""Stress: what the chosen engine does off the beaten path, beside the float32 engine, and what it refuses to judge.

Writes `stress.json`, `ood.npy` (the table by which the bundle refuses unlike images), `ood.json` (its manifest entry
and the scores of the test images) and `saliency/*.png`. What is done is kept in `scratch/`, where a killed run
continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medge import built, console, engines, flip_pictures, refusal, robustness
from medge.data import dataset
from medge.data.files import images_below, state_of
from medge.engine_outputs import Runner
from medge.errors import GateFailed
from medge.records import Engine, read_json, write_json
from medge.runtime.child import write_npy
from medge.runtime.ood import Detector
from medge.sections import OodSection, StressSection
from medge.workspace import Inputs

__all__ = ["fingerprint", "run"]

Pair = tuple[Engine, Path]


def fingerprint(section: StressSection) -> str:
    """Sizes and times of the images in the recipe's sets."""
    folders = [Path(f).expanduser() for f in (section.ood.sets.values() if section.ood else ()) if f is not None]
    files = [folder / name for folder in folders if folder.is_dir() for name in images_below(folder)[0]]
    return state_of([*folders, *files]) if folders else ""


def run(section: StressSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Stresses the chosen engine and its reference. Raises GateFailed where none was chosen, ToolError where
    one dies."""
    choice = read_json(inputs["select"].folder / "choice.json")
    if choice["chosen"] is None:
        raise GateFailed("No engine was chosen, so there is nothing to stress.", fix="Loosen a limit: medge select.")
    if built.place_of(inputs, choice["chosen"]).built_there:
        return _not_run(section, choice, work)
    data = dataset.load(inputs["data"].folder)
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    for half in scratch.glob(".*"):
        half.unlink()
    runner = Runner(data, scratch)
    judged = read_json(inputs["validate"].folder / "trials.json")
    trial = judged["engines"][choice["chosen"]]["test"]
    pairs = _engines(inputs["compile"].folder, choice["chosen"])
    document: dict[str, Any] = {"schema": 1, "engine": pairs[1][0].name, "reference": pairs[0][0].name}
    document["corruptions"], document["ood"] = None, None
    detectors: dict[str, Detector] = {}
    if section.ood is not None:
        document["ood"], detectors = _ood(section.ood, pairs, runner, work, seed=seed)
    if section.corruptions is not None:
        cuts = (trial["cuts"]["float"], trial["cuts"]["used"])
        alpha = judged["protocol"]["alpha"]
        document["corruptions"] = robustness.measure(
            section.corruptions, runner, pairs, detectors, scratch, cuts=cuts, alpha=alpha, seed=seed
        )
    flips = trial["flips"]["rows"][: section.saliency]
    temperatures = (trial["temperature_float"], trial["temperature"])
    document["saliency"] = flip_pictures.draw(
        flips, runner, pairs, inputs["finetune"].folder, work, temperatures=temperatures
    )
    write_json(work / "stress.json", document)
    return _values(document)


def _not_run(section: StressSection, choice: dict[str, Any], work: Path) -> dict[str, Any]:
    """The document for an engine that only the device that built it can run: nothing was tried, and `not_run` says what
    the recipe asked for and why it was left."""
    name, device = choice["chosen"], choice["built_on"]["device"]
    asked = {
        "corrupted images": section.corruptions is not None,
        "the refusal of unlike images (the bundle judges any picture)": section.ood is not None,
        "pictures of where the model looks": section.saliency > 0,
    }
    what = [words for words, wanted in asked.items() if wanted]
    why = f"{name} was built on {device} and runs there only"
    document = {
        "schema": 1, "engine": name, "reference": None, "corruptions": None, "ood": None, "saliency": [],
        "not_run": {"what": what, "why": why},
    }  # fmt: skip
    if what:
        console.warn(f"{why}. Not tried: {'; '.join(what)}.")
    write_json(work / "stress.json", document)
    return _values(document)


def _engines(compile_folder: Path, chosen: str) -> tuple[Pair, Pair]:
    """The reference and the chosen engine. The reference is the uncompressed float32 one of the same backend, else the
    first float32 one, else the chosen one itself."""
    found = {engine.name: (engine, folder) for engine, folder in engines.load_all(compile_folder)}
    own = f"float/{found[chosen][0].backend}-float32"
    floats = [name for name, (e, _) in found.items() if (e.variant, e.precision) == ("float", "float32")]
    reference = own if own in floats else next(iter(floats), chosen)
    return found[reference], found[chosen]


def _ood(
    section: OodSection, pairs: tuple[Pair, Pair], runner: Runner, work: Path, *, seed: int
) -> tuple[dict[str, Any], dict[str, Detector]]:
    """The same procedure for both engines; the chosen one's table and manifest entry are written for the bundle."""
    sets = refusal.set_images(section, runner.data, runner.scratch, seed=seed)
    measured: dict[str, Any] = {}
    detectors: dict[str, Detector] = {}
    for engine, folder in dict((pair[0].name, pair) for pair in pairs).values():
        measured[engine.name], detectors[engine.name], scores = refusal.measure(
            section, engine, folder, runner, sets, seed=seed
        )
    name = pairs[1][0].name
    detector, entry = detectors[name], measured[name]
    _warn(entry, section.false_refusal_rate)
    about = {"method": section.method, "false_refusal_rate": section.false_refusal_rate}
    write_npy(work / "ood.npy", detector.table)
    manifest = {
        **about, **entry, "file": "ood.npy", "means": detector.means, "variance": detector.variance,
        "neighbours": detector.neighbours,
    }  # fmt: skip
    write_json(work / "ood.json", {"manifest": manifest, "test_scores": scores.tolist()})
    return {**about, "engines": measured}, detectors


def _warn(entry: dict[str, Any], rate: float) -> None:
    rule, test = entry["threshold_rule"], entry["test"]
    if not rule["guaranteed"]:
        console.warn(
            f"{rule['images']} validation images are too few for a false refusal rate of {rate:g}: the largest score "
            f"is the threshold, and up to {rule['upper']:.1%} of like images may be refused (95 % bound)."
        )
    for name, one in entry["sets"].items():
        console.stderr.print(f"  {name}: {one['refused']} of {one['images']} refused", markup=False)
    console.stderr.print(f"  test: {test['refused']} of {test['images']} refused though like", markup=False)


def _values(document: dict[str, Any]) -> dict[str, Any]:
    ood, corrupted = document["ood"], document["corruptions"]
    known = [row["difference"] for row in corrupted["rows"] if row["difference"] is not None] if corrupted else []
    return {
        "engine": document["engine"],
        "reference": document["reference"],
        "false_refusals": ood["engines"][document["engine"]]["test"]["rate"] if ood else None,
        "refused": {k: v["rate"] for k, v in ood["engines"][document["engine"]]["sets"].items()} if ood else {},
        "worst_auc_difference": min(known, default=None),
        "pictures": len(document["saliency"]),
        "not_run": document.get("not_run"),
    }
