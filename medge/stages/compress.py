"""compress: the float model and every variant of the recipe as ONNX files, each variant gated on validation images.

    <variant>/model.onnx  validation.csv (torch's outputs)  variant.json (the chain, the gate's figures, the log)
    search.json  search.png  searched.yaml (with compress.search: medge.search_report)

A variant whose folder is there is finished; a chain that has been tried keeps its result in scratch/ until the stage
ends. So a killed stage goes on at the chain, and within a training at the epoch, where it stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medge import calibration, chains, console, plugins, predictions, quantised, rollback, trial
from medge.compressors import Context
from medge.data import dataset
from medge.predictions import Predictions
from medge.records import sha256_of_file, sha256_of_json
from medge.sections import CompressSection, Rollback, SearchSection, Step, ValidateSection, Variant
from medge.variants import CompressedVariant, load, save
from medge.workspace import Inputs

if TYPE_CHECKING:
    from torch import nn

    from medge.data.dataset import DataSet
    from medge.model import Classifier

__all__ = ["run"]


def run(section: CompressSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Returns {"variants": {name: {"verdict", "chain", "onnx_sha256"}}, "calibration": {"path", "sha256", "images"}}.

    The stage passes whatever its variants' verdicts: a variant that fails is dropped by select, not here. With
    `section.search` also {"search": medge.search_report.summary}, and {"verdict": "fail"} where it found nothing.
    Raises RecipeError for chains that cannot be followed, DataError for a calibration list that does not fit.
    """
    chains.check(section.variants)
    data = dataset.load(inputs["data"].folder)
    listed = calibration.read_or_draw(data, images=section.calibration.images, seed=seed)

    from medge import model as classifier

    teacher = classifier.load(inputs["finetune"].folder).requires_grad_(False)
    bench = _Bench(data, teacher, listed, section.gate or ValidateSection(), seed, work)
    found = [_float(bench, inputs["finetune"].folder)]
    found += [_variant(bench, name, variant) for name, variant in section.variants.items()]
    searched: dict[str, Any] = {}
    if section.search is not None:
        searched = _search(bench, section.search, found)
    return {
        **searched,
        "variants": {v.name: {"verdict": v.verdict, "chain": v.chain, "onnx_sha256": v.onnx_sha256} for v in found},
        "calibration": {"path": listed.path.as_posix(), "sha256": listed.sha256, "images": len(listed.indices)},
    }


@dataclass(frozen=True)
class _Bench:
    """What every variant is made from and judged with."""

    data: DataSet
    teacher: Classifier
    listed: calibration.CalibrationList
    gate: ValidateSection
    seed: int
    work: Path

    @cached_property
    def reference(self) -> Predictions:
        """The float model's outputs on validation images."""
        return predictions.read(self.work / "float" / "validation.csv")


def _float(bench: _Bench, finetuned: Path) -> CompressedVariant:
    """The uncompressed model. Its validation table is the one that finetune wrote with the same weights."""
    folder = bench.work / "float"
    if (folder / "variant.json").is_file():
        return load(folder)
    log = ["The model as it was fine-tuned; every other variant is compared with it."]
    aside = _aside(bench.work / "scratch" / "float")
    shutil.copyfile(finetuned / "predictions" / "validation.csv", aside / "validation.csv")
    return _finish(bench, aside, folder, bench.teacher, CompressedVariant("float", False, [], log, "", "pass"))


def _search(bench: _Bench, section: SearchSection, found: list[CompressedVariant]) -> dict[str, Any]:
    """Searches, and adds what was found to `found` as the variant `search`, where a chain was found."""
    from medge import search, search_report
    from medge.search_trials import Lab

    work = bench.work / "scratch" / "search-trials"
    lab = Lab(bench.data, bench.listed.indices, bench.teacher, bench.gate, section, bench.seed, work)
    result = search.run(lab, work / "trials.db")
    search_report.write(result, bench.work, section, bench.gate)
    if result.chosen is not None and result.chosen.chain:
        chain = tuple(Step.model_validate(step) for step in result.chosen.chain)
        trained = lab.works(chain)  # where the trial left its checkpoints
        found.append(_variant(bench, "search", Variant(first_passing=(chain,)), works=trained, log=[result.sentence]))
    verdict = {"verdict": "fail"} if result.chosen is None else {}
    return {**verdict, "search": search_report.summary(result)}


