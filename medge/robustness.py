"""Images made worse on purpose: what the float32 engine and the chosen one make of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import console, corruptions
from medge.engine_outputs import Outputs, Runner, write_images
from medge.errors import DataError
from medge.likeness import scores_of
from medge.operating import decide
from medge.records import Engine, read_json, write_json
from medge.runtime.ood import Detector
from medge.sections import CorruptionSection
from medge.statistics.delong import paired_macro_auc
from medge.statistics.scores import one_vs_rest

__all__ = ["kinds_of", "measure", "sample"]


def kinds_of(section: CorruptionSection) -> tuple[str, ...]:
    """The kinds that the recipe names, `all` spelled out."""
    return corruptions.KINDS if section.kinds == "all" else section.kinds


def sample(labels: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.int64]:
    """Up to `count` positions in `labels`, ascending, the classes as often as among all, each at least twice where
    it is there."""
    random = np.random.default_rng([seed, 19])
    if count >= len(labels):
        return np.arange(len(labels))
    chosen: list[int] = []
    for k in np.unique(labels):
        of_class = random.permutation(np.flatnonzero(labels == k))
        chosen += of_class[: max(2, round(count * len(of_class) / len(labels)))].tolist()
    return np.sort(np.asarray(chosen, dtype=np.int64))


def measure(
    section: CorruptionSection,
    runner: Runner,
    engines: Sequence[tuple[Engine, Path]],
    detectors: dict[str, Detector],
    work: Path,
    *,
    cuts: tuple[float | None, float | None],
    alpha: float,
    seed: int,
) -> dict[str, Any]:
    """{images, rows}: a row for each kind and severity. `engines`: the reference, then the chosen one; `cuts`: their
    thresholds, as scores. Rows of a kind lie in `scratch` once they are done, so a killed run continues after them."""
    rows = runner.data.indices("test")
    rows = rows[sample(runner.data.label[rows], section.images, seed=seed)]
    found: list[dict[str, Any]] = []
    kinds = kinds_of(section)
    with console.progress("corruptions", len(kinds), unit="kinds") as advance:
        for kind in kinds:
            done = work / f"corruption-{kind}.json"
            if not done.is_file():
                raw = _write(kind, section.severities, runner, rows, work / f"{kind}.u8", seed=seed)
                count = range(len(rows) * len(section.severities))
                outputs = [runner.raw(engine, folder, kind, raw, count) for engine, folder in engines]
                of_kind = _rows(kind, section.severities, outputs, runner.data.label[rows], cuts=cuts, alpha=alpha)
                for key, pair, one in zip(("refused_float", "refused_engine"), engines, outputs, strict=True):
                    detector = detectors.get(pair[0].name)
                    shares = (
                        None
                        if detector is None
                        else scores_of(
                            detector, one.features, runner=runner, engine=pair, name=kind, images=raw, rows=count
                        )
                        > detector.threshold
                    )
                    _add_refusals(key, of_kind, shares, len(rows))
                write_json(done, of_kind)
                raw.unlink()
            found += read_json(done)
            advance()
    return {"images": len(rows), "rows": found}


def _write(
    kind: str, severities: Sequence[int], runner: Runner, rows: NDArray[np.int64], path: Path, *, seed: int
) -> Path:
    """Severity by severity, in each the images in their order; each image has its own seed at every severity."""
    images = runner.data.read(rows)
    worse = [
        corruptions.corrupt(image, kind, severity, seed=seed + int(row))
        for severity in severities
        for row, image in zip(rows, images, strict=True)
    ]
    return write_images(path, np.stack(worse))


def _rows(
    kind: str,
    severities: Sequence[int],
    outputs: Sequence[Outputs],
    labels: NDArray[np.int64],
    *,
    cuts: tuple[float | None, float | None],
    alpha: float,
) -> list[dict[str, Any]]:
    """AUC of both, their difference with DeLong's one-sided lower bound, and the share of decisions that differ."""
    found = []
    for k, severity in enumerate(severities):
        part = slice(k * len(labels), (k + 1) * len(labels))
        before, after = (one.logits[part].astype(np.float64) for one in outputs)
        changed = decide(before, cuts[0]) != decide(after, cuts[1])
        found.append(
            {"kind": kind, "severity": severity, **_aucs(before, after, labels, alpha), "flips": float(changed.mean())}
        )
    return found


def _aucs(
    before: NDArray[np.float64], after: NDArray[np.float64], labels: NDArray[np.int64], alpha: float
) -> dict[str, float | None]:
    wanted = [1] if before.shape[1] == 2 else range(before.shape[1])
    targets = np.stack([labels == k for k in wanted], axis=1)
    try:
        pair = paired_macro_auc(one_vs_rest(before), one_vs_rest(after), targets, alpha=alpha)
    except DataError:  # a class with fewer than two images: there is no AUC to tell
        return {"auc_float": None, "auc_engine": None, "difference": None, "lower": None}
    return {"auc_float": pair.a, "auc_engine": pair.b, "difference": pair.difference, "lower": pair.lower}


def _add_refusals(key: str, rows: list[dict[str, Any]], refused: NDArray[np.bool_] | None, count: int) -> None:
    """The share that an engine's refusal of unlike images would not have judged; None without one."""
    for k, row in enumerate(rows):
        row[key] = None if refused is None else float(refused[k * count : (k + 1) * count].mean())
