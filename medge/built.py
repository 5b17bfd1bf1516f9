"""Engines that a device built during profile, in `6-profile/engines/`: native code of that machine, judged by what this
very engine answered there on the validation and test images (`profile.score: both`). This host never runs them.

`select` writes their trials to `built.json`, in the form of validate's `trials.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medge import engines, predictions, receipts
from medge.errors import DataError, IntegrityError
from medge.predictions import FLOAT, Predictions, table_path
from medge.receipts import Receipt
from medge.records import Engine, read_json, sha256_of_file, to_json
from medge.sections import ValidateSection
from medge.trial import judge
from medge.workspace import Inputs

__all__ = [
    "FILE",
    "Judged",
    "Place",
    "judged",
    "load_all",
    "place_of",
    "refuse_changed_answers",
    "trials_of",
]

FILE = "built.json"
_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Judged:
    """trials: {engine: {split: Trial as JSON}}; not_judged: {engine: a sentence}; device: where they were built."""

    device: str
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_judged: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where an engine's files and its predictions lie. built_there: on the device of the profile stage."""

    engine: Engine
    folder: Path
    tables: Path
    built_there: bool


def load_all(profile_folder: Path) -> list[tuple[Engine, Path]]:
    """Every engine that the device of a profile stage built, with its own folder, by name; none on this machine."""
    found = profile_folder / "engines"
    return engines.load_all(found) if any(found.glob(f"*/*/{engines.RECORD}")) else []


def judged(profile_folder: Path, validate_folder: Path, latency: Mapping[str, Any], *, seed: int) -> Judged | None:
    """The trials of the engines that were built there, by the protocol that validate used; None where none was built.

    An engine is not judged without its receipt, without having been measured, or without its answers on both sets:
    the answers and the receipt come from one result of that device. Raises IntegrityError for a changed receipt, and
    for answers that are not those of it.
    """
    found = load_all(profile_folder)
    if not found:
        return None
    document = read_json(validate_folder / "trials.json")
    device = str(latency["device"].get("name", latency["device"]["kind"]))
    section = ValidateSection(**document["protocol"])
    result = Judged(device)
    floats = {split: predictions.read(table_path(validate_folder, FLOAT, split)) for split in _SPLITS}
    for engine, _ in found:
        reason = _unfit(engine, profile_folder, latency, device)
        if reason is None:
            tables = {split: predictions.read(table_path(profile_folder, engine.name, split)) for split in _SPLITS}
            reason = _judge(engine, floats, tables, section, result, seed=seed)
        if reason is not None:
            result.not_judged[engine.name] = reason
    return result


def place_of(inputs: Inputs, name: str) -> Place:
    """Where the engine called `name` lies. Raises IntegrityError where there is none, or two."""
    here = [(one, "compile", "validate") for one in engines.load_all(inputs["compile"].folder) if one[0].name == name]
    there = [(one, "profile", "profile") for one in load_all(inputs["profile"].folder) if one[0].name == name]
    if len(here) + len(there) != 1:
        raise IntegrityError(
            f"There is no one engine '{name}' in {inputs['compile'].folder} and {inputs['profile'].folder}.",
            fix="Run medge select again.",
        )
    (engine, folder), _, tables = (here + there)[0]
    return Place(engine, folder, inputs[tables].folder, bool(there))


def trials_of(inputs: Inputs) -> dict[str, Any]:
    """validate's document, with the trials of engines that were built on a device among its `engines`."""
    document: dict[str, Any] = read_json(inputs["validate"].folder / "trials.json")
    more = inputs["select"].folder / FILE
    if not more.is_file():
        return document
    return {**document, "engines": {**document["engines"], **read_json(more)["engines"]}}


def _unfit(engine: Engine, profile_folder: Path, latency: Mapping[str, Any], device: str) -> str | None:
    """Why an engine cannot be judged; None where it can."""
    if engine.name not in latency["engines"]:
        return f"it was not measured: {latency['failures'].get(engine.name, 'no reason is recorded')}"
    receipt = receipts.find(profile_folder, engine)
    if receipt is None:
        return f"it has no receipt: medge profile --device {device}"
    missing = [split for split in _SPLITS if not table_path(profile_folder, engine.name, split).is_file()]
    if missing:
        return (
            f"it was not run on the {' and '.join(missing)} images there, so nothing is known of its answers: "
            f"medge profile --device {device} --set profile.score=both"
        )
    refuse_changed_answers(receipt, profile_folder)
    return None


def refuse_changed_answers(receipt: Receipt, profile_folder: Path) -> None:
    """Raises IntegrityError unless the validation and test tables are those that the receipt names."""
    for split in _SPLITS:
        path = table_path(profile_folder, receipt.engine, split)
        if not path.is_file() or sha256_of_file(path) != receipt.answers.get(split):
            raise IntegrityError(
                f"{path} is not what {receipt.engine} answered on {receipt.device}, by its receipt.",
                fix=f"Profile again: medge profile --device {receipt.device} --set profile.score=both",
            )


def _judge(
    engine: Engine,
    floats: Mapping[str, Predictions],
    tables: Mapping[str, Predictions],
    section: ValidateSection,
    result: Judged,
    *,
    seed: int,
) -> str | None:
    try:
        result.trials[engine.name] = {
            split: to_json(
                judge(
                    floats["validation"], tables["validation"], floats[split], tables[split], section=section, seed=seed
                )
            )
            for split in _SPLITS
        }
    except DataError as error:  # answers that are not finite, or of other images
        return f"what it answered there cannot be judged: {error.message}"
    return None