def _variant(
    bench: _Bench, name: str, variant: Variant, *, works: Sequence[Path] = (), log: Sequence[str] = ()
) -> CompressedVariant:
    """Tries the variant's chains in order and keeps the first that passes the gate with no more flips than wanted, else
    of those that pass the one with the fewest flips, else the last.

    Where none passes as it is, they are mended by a rollback, again in order: a chain that somebody wrote down to be
    tried is worth more than a layer found on some hundred images.
    works: the folders of the only chain's checkpoints where they are elsewhere; log: what was known before.
    """
    folder = bench.work / name
    if (folder / "variant.json").is_file():
        return load(folder)
    tried: list[str] = list(log)
    attempts: list[tuple[CompressedVariant, Path, tuple[Step, ...]]] = []
    for k, section in _order(variant):
        chain = variant.first_passing[k]
        place = bench.work / "scratch" / name / (str(k) if section is None else f"{k}-rollback")
        folders = works or _works(bench.work / "scratch" / name, variant, k)
        attempt = _attempt(bench, name, chain, place, folders, section)
        tried += attempt.log
        attempts.append((attempt, place, chain))
        console.say(f"{name}: {attempt.log[-1]}".replace("[", r"\["))
        if attempt.verdict == "pass" and _flips_enough(attempt.gate, variant.rollback):
            break
    passing = [one for one in attempts if one[0].verdict == "pass"]
    passing = [one for one in passing if _flips_enough(one[0].gate, variant.rollback)] or passing
    attempt, place, chain = min(passing, key=lambda one: one[0].gate["flips"]["rate"]) if passing else attempts[-1]
    why = "it passed the gate" if passing else "no chain passed the gate and it is the last"
    if passing and not _flips_enough(attempt.gate, variant.rollback):
        why += " with the fewest flips, more than the rollback was to leave"
    kept = CompressedVariant(
        name, attempt.quantised, attempt.chain, [*tried, f"[{_names(chain)}] is kept: {why}."],
        attempt.onnx_sha256, attempt.verdict, attempt.gate, attempt.in_float,
    )  # fmt: skip
    aside = _aside(bench.work / "scratch" / name / "kept")
    for file in ("model.onnx", "validation.csv"):
        shutil.copyfile(place / "done" / file, aside / file)
    save(kept, aside)
    os.replace(aside, folder)
    return kept


def _order(variant: Variant) -> list[tuple[int, Rollback | None]]:
    """The chains to try: each as it is, then those that quantise again with a rollback. One alone is mended at once."""
    chains_of, section = variant.first_passing, variant.rollback
    plain: list[tuple[int, Rollback | None]] = [(k, None) for k in range(len(chains_of))]
    if section is None:
        return plain
    if len(chains_of) == 1:
        return [(0, section)]
    names = [[step.compressor for step in chain] for chain in chains_of]
    return plain + [(k, section) for k in range(len(chains_of)) if chains.quantises(names[k])]


def _flips_enough(figures: dict[str, Any], section: Rollback | None) -> bool:
    """Whether no more decisions flip than the recipe's rollback asks for, where it does."""
    return section is None or section.flips is None or figures["flips"]["rate"] <= section.flips


def _works(place: Path, variant: Variant, k: int) -> list[Path]:
    """Folders for the checkpoints of chain k's steps. One that begins like an earlier chain shares that one's, so that
    what they have in common is trained once."""
    chains, chain = variant.first_passing, variant.first_passing[k]
    first = [next(j for j in range(k + 1) if chains[j][: n + 1] == chain[: n + 1]) for n in range(len(chain))]
    return [place / str(j) / f"{n}-{step.compressor}" for n, (j, step) in enumerate(zip(first, chain, strict=True))]


@dataclass(frozen=True)
class _Made:
    """What a chain led to, and the gate's figures on validation images."""

    model: nn.Module
    table: Predictions
    figures: dict[str, Any]
    steps: list[dict[str, Any]]
    in_float: tuple[str, ...] = ()


def _attempt(
    bench: _Bench, name: str, chain: Sequence[Step], place: Path, works: Sequence[Path], section: Rollback | None
) -> CompressedVariant:
    """One chain, applied, judged and, where its gate asks for it, mended; what it led to stays in `place`/done."""
    done = place / "done"
    if (done / "variant.json").is_file():
        return load(done)
    log: list[str] = []
    is_quantised = chains.quantises([step.compressor for step in chain])
    made = _judged(bench, name, chain, _apply(bench, chain, works, log))
    log.append(f"[{_names(chain)}] {_sentence(made.figures)}")
    if is_quantised and section is not None:
        made = _mended(bench, name, chain, works, made, section, place / "rollback", log)
    aside = _aside(place / "writing")
    predictions.write(aside / "validation.csv", made.table)
    found = CompressedVariant(
        name, is_quantised, made.steps, log, "", made.figures["verdict"], made.figures, list(made.in_float)
    )
    return _finish(bench, aside, done, made.model, found)


