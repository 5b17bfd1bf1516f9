"""A quantised variant whose gate did not pass, with the guilty layers in float (medge.rollback finds them)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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

__all__ = ["mended"]


def mended(
    bench: Bench, name: str, chain: Sequence[Step], works: Sequence[Path], made: Made, section: Rollback,
    place: Path, log: list[str],
) -> Made:  # fmt: skip
    """The same with its guilty layers in float (medge.rollback), or as it was where its gate passes or none helps.

    A chain whose last step says how to leave layers in float is followed again with them; what was trained is not
    trained again: the quantisers are taken out of it.
    """
    reference = bench.reference
    best = trial.judge(reference, reference, reference, reference, section=bench.gate, seed=bench.seed).verdict
    if rollback.is_reached(made.figures, section, best):
        return made
    found = rollback.search(_asked(bench, name, chain, made, best), section, place)
    log += _with_latency(found, bench, made, section, place)
    if not found.layers:
        return made
    option = getattr(plugins.load("compressors", chain[-1].compressor), "LEAVES_IN_FLOAT", None)
    if option is not None:
        ignored = [*chain[-1].options.get(option, ()), *found.layers]
        last = Step(compressor=chain[-1].compressor, options={**chain[-1].options, option: ignored})
        changed = [*chain[:-1], last]
        model = apply(bench, changed, [*works[:-1], place / "last"], [])
        again = replace(judged(bench, name, changed, model), in_float=found.layers)
        log.append(f"[{names(chain)}] with {len(found.layers)} layers in float, {sentence(again.figures)}")
        if rollback.is_reached(again.figures, section, best) or not found.reached:
            return min(made, again, key=lambda m: rollback.rank(m.figures, best))
    quantised.remove(made.model, found.quantisers)
    again = replace(judged(bench, name, chain, made.model), in_float=found.layers)
    log.append(f"[{names(chain)}] with the quantisers of these layers taken out, {sentence(again.figures)}")
    return again


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
