"""What became of the operating point: the float model's threshold carried over to the engine, and the re-fitted one."""

from __future__ import annotations

from typing import Any

from medge.report.gather import Found
from medge.report.words import share

__all__ = ["sentences", "transfer"]


def transfer(found: Found, name: str) -> dict[str, Any]:
    """Per quantity (sensitivity, specificity) on test: the float model's value, and the engine's at both thresholds;
    empty for more than two classes, which have no threshold. Thresholds are probabilities before temperature."""
    trial = found.judged[name]["test"]
    checks = {check["quantity"]: check for check in trial["checks"]}
    thresholds = trial["thresholds"]
    if thresholds["float"] is None:
        return {}
    values = {
        quantity: {
            "float": checks[f"{quantity}_carried"]["float"],
            "carried": checks[f"{quantity}_carried"]["engine"],
            "refitted": checks[f"{quantity}_refitted"]["engine"],
        }
        for quantity in ("sensitivity", "specificity")
    }
    used = found.trials["protocol"]["transfer"]
    return {
        **values,
        "threshold_carried": thresholds["engine_carried"],
        "threshold_refitted": thresholds["engine_refitted"],
        "temperature_float": trial["temperature_float"],
        "temperature_engine": trial["temperature"],
        "used": used,
    }


def sentences(found: Found, name: str) -> list[str]:
    """`At the old threshold sensitivity fell from 0.940 to 0.880; re-fitted it is 0.930.`, and which one is used."""
    moved = transfer(found, name)
    if not moved:
        return []
    said = [_sentence(quantity, moved[quantity]) for quantity in ("sensitivity", "specificity")]
    old, new = share(moved["threshold_carried"]), share(moved["threshold_refitted"])
    which = {"carried": f"the old one ({old})", "refitted": f"the re-fitted one ({new})"}
    other = {"carried": f"re-fitted: {new}", "refitted": f"old: {old}"}
    used = moved["used"]
    return [*said, f"The threshold that ships is {which[used]}, before temperature; {other[used]}."]


def _sentence(quantity: str, values: dict[str, float]) -> str:
    before, after, refitted = (share(values[key]) for key in ("float", "carried", "refitted"))
    if before == after:
        moved = f"stayed at {after}"
    else:
        moved = f"{'fell' if values['carried'] < values['float'] else 'rose'} from {before} to {after}"
    return f"At the old threshold {quantity} {moved}; re-fitted it is {refitted}."
