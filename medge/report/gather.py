"""What a run has so far, read from its records: the only part of the report that reads files of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medge import built, engines, predictions
from medge.data import dataset
from medge.data.dataset import DataSet
from medge.errors import IntegrityError
from medge.predictions import Predictions
from medge.records import Engine, read_json, sha256_of_file
from medge.workspace import STAGES, Stage, completed

__all__ = ["Found", "checked", "gather"]


@dataclass(frozen=True, eq=False)  # one is one reading of a run, so that what is computed of it can be kept
class Found:
    """Finished stages' records by name, and what they wrote; a stage that is not finished has left nothing here."""

    run: Path
    recipe: dict[str, Any]
    records: dict[str, dict[str, Any]]
    folders: dict[str, Path]
    data: DataSet | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    variants: list[dict[str, Any]] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    trials: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    built: dict[str, Any] = field(default_factory=dict)
    stress: dict[str, Any] = field(default_factory=dict)
    stale: tuple[str, ...] = ()  # finished stages that were made from others than are there now: not shown

    @property
    def labels(self) -> list[str]:
        return list(self.data.labels) if self.data is not None else list(self.trials.get("labels", ()))

    @property
    def judged(self) -> dict[str, dict[str, Any]]:
        """Trials by engine, then by split; those of engines that a device built come last."""
        return {**self.trials.get("engines", {}), **self.built.get("engines", {})}

    def named(self, engine: str) -> str:
        """An engine's name, and where it was built if not here."""
        return f"{engine} (built on {self.built['device']})" if engine in self.built.get("engines", {}) else engine

    @property
    def focus(self) -> str | None:
        """The engine that the figures are about: the chosen one, the next best, or the last that is not float."""
        names = [self.choice.get("chosen"), self.choice.get("next_best")]
        names += [name for name in reversed(self.judged) if not name.startswith("float/")] + list(self.judged)
        return next((name for name in names if name in self.judged), None)

    def table(self, name: str, split: str) -> Predictions:
        """The predictions of an engine, or of `float`, on a split. Raises DataError."""
        path = predictions.table_path(Path(), name, split).as_posix()
        stage = "profile" if name in self.built.get("engines", {}) else "validate"
        return predictions.read(checked(self.folders[stage], path, self.records[stage]))

    def images(self, name: str, split: str) -> Predictions:
        """The same with each image once, as the trial counts: pixel-identical copies are left out."""
        table = self.table(name, split)
        _, first = np.unique(np.asarray(table.sha256), return_index=True)
        if len(first) == len(table):
            return table
        rows = np.sort(first).tolist()
        return Predictions(
            sha256=tuple(table.sha256[k] for k in rows),
            group=tuple(table.group[k] for k in rows),
            labels=table.labels[rows],
            logits=table.logits[rows],
            subgroups={key: tuple(column[k] for k in rows) for key, column in table.subgroups.items()},
        )


def gather(run: Path) -> Found:
    """Reads the finished stages of a run. Raises IntegrityError or DataError for files that are not whole."""
    recipe = (
        yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")) if (run / "recipe.yaml").is_file() else {}
    )
    stages, stale = _fresh(run)
    folders = {name: stage.folder for name, stage in stages.items()}
    records = {name: read_json(folder / "record.json") for name, folder in folders.items()}

    def document(stage: str, name: str) -> Any:
        if stage not in folders or not (folders[stage] / name).is_file():
            return {}
        return read_json(checked(folders[stage], name, records[stage]))

    return Found(
        run=run,
        recipe=recipe,
        records={name: {**record, "sha256": stages[name].sha256} for name, record in records.items()},
        folders=folders,
        data=dataset.load(folders["data"]) if "data" in folders else None,
        history=document("finetune", "history.json") or [],
        model=document("finetune", "model.json"),
        variants=[read_json(path) for path in sorted(folders["compress"].glob("*/variant.json"))]
        if "compress" in folders
        else [],
        engines=_engines(folders),
        trials=document("validate", "trials.json"),
        latency=document("profile", "latency.json"),
        choice=document("select", "choice.json"),
        built=document("select", built.FILE),
        stress=document("stress", "stress.json"),
        stale=stale,
    )


def _engines(folders: dict[str, Path]) -> list[Engine]:
    here = engines.load_all(folders["compile"]) if "compile" in folders else []
    there = built.load_all(folders["profile"]) if "profile" in folders else []
    return [engine for engine, _ in [*here, *there]]


def checked(folder: Path, name: str, record: dict[str, Any]) -> Path:
    """The path of a file that a stage wrote. Raises IntegrityError where it is not the one in the stage's record: a
    report is not made of numbers that nobody recorded."""
    path = folder / name
    recorded = next((item["sha256"] for item in record["outputs"] if item["path"] == name), None)
    if recorded is None or not path.is_file() or sha256_of_file(path) != recorded:
        raise IntegrityError(
            f"{path} is not the file in the {record['stage']} stage's record.",
            fix=f"Make it again: medge {record['stage']} --run {folder.parent.name}.",
        )
    return path


def _fresh(run: Path) -> tuple[dict[str, Stage], tuple[str, ...]]:
    """Finished stages whose parents are the ones that are there now, and the names of the others."""
    fresh: dict[str, Stage] = {}
    stale: list[str] = []
    for name in STAGES:
        stage = completed(run, name)
        if stage is None:
            continue
        if all(parent in fresh and fresh[parent].sha256 == sha256 for parent, sha256 in stage.inputs.items()):
            fresh[name] = stage
        else:
            stale.append(name)
    return fresh, tuple(stale)
