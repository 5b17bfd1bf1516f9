"""compress: the float model and every variant of the recipe as ONNX files, each variant gated on validation images.

    <variant>/model.onnx  validation.csv (torch's outputs)  variant.json (the chain, the gate's figures, the log)
    search.json  search.png  searched.yaml (with compress.search: medge.search_report)

A variant whose folder is there is finished; a chain that has been tried keeps its result in scratch/ until the stage
ends. So a killed stage goes on at the chain, and within a training at the epoch, where it stopped. A variant that the
recipe changes or adds costs the others nothing (medge.variant_reuse), but for `search`, which is sought again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge import calibration, chains, console, heap, predictions, rollback, variant_reuse
from medge.backends import QUANTISED
from medge.chain_trial import Bench, apply, judged, names, sentence
from medge.compressors import Context
from medge.data import dataset
from medge.mending import leaving_in_float, mended
from medge.recipe import Recipe
from medge.records import sha256_of_file, sha256_of_json
from medge.sections import CompressSection, Rollback, SearchSection, Step, ValidateSection, Variant
from medge.variants import CompressedVariant, load, save
from medge.workspace import Inputs, finished_folder

if TYPE_CHECKING:
    from torch import nn

    from medge.search_space import Candidate

__all__ = ["KEEPS_PARTS", "check", "fingerprint", "look_ahead", "run"]

KEEPS_PARTS = True
fingerprint = variant_reuse.fingerprint


def check(recipe: Recipe, inputs: Inputs) -> None:
    """Raises what `look_ahead` would raise after fine-tuning, by a model of random weights: a mistyped layer, say."""
    from medge import model as models

    data, section = dataset.load(inputs["data"].folder), recipe.finetune
    _check(recipe.compress)
    listed = calibration.read_or_draw(data, images=recipe.compress.calibration.images, seed=recipe.seed)
    spec = models.specify(
        section.model, classes=len(data.labels), head=section.head, dropout=section.dropout, size=data.preprocess.width
    )
    untrained = models.create(spec).eval().requires_grad_(False)
    context = Context(data, listed.indices, untrained, recipe.seed, inputs["data"].folder)
    chains.look_ahead(recipe.compress.variants, context)


def look_ahead(section: CompressSection, inputs: Inputs, seed: int) -> None:
    """Raises RecipeError for chains that cannot be followed, DataError for a calibration list that does not fit, and
    what a step of any chain would refuse of the float model (chains.look_ahead)."""
    _check(section)
    data = dataset.load(inputs["data"].folder)
    listed = calibration.read_or_draw(data, images=section.calibration.images, seed=seed)

    from medge import model as classifier

    finetuned = inputs["finetune"].folder
    teacher = classifier.load(finetuned).requires_grad_(False)
    chains.look_ahead(section.variants, Context(data, listed.indices, teacher, seed, finetuned))


def _check(section: CompressSection) -> None:
    """Raises RecipeError for chains that cannot be followed, MissingError for what a search lacks on this machine."""
    chains.check(section.variants)
    if section.search is not None:
        from medge import search

        search.check(section.search)


@heap.kept()
def run(section: CompressSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Returns {"variants": {name: {"verdict", "chain", "onnx_sha256"}}, "calibration": {"path", "sha256", "images"}}.

    The stage passes whatever its variants' verdicts: a variant that fails is dropped by select, not here. With
    `section.search` also {"search": medge.search_report.summary}, and {"verdict": "fail"} where it found nothing.
    """
    data = dataset.load(inputs["data"].folder)
    listed = calibration.read_or_draw(data, images=section.calibration.images, seed=seed)
    calibration.warn_of_length(listed, data, images=section.calibration.images)

    from medge import model as classifier

    teacher = classifier.load(inputs["finetune"].folder).requires_grad_(False)
    bench = Bench(data, teacher, listed, section.gate or ValidateSection(), seed, work)
    made_of = variant_reuse.keys(section, inputs, listed.sha256, seed)
    variant_reuse.take_over(work, finished_folder(work.parent, "compress"), made_of)
    variant_reuse.scratch(work, variant_reuse.STEPS, made_of[variant_reuse.STEPS])
    if section.search is not None and section.variants:
        console.say(f"First the recipe's own variants ({', '.join(section.variants)}), then the search.")
    found = [_float(bench, made_of["float"], inputs["finetune"].folder)]
    found += [_variant(bench, name, made_of[name], variant) for name, variant in section.variants.items()]
    searched: dict[str, Any] = {}
    if section.search is not None:
        console.say(f"The search, {section.search.minutes:g} minutes:")
        searched = _search(bench, section.search, made_of, found)
    return {
        **searched,
        "variants": {v.name: {"verdict": v.verdict, "chain": v.chain, "onnx_sha256": v.onnx_sha256} for v in found},
        "calibration": {"path": listed.path.as_posix(), "sha256": listed.sha256, "images": len(listed.indices)},
    }


