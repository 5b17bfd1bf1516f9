"""Does the bundle compute here what it computed where it was validated? Replays golden vectors.

Each is a real test image at model size with the logits recorded on the validating host. Kernels differ between
processors (an INT8 EfficientNet's logits by some percent between x86 and arm64, its answers not), so each precision has
its tolerance, written into the manifest; the decisions must agree but within `probability` of the threshold.
A drawn test picture, prepared here and there, shows that resizing is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

import numpy as np

from medge.errors import GateFailed
from medge.records import NOTICE
from medge.runtime.bundle import Bundle
from medge.runtime.decision import decide, probabilities
from medge.runtime.predict import predict_outputs
from medge.runtime.preprocess import load_image, prepare

if TYPE_CHECKING:
    from medge.protocols import Session

__all__ = ["GREY_LEVELS", "TOLERANCE", "golden_image", "pattern", "replay"]

Array = Any

# logits: the largest difference, as a share of the largest golden logit (at least 1).
TOLERANCE = {
    "float32": {"logits": 0.001, "probability": 0.001},
    "float16": {"logits": 0.02, "probability": 0.02},
    "bfloat16": {"logits": 0.05, "probability": 0.05},
    "int8": {"logits": 0.25, "probability": 0.1},
    "int8_bfloat16": {"logits": 0.25, "probability": 0.1},
    "int8_float16": {"logits": 0.25, "probability": 0.1},
}
GREY_LEVELS = 1  # by which a resized pixel may differ: builds of Pillow round differently

_FIX = "Do not use the bundle on this machine. Install the engine's recorded version, or validate on this device."


def replay(bundle: Bundle, session: Session) -> Dict[str, Any]:
    """Runs every check. Raises GateFailed (exit 5) where a number is out of tolerance."""
    problems = []
    drift = _preprocess_difference(bundle)
    if drift > GREY_LEVELS:
        problems.append(f"a resized test picture differs by {drift} grey levels (allowed {GREY_LEVELS})")
    golden = bundle.manifest["golden"]
    images = (golden_image(bundle.folder / vector["image"]) for vector in golden)
    logits, features = predict_outputs(session, images)
    recorded = np.asarray([vector["engine_logits"] for vector in golden], dtype=np.float64)
    tolerance = bundle.manifest["golden_tolerance"]
    shares = np.abs(logits - recorded).max(axis=1) / max(1.0, float(np.abs(recorded).max()))
    problems += [
        f"{vector['image']}: logits {_words(here)} here, {_words(there)} recorded"
        for vector, here, there, share in zip(golden, logits, recorded, shares)
        if not share <= tolerance["logits"]
    ]
    problems += _changed_decisions(bundle, logits, recorded)
    problems += _newly_refused(bundle, session, features)
    if problems:
        raise GateFailed(
            f"The selftest failed: {len(problems)} deviations from what was validated: {'; '.join(problems)}.", fix=_FIX
        )
    return {
        "selftest": "pass",
        "vectors": len(golden),
        "largest_difference": float(shares.max()),
        "tolerance": tolerance["logits"],
        "resize_difference_grey_levels": drift,
        "engine_sha256": bundle.engine.sha256,
        "notice": NOTICE,
    }


def golden_image(path: Path) -> Array:
    """uint8 [height, width, 3] of a stored golden image."""
    return np.asarray(load_image(path), dtype=np.uint8)


def pattern() -> Array:
    """The test picture: uint8 [301, 407, 3], fine and coarse detail, the same on every machine."""
    y, x = np.indices((301, 407))
    return np.stack([(3 * x * x + 7 * y) % 256, (5 * x + 2 * y * y) % 256, (x * y // 16) % 256], axis=2).astype(
        np.uint8
    )


def _preprocess_difference(bundle: Bundle) -> int:
    here = prepare(pattern(), bundle.preprocess).astype(np.int16)
    there = golden_image(bundle.folder / bundle.manifest["preprocess"]["pattern"])
    return int(np.abs(here - there).max()) if here.shape == there.shape else 255


def _changed_decisions(bundle: Bundle, logits: Array, recorded: Array) -> List[str]:
    point, near = bundle.operating_point, bundle.manifest["golden_tolerance"]["probability"]
    problems = []
    for vector, here, there in zip(bundle.manifest["golden"], logits, recorded):
        p_here = probabilities(here, temperature=point.temperature)
        p_there = probabilities(there, temperature=point.temperature)
        before = decide(p_there, labels=bundle.labels, point=point)
        now = decide(p_here, labels=bundle.labels, point=point)
        if now != before and _distance(bundle, p_there) > near:
            problems.append(f"{vector['image']}: {now} here, {before} recorded")
    return problems


def _newly_refused(bundle: Bundle, session: Session, features: Array) -> List[str]:
    """Golden images that are refused here and by more than the engine's tolerance were not where it was validated."""
    if bundle.manifest.get("ood") is None:
        return []
    from medge.runtime import ood

    detector = ood.load(bundle.folder, bundle.manifest["ood"])
    allowed = 1 + bundle.manifest["golden_tolerance"]["logits"]

    def score_of(vector: Dict[str, Any], own: Array) -> float:
        image = golden_image(bundle.folder / vector["image"])
        return ood.score_of(detector, own[None], lambda: predict_outputs(session, [ood.recompressed(image)])[1])

    golden = bundle.manifest["golden"]
    return [
        f"{vector['image']}: refused here with a score of {score:.4g}, {vector['ood_score']:.4g} recorded"
        for vector, score in zip(golden, map(score_of, golden, features))
        if ood.is_unlike(detector, score) and not score <= vector["ood_score"] * allowed
    ]


def _distance(bundle: Bundle, probability: Array) -> float:
    """How far a recorded probability is from another decision."""
    point = bundle.operating_point
    if point.threshold is None:
        highest = np.sort(probability)[::-1]
        return float(highest[0] - highest[1])
    return abs(float(probability[bundle.labels.index(str(point.positive))]) - point.threshold)


def _words(logits: Array) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in logits) + "]"
