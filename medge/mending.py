"""A quantised variant whose gate did not pass, with the guilty layers in float (medge.rollback finds them)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import float_costs, plugins, quantised, rollback, trial
from medge.chain_trial import Bench, Made, apply, figures, judged, names, sentence
from medge.quick_latency import QuickBench
from medge.records import sha256_of_file, sha256_of_json
from medge.rollback_trials import Asked
from medge.sections import Rollback, Step

__all__ = ["leaving_in_float", "mended"]


def mended(
    bench: Bench, made: Made, *, name: str, chain: Sequence[Step], works: Sequence[Path], section: Rollback,
    place: Path, log: list[str],
) -> Made:  # fmt: skip
    """`made` with its guilty layers in float (medge.rollback), or as it was where its gate passes or none helps.

    A chain whose last step says how to leave layers in float is followed again with them. What was trained is not
    trained again: the quantisers are taken out of a copy of it, as they are where following again did not reach what
    the search had. The best of all that was judged is returned.
    """
    reference = bench.reference
    best = trial.judge(reference, reference, reference, reference, section=bench.gate, seed=bench.seed).verdict
    if rollback.is_reached(made.figures, section, best):
        return made
    found = rollback.search(_asked(bench, name, chain, made, best), section, place)
    log += _with_latency(found, bench, made, section, place)
    if not found.layers:
        return made
    chain = _settled(chain, works[-1])
    tried = [made]
    changed = leaving_in_float(chain, found.layers)
    if changed is not None:
        model = apply(bench, changed, [*works[:-1], place / "last"], [])
        tried.append(replace(judged(bench, name, changed, model), in_float=found.layers))
        log.append(f"[{names(chain)}] with {len(found.layers)} layers in float, {sentence(tried[-1].figures)}")
    if changed is None or (found.reached and not rollback.is_reached(tried[-1].figures, section, best)):
        model = copy.deepcopy(made.model)
        quantised.remove(model, found.quantisers)
        tried.append(replace(judged(bench, name, chain, model), in_float=found.layers))
        log.append(f"[{names(chain)}] with the quantisers of these layers taken out, {sentence(tried[-1].figures)}")
    kept = min(tried, key=lambda m: rollback.rank(m.figures, best, section))
    if kept is not tried[-1]:
        which = "as it was, all quantised" if kept is made else "as it was quantised again"
        log.append(f"[{names(chain)}] is taken {which}: that is no worse.")
    if kept.figures["verdict"] != "pass" and any(one.figures["verdict"] == "pass" for one in tried):
        log.append(
            f"[{names(chain)}]: another of these passed; fewer decisions flip with what is taken, and its verdict "
            "is that of the float model itself."
        )
    return kept


def leaving_in_float(chain: Sequence[Step], layers: Sequence[str]) -> list[Step] | None:
    """The chain with these layers in float from its last step on; None where that step has no option for it."""
    last = chain[-1]
    option = getattr(plugins.load("compressors", last.compressor), "LEAVES_IN_FLOAT", None)
    if option is None:
        return None
    ignored = list(dict.fromkeys([*last.options.get(option, ()), *layers]))
    return [*chain[:-1], Step(compressor=last.compressor, options={**last.options, option: ignored})]


def _settled(chain: Sequence[Step], work: Path) -> Sequence[Step]:
    """The chain with the settings that its last step chose by itself, in `work`: the layers were blamed under these."""
    compressor = plugins.load("compressors", chain[-1].compressor)
    if not hasattr(compressor, "settled"):
        return chain
    asked = compressor.Options(**chain[-1].options)
    options = compressor.settled(asked, work)
    if options == asked:
        return chain
    plain = asdict(compressor.Options())
    chosen = {name: value for name, value in asdict(options).items() if value != plain[name]}
    return [*chain[:-1], Step(compressor=chain[-1].compressor, options=chosen)]


def _with_latency(found: rollback.Found, bench: Bench, made: Made, section: Rollback, place: Path) -> list[str]:
    """The log of a rollback, with what each layer in float costs in time on the backend that is asked for."""
    if section.backend is None or not found.layers:
        return list(found.log)
    clock = QuickBench(bench.data, bench.listed.indices, section.backend, place / "latency", seed=bench.seed)
    digest = sha256_of_json({"steps": made.steps, "teacher": sha256_of_file(bench.work / "float" / "model.onnx")})
    left = 60 * section.minutes - found.seconds
    said = float_costs.words(clock, made.model, found.layers, key=digest, seconds=left)
    count = len(found.layers)
    layers = [f"{line.removesuffix('.')}; {words}." for line, words in zip(found.log[:count], said, strict=True)]
    return [*layers, *found.log[count:]]


def _asked(bench: Bench, name: str, chain: Sequence[Step], made: Made, best: str) -> Asked:
    rows = bench.data.indices("validation")
    by_image = dict(zip(bench.reference.sha256, bench.reference.logits, strict=True))

    def gate(logits: NDArray[np.float64]) -> dict[str, Any]:
        return figures(bench, bench.data.predictions(rows, logits))

    key = {
        "chain": made.steps, "data": bench.data.sha256, "calibration": bench.listed.sha256, "seed": bench.seed,
        "teacher": sha256_of_file(bench.work / "float" / "model.onnx"), "gate": bench.gate.model_dump(mode="json"),
    }  # fmt: skip
    aim = np.stack([by_image[bench.data.sha256s[k]] for k in rows.tolist()])
    return Asked(
        made.model, bench.data, rows, aim, gate, made.table.logits, made.figures, best, bench.seed, sha256_of_json(key)
    )