def _float(bench: Bench, made_of: str, finetuned: Path) -> CompressedVariant:
    """The uncompressed model. Its validation table is the one that finetune wrote with the same weights."""
    folder = bench.work / "float"
    if (folder / "variant.json").is_file():
        return load(folder)
    log = ["The model as it was fine-tuned; every other variant is compared with it."]
    aside = _aside(variant_reuse.scratch(bench.work, "float", made_of) / "writing")
    shutil.copyfile(finetuned / "predictions" / "validation.csv", aside / "validation.csv")
    found = CompressedVariant("float", False, [], log, "", "pass", made_of=made_of)
    return _finish(bench, aside, folder, bench.teacher, found)


def _search(
    bench: Bench, section: SearchSection, made_of: Mapping[str, str], found: list[CompressedVariant]
) -> dict[str, Any]:
    """Searches, and adds what was found to `found` as the variant `search`, where a chain was found."""
    from medge import search, search_report
    from medge.search_trials import Lab

    work = variant_reuse.scratch(bench.work, variant_reuse.TRIALS, made_of[variant_reuse.TRIALS])
    steps = bench.work / "scratch" / variant_reuse.STEPS
    lab = Lab(bench.data, bench.listed.indices, bench.teacher, bench.gate, section, bench.seed, work, steps)
    own = {v.name: _candidate(v) for v in found if v.quantised}
    known = [(candidate, bench.work / name / "model.onnx") for name, candidate in own.items()]
    result = search.run(lab, work / "trials.db", known)
    search_report.write(result, bench.work, section, bench.gate)
    best = "" if result.chosen is None else result.chosen.key
    if same := next((name for name, candidate in own.items() if candidate.key == best), None):
        console.say(f"That is the recipe's own variant {same}; no other is made.")
    elif result.chosen is not None and result.chosen.chain:
        chain = tuple(Step.model_validate(step) for step in result.chosen.chain)
        variant = Variant(first_passing=(chain,), rollback=None)  # what was measured and judged, not another
        found_of = sha256_of_json([made_of[variant_reuse.TRIALS], variant.model_dump(mode="json"), result.sentence])
        found.append(_variant(bench, variant_reuse.SEARCH, found_of, variant, log=[result.sentence]))
    if result.chosen is not None and result.chosen.precision != QUANTISED:
        console.say(
            f"It was measured in {result.chosen.precision}: compile builds that where compile.backends names it, as "
            "searched.yaml does."
        )
    verdict = {"verdict": "fail"} if result.chosen is None else {}
    return {**verdict, "search": search_report.summary(result)}


def _candidate(variant: CompressedVariant) -> Candidate:
    """A quantised variant as the search tries it: the layers that a rollback took back to float are in its chain."""
    from medge.search_space import Candidate

    chain = [Step.model_validate(step) for step in variant.chain]
    changed = leaving_in_float(chain, variant.in_float) if variant.in_float else None
    return Candidate(tuple(changed or chain), QUANTISED)


