"""Validate: every engine's own answers, judged against the float model's on the same images.

Writes `predictions/<engine>-<split>.csv`, `predictions/float-<split>.csv` (the torch model) and `trials.json`, whose
`engines` holds {engine: {split: Trial}}. A table that a killed run left behind is whole and is not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medge import console, engines, predictions, protocol_log
from medge.data import dataset
from medge.data.dataset import DataSet
from medge.errors import DataError, ToolError
from medge.predictions import FLOAT, Predictions, table_path
from medge.records import NOTICE, Engine, sha256_of_json, to_json, write_json
from medge.runtime.child import logits_in_child
from medge.runtime.machine import cores_allowed
from medge.sections import ValidateSection
from medge.trial import Trial, judge
from medge.verdicts import reasons, verdict_table
from medge.workspace import Inputs

__all__ = ["run"]


def run(section: ValidateSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Runs the float model and every engine on validation, test and (where there is one) the external set.

    Raises ToolError, naming the engine, where one dies or returns nonsense; DataError where a set cannot be judged.
    """
    data = dataset.load(inputs["data"].folder)
    splits = _splits(data)
    found = engines.load_all(inputs["compile"].folder)
    _start_clean(work)
    reference = _float_tables(data, splits, inputs["finetune"].folder, work)
    trials: dict[str, dict[str, Trial]] = {}
    for engine, folder in found:
        tables = {split: _engine_table(engine, folder, data, split, work) for split in splits}
        trials[engine.name] = {
            split: judge(
                reference["validation"],
                tables["validation"],
                reference[split],
                tables[split],
                section=section,
                seed=seed,
            )
            for split in splits
        }
    document = _document(section, data, trials)
    write_json(work / "trials.json", document)
    _say(trials)
    seen = protocol_log.add(
        inputs["data"].folder.parent, document["protocol"], document["protocol_sha256"], data_sha256=data.sha256
    )
    if caution := protocol_log.caution(seen):
        console.warn(caution)
    return {"engines": {name: {split: t.verdict for split, t in of.items()} for name, of in trials.items()}}


def _start_clean(work: Path) -> None:
    """Makes the folder of tables, and removes half-written files that a killed run left beside the whole ones."""
    (work / "predictions").mkdir(exist_ok=True)
    for stale in (*work.glob(".*.json.*"), *(work / "predictions").glob(".*")):
        stale.unlink()


def _splits(data: DataSet) -> list[str]:
    """validation, test, and external where the data set has one. Raises DataError for an empty one of the first two."""
    empty = [split for split in ("validation", "test") if not len(data.indices(split))]
    if empty:
        raise DataError(f"{data.name} has no {' and no '.join(empty)} images.", fix="Change data.split in the recipe.")
    return ["validation", "test", *(["external"] if len(data.indices("external")) else [])]


def _float_tables(data: DataSet, splits: list[str], finetune: Path, work: Path) -> dict[str, Predictions]:
    """The torch model's tables, all of them before any engine starts: two thread pools slow each other down."""
    missing = [split for split in splits if not table_path(work, FLOAT, split).is_file()]
    if missing:
        from medge import model as models

        model = models.load(finetune)
        for split in missing:
            rows = data.indices(split)
            logits = models.predict(model, data, rows, description=f"float, {split}")
            predictions.write(table_path(work, FLOAT, split), data.predictions(rows, logits))
    # Read back even when just written, so that a continued run judges the same digits.
    return {split: predictions.read(table_path(work, FLOAT, split)) for split in splits}


def _engine_table(engine: Engine, folder: Path, data: DataSet, split: str, work: Path) -> Predictions:
    path = table_path(work, engine.name, split)
    if not path.is_file():
        rows = data.indices(split)
        scratch = work / "scratch"
        scratch.mkdir(exist_ok=True)
        with console.progress(f"{engine.name}, {split}", len(rows)) as advance:
            logits = _logits(engine, folder, data, rows.tolist(), scratch / f"{path.stem}.npy", advance)
        if logits.shape[1] != len(data.labels):
            raise ToolError(
                f"{engine.name} gives {logits.shape[1]} logits for {len(data.labels)} classes.",
                fix="Compile it again from this run's model: medge compile.",
            )
        predictions.write(path, data.predictions(rows, logits))
    return predictions.read(path)


def _logits(
    engine: Engine, folder: Path, data: DataSet, rows: list[int], output: Path, advance: Callable[[int], None]
) -> Any:
    try:
        return logits_in_child(
            engine,
            folder,
            images=data.folder / "images.u8",
            rows=rows,
            height=data.preprocess.height,
            width=data.preprocess.width,
            threads=cores_allowed(),
            output=output,
            advance=advance,
        )
    except ToolError as error:
        if engine.name in error.message:
            raise
        raise ToolError(f"Engine {engine.name}: {error.message}", fix=error.fix) from error


def _document(section: ValidateSection, data: DataSet, trials: dict[str, dict[str, Trial]]) -> dict[str, Any]:
    """Every trial under its engine and split, after the protocol that was fixed before the judged images were looked
    at. Each of the `candidates` is tested at alpha on its own: the choice is made on validation, and only the chosen
    one's test verdict counts."""
    protocol = section.model_dump(mode="json")
    return {
        "schema": 1,
        "notice": NOTICE,
        "synthetic": data.synthetic,
        "labels": list(data.labels),
        "candidates": len(trials),
        "protocol": protocol,
        "protocol_sha256": sha256_of_json(protocol),
        "engines": to_json(trials),
    }


def _say(trials: dict[str, dict[str, Trial]]) -> None:
    for split in next(iter(trials.values())):
        console.stderr.print(verdict_table({name: of[split] for name, of in trials.items()}, title=split))
        for name, of in trials.items():
            if why := reasons(of[split]):
                console.stderr.print(f"  {name}: {why}", markup=False)
    repeated = max(trial.repeated for of in trials.values() for trial in of.values())
    if repeated:
        console.warn(f"{repeated} images are pixel-identical copies of others of their set; each counts once.")