def _mended(
    bench: _Bench, name: str, chain: Sequence[Step], works: Sequence[Path], made: _Made, section: Rollback,
    place: Path, log: list[str],
) -> _Made:  # fmt: skip
    """The same with its guilty layers in float (medge.rollback), or as it was where its gate passes or none helps.

    A chain whose last step says how to leave layers in float is followed again with them; what was trained is not
    trained again: the quantisers are taken out of it.
    """
    reference = bench.reference
    best = trial.judge(reference, reference, reference, reference, section=bench.gate, seed=bench.seed).verdict
    if rollback.is_reached(made.figures, section, best):
        return made
    found = rollback.search(_asked(bench, name, chain, made, best), section, place)
    log += found.log
    if not found.layers:
        return made
    option = getattr(plugins.load("compressors", chain[-1].compressor), "LEAVES_IN_FLOAT", None)
    if option is not None:
        ignored = [*chain[-1].options.get(option, ()), *found.layers]
        last = Step(compressor=chain[-1].compressor, options={**chain[-1].options, option: ignored})
        changed = [*chain[:-1], last]
        model = _apply(bench, changed, [*works[:-1], place / "last"], [])
        again = replace(_judged(bench, name, changed, model), in_float=found.layers)
        log.append(f"[{_names(chain)}] with {len(found.layers)} layers in float, {_sentence(again.figures)}")
        if rollback.is_reached(again.figures, section, best) or not found.reached:
            return min(made, again, key=lambda m: rollback.rank(m.figures, best))
    quantised.remove(made.model, found.quantisers)
    again = replace(_judged(bench, name, chain, made.model), in_float=found.layers)
    log.append(f"[{_names(chain)}] with the quantisers of these layers taken out, {_sentence(again.figures)}")
    return again


def _asked(bench: _Bench, name: str, chain: Sequence[Step], made: _Made, best: str) -> rollback.Asked:
    rows = bench.data.indices("validation")
    by_image = dict(zip(bench.reference.sha256, bench.reference.logits, strict=True))

    def gate(logits: NDArray[np.float64]) -> dict[str, Any]:
        return _figures(bench, bench.data.predictions(rows, logits))

    key = {
        "chain": made.steps, "data": bench.data.sha256, "calibration": bench.listed.sha256, "seed": bench.seed,
        "teacher": sha256_of_file(bench.work / "float" / "model.onnx"), "gate": bench.gate.model_dump(mode="json"),
    }  # fmt: skip
    aim = np.stack([by_image[bench.data.sha256s[k]] for k in rows.tolist()])
    return rollback.Asked(
        made.model, bench.data, rows, aim, gate, made.table.logits, made.figures, best, bench.seed, sha256_of_json(key)
    )


def _apply(bench: _Bench, chain: Sequence[Step], works: Sequence[Path], log: list[str]) -> nn.Module:
    """The model after every step of a chain; each step has a folder for its checkpoints."""
    import torch

    current: nn.Module = bench.teacher
    for step, work in zip(chain, works, strict=True):
        compressor = plugins.load("compressors", step.compressor)
        work.mkdir(parents=True, exist_ok=True)
        context = Context(bench.data, bench.listed.indices, bench.teacher, bench.seed, work, log)
        torch.manual_seed(bench.seed)
        current = compressor.apply(current, compressor.Options(**step.options), context)
    return current


def _judged(bench: _Bench, name: str, chain: Sequence[Step], model: nn.Module) -> _Made:
    table = _outputs(bench, model, name)
    return _Made(model, table, _figures(bench, table), [step.model_dump(mode="json") for step in chain])


def _figures(bench: _Bench, table: Predictions) -> dict[str, Any]:
    """The gate's figures of a table of validation images."""
    reference = bench.reference
    return trial.summary(trial.judge(reference, table, reference, table, section=bench.gate, seed=bench.seed))


def _outputs(bench: _Bench, model: nn.Module, name: str) -> Predictions:
    from medge.model import predict

    rows = bench.data.indices("validation")
    return bench.data.predictions(rows, predict(model, bench.data, rows, description=f"{name} validation"))


def _finish(
    bench: _Bench, aside: Path, folder: Path, model: nn.Module, variant: CompressedVariant
) -> CompressedVariant:
    """Adds the ONNX file and variant.json to `aside` and renames it to `folder`."""
    from medge.onnx_export import onnx_from_torch

    wanted = bench.data.preprocess
    onnx_from_torch(model, aside / "model.onnx", size=(wanted.height, wanted.width))
    digest = sha256_of_file(aside / "model.onnx")
    fields = {**variant.__dict__, "onnx_sha256": digest}
    save(CompressedVariant(**fields), aside)
    os.replace(aside, folder)
    return load(folder)


def _aside(folder: Path) -> Path:
    """An empty folder to write in; what a killed run left in it is dropped."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _names(chain: Sequence[Step]) -> str:
    return ", ".join(step.compressor for step in chain)


def _sentence(figures: dict[str, Any]) -> str:
    """The gate's verdict in words, with the figures that decide most often."""
    flips, auc = figures["flips"], figures.get("auc")
    parts = [f"{flips['count']} decisions flipped ({flips['rate']:.2%})"]
    if auc is not None:
        parts.append(f"AUC {auc['difference']:+.4f}")
    others = [
        key for key, item in figures.items() if isinstance(item, dict) and item.get("verdict") not in ("pass", None)
    ]
    held = f"; not met: {', '.join(others)}" if others else ""
    return f"on validation images: {figures['verdict']}; {', '.join(parts)}{held}."
