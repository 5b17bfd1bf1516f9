"""report.json: everything of the report as numbers, each under the sha256 of the record that it is from."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import medge
from medge.predictions import FLOAT, table_path
from medge.records import NOTICE, sha256_of_json, to_json
from medge.report.benefit import benefit
from medge.report.fails import where_it_fails
from medge.report.formulas import formulas
from medge.report.gather import Found
from medge.report.head import caveats, head
from medge.report.several import corrected, spent
from medge.report.subgroups import by_value, worst_subgroup
from medge.report.ties import ties
from medge.report.transfer import sentences, transfer

__all__ = ["SCHEMA", "document"]

SCHEMA = 1

# block of the document -> (stage, file); the block is that file's content, unchanged
BLOCKS = {
    "trials": ("validate", "trials.json"),
    "latency": ("profile", "latency.json"),
    "choice": ("select", "choice.json"),
    "built": ("select", "built.json"),
    "stress": ("stress", "stress.json"),
    "history": ("finetune", "history.json"),
    "model": ("finetune", "model.json"),
}


def document(found: Found) -> dict[str, Any]:
    """The report of a run as JSON values without NaN or infinity: a number that does not exist is null.

    `from` names, for each block, the file it is from, that file's sha256 and its stage record's; `derived` is computed
    by the report from the tables named in `derived.from`; `formulas` leads from a quantity to its functions.
    """
    shown = head(found)
    values: dict[str, Any] = _finite(
        {
            "schema": SCHEMA,
            "notice": NOTICE,
            "medge": medge.__version__,
            "run": found.run.name,
            "name": found.recipe.get("name", found.run.name),
            "synthetic": bool(found.data.synthetic if found.data is not None else found.trials.get("synthetic")),
            "verdict": shown["verdict"]["verdict"],
            "title": shown["title"],
            "sentence": shown["sentence"],
            "caveats": caveats(found),
            "stale": list(found.stale),
            "sha256": _hashes(found),
            "stages": {name: _stage(record) for name, record in found.records.items()},
            "from": _sources(found),
            "data": _data(found),
            "variants": found.variants,
            "engines": [
                {**to_json(engine), "name": engine.name, "sha256": engine.sha256, "bytes": engine.bytes}
                for engine in found.engines
            ],
            **{block: getattr(found, block) or None for block in BLOCKS},
            "derived": _derived(found),
            "formulas": formulas(),
            "recipe": found.recipe,
        }
    )
    return values


def _hashes(found: Found) -> dict[str, Any]:
    """The hashes by which everything else is found."""
    return {
        "data": None if found.data is None else found.data.sha256,
        "protocol": sha256_of_json(found.trials["protocol"]) if found.trials else None,
        "recipe": sha256_of_json(found.recipe),
        "engines": {engine.name: engine.sha256 for engine in found.engines},
        "chosen_engine": next((e.sha256 for e in found.engines if e.name == found.choice.get("chosen")), None),
        "stages": {name: record["sha256"] for name, record in found.records.items()},
    }


def _stage(record: dict[str, Any]) -> dict[str, Any]:
    kept = ("sha256", "key", "inputs", "outputs", "section", "values", "seconds", "medge")
    return {key: record[key] for key in kept}


def _sources(found: Found) -> dict[str, Any]:
    return {block: _source(found, *where) for block, where in BLOCKS.items() if getattr(found, block)}


def _source(found: Found, stage: str, file: str) -> dict[str, str]:
    record = found.records[stage]
    sha256 = next(item["sha256"] for item in record["outputs"] if item["path"] == file)
    path = f"{found.folders[stage].name}/{file}"
    return {"stage": stage, "file": path, "sha256": sha256, "record_sha256": record["sha256"]}


def _data(found: Found) -> dict[str, Any] | None:
    data = found.data
    if data is None:
        return None
    splits = {}
    for split in ("train", "validation", "test", "external"):
        at = data.indices(split)
        by_class = Counter(data.label[at].tolist())
        if len(at):
            splits[split] = {
                "images": len(at),
                "groups": len({data.groups[k] for k in at.tolist()}),
                "classes": {label: by_class[k] for k, label in enumerate(data.labels)},
            }
    about = {"name": data.name, "labels": list(data.labels), "preprocess": to_json(data.preprocess)}
    return {**about, "sha256": data.sha256, "splits": splits}


def _derived(found: Found) -> dict[str, Any] | None:
    """What the report computes itself, from predictions tables that were checked against their stage's record."""
    name = found.focus
    if name is None:
        return None
    tables = [table_path(Path(), one, "test").as_posix() for one in (FLOAT, name)]
    return {
        "engine": name,
        "from": [_source(found, "validate", table) for table in tables],
        "where_it_fails": where_it_fails(found, name),
        "operating_point_transfer": transfer(found, name),
        "operating_point_transfer_says": sentences(found, name),
        "subgroups": by_value(found, name),
        "worst_subgroup": worst_subgroup(found, name),
        "ties": {one: to_json(counted) for one, counted in ties(found).items()},
        "net_benefit": benefit(found, name),
        "several_tests": corrected(found),
        "several_tests_says": spent(found),
    }


def _finite(value: Any) -> Any:
    """NaN and infinity as None, everywhere in a JSON value."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