def _variant(bench: Bench, name: str, made_of: str, variant: Variant, *, log: Sequence[str] = ()) -> CompressedVariant:
    """Tries the variant's chains in order and keeps the first that passes the gate with no more flips than wanted, else
    the one with the best verdict, and of these the one with the fewest flips.

    Where none passes as it is, they are mended by a rollback, again in order: a chain that somebody wrote down to be
    tried is worth more than a layer found on some hundred images.
    log: what was known before.
    """
    folder = bench.work / name
    if (folder / "variant.json").is_file():
        return load(folder)
    scratch = variant_reuse.scratch(bench.work, name, made_of)
    tried: list[str] = list(log)
    attempts: list[tuple[CompressedVariant, Path, tuple[Step, ...]]] = []
    for k, section in _order(variant):
        chain = variant.first_passing[k]
        place = scratch / (str(k) if section is None else f"{k}-rollback")
        attempt = _attempt(bench, name, chain, place, section)
        tried += attempt.log
        attempts.append((attempt, place, chain))
        console.say(f"{name}: {attempt.log[-1]}".replace("[", r"\["))
        if attempt.verdict == "pass" and _flips_enough(attempt.gate, variant.rollback):
            break
    attempt, place, chain = min(attempts, key=lambda one: _rank(one[0], variant.rollback))
    why = "it passed the gate" if attempt.verdict == "pass" else "no chain passed the gate as it is kept"
    if len(attempts) > 1 and attempt is not attempts[-1][0]:
        why += ", and it has the best verdict with the fewest flips"
    if attempt.verdict == "pass" and not _flips_enough(attempt.gate, variant.rollback):
        why += "; more flip than the rollback was to leave"
    kept = CompressedVariant(
        name, attempt.quantised, attempt.chain, [*tried, f"[{names(chain)}] is kept: {why}."],
        attempt.onnx_sha256, attempt.verdict, attempt.gate, attempt.in_float, made_of,
    )  # fmt: skip
    aside = _aside(scratch / "kept")
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


def _rank(attempt: CompressedVariant, section: Rollback | None) -> tuple[int, float]:
    """Small is good."""
    flips = rollback.share_of_flips(attempt.gate, section)
    return (("pass", "inconclusive", "fail").index(attempt.verdict), flips)


def _flips_enough(figures: dict[str, Any], section: Rollback | None) -> bool:
    """Whether no more decisions flip than the recipe's rollback asks for, where it does."""
    return section is None or rollback.flips_few(figures, section, otherwise=1.0)


def _attempt(
    bench: Bench, name: str, chain: Sequence[Step], place: Path, section: Rollback | None
) -> CompressedVariant:
    """One chain, applied, judged and, where its gate asks for it, mended; what it led to stays in `place`/done."""
    done = place / "done"
    if (done / "variant.json").is_file():
        return load(done)
    log: list[str] = []
    console.say(f"{name}: {names(chain)}")
    works = variant_reuse.works(bench.work / "scratch" / variant_reuse.STEPS, chain)
    is_quantised = chains.quantises([step.compressor for step in chain])
    made = judged(bench, name, chain, apply(bench, chain, works, log))
    log.append(f"[{names(chain)}] {sentence(made.figures)}")
    if is_quantised and section is not None:
        where = place / "rollback"
        made = mended(bench, made, name=name, chain=chain, works=works, section=section, place=where, log=log)
    aside = _aside(place / "writing")
    predictions.write(aside / "validation.csv", made.table)
    found = CompressedVariant(
        name, is_quantised, made.steps, log, "", made.figures["verdict"], made.figures, list(made.in_float)
    )
    return _finish(bench, aside, done, made.model, found)


def _finish(bench: Bench, aside: Path, folder: Path, model: nn.Module, variant: CompressedVariant) -> CompressedVariant:
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
