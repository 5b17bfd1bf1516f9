"""Receipts: that an engine ran on a device, which one, and what it did there. `package` asks for one.

One file an engine, `receipts/<variant>__<backend>-<precision>.json`, named by the sha256 of the engine's files: an
engine that is built again is another one and needs another receipt.

A receipt is written on the host from the device's result, which has a seal of its own (`job_seal`, medge.job.spec). Its
`seal` is the sha256 of everything else in it, by canonical JSON: one changed figure, one key more or less, and it is
refused. That finds accidents and careless edits; it is no signature, since whoever forges a receipt can seal it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import medge
from medge.errors import GateFailed, IntegrityError
from medge.records import Engine, file_stem, from_json, read_json, sha256_of_json, to_json, write_json
from medge.runtime.decision import probabilities
from medge.runtime.selftest import TOLERANCE

__all__ = [
    "FOLDER", "NOT_RUN", "SCHEMA", "Receipt", "compared", "file_name", "find", "made_of", "refuse_without", "sealed",
    "validated_by", "write_all",
]  # fmt: skip

FOLDER = "receipts"
SCHEMA = 2  # 1 sealed the device's facts only
NOT_RUN = "not run"


@dataclass(frozen=True)
class Receipt:
    """What a device did with an engine. `device` is its name in the device book, `local` for the host itself.

    facts_sha256: of `facts`. machine: instructions and versions that decide an engine's numbers. power_mode: None where
    the kind has none. selftest: verdict `pass`, `fail` or `not run` (with the reason). metrics: point values on a
    labelled set that was run there, if one was; answers: {split: sha256 of the predictions table of what it said}.
    time: UTC. job_seal: of the result that it was made from, None where it was measured here. caches: {kind: {sha256,
    pin, given}} of what its build (`times`) or its starts (`blob`) used and left; given: the sha256 of the one that it
    was given, None where it began without. seal: of all the rest (see above).
    """

    engine: str
    engine_sha256: str
    onnx_sha256: str
    device: str
    kind: str
    facts: dict[str, Any]
    facts_sha256: str
    machine: dict[str, Any]
    power_mode: Any
    threads: int
    selftest: dict[str, Any]
    metrics: dict[str, Any] | None
    latency: dict[str, Any]
    aa_control: str
    time: str
    job_seal: str | None
    medge: str = medge.__version__
    caches: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    seal: str = ""


def sealed(receipt: Receipt) -> Receipt:
    """The receipt with the seal of what it says."""
    return replace(receipt, seal=_seal_of(to_json(receipt)))


def _seal_of(document: Mapping[str, Any]) -> str:
    return sha256_of_json({key: value for key, value in document.items() if key != "seal"})


def file_name(engine: str) -> str:
    return f"{file_stem(engine)}.json"


def write_all(folder: Path, receipts: Sequence[Receipt]) -> None:
    """Writes receipts below a stage's folder."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for receipt in receipts:
        write_json(folder / FOLDER / file_name(receipt.engine), receipt)


def find(profile_folder: Path, engine: Engine) -> Receipt | None:
    """The receipt of exactly this engine; None where there is none. Raises IntegrityError where anything in it is not
    what it was sealed with, or where its seal is an earlier medge's, which covered less."""
    path = profile_folder / FOLDER / file_name(engine.name)
    if not path.is_file():
        return None
    document = read_json(path)
    schema = document.get("schema", 1) if isinstance(document, dict) else None
    if schema != SCHEMA:
        why = f"is not a receipt of this medge (its schema is {schema!r}, not {SCHEMA})"
        if schema == 1:
            why = "is of an earlier medge, whose receipts seal the device's facts only"
        raise IntegrityError(f"{path} {why}.", fix=_again(profile_folder))
    if document.get("seal") != _seal_of(document):
        raise IntegrityError(f"{path}: what it says is not what it was sealed with.", fix=_again(profile_folder))
    receipt = from_json(Receipt, document)
    return receipt if (receipt.engine, receipt.engine_sha256) == (engine.name, engine.sha256) else None


def _again(profile_folder: Path) -> str:
    """How to get another receipt: the device's name is latency.json's, since the receipt is not to be believed."""
    latency = profile_folder / "latency.json"
    about = read_json(latency).get("device", {}) if latency.is_file() else {}
    device = about.get("name") or about.get("kind") or "NAME"
    return f"Profile again: medge profile --device {device}; then medge select; medge package"


def refuse_without(receipt: Receipt | None, *, device: str, engine: Engine, judged_there: bool = False) -> None:
    """Raises GateFailed unless `receipt` is of this device (a name or a kind) and its selftest passed there. On `local`
    validate has run every image, which is more. An engine that the device built (`judged_there`) was judged by its
    answers to every image there, which is more too: without them in its receipt nothing validates it.
    """
    again = f"medge profile --device {device}; then medge select; medge package --device {device}"
    if receipt is None:
        raise GateFailed(
            f"{engine.name} ({engine.sha256[:12]}) has no receipt: it was not run on {device} as it is now.", fix=again
        )
    if device not in (receipt.device, receipt.kind):
        raise GateFailed(f"The receipt of {engine.name} is of {receipt.device}, not of {device}.", fix=again)
    if judged_there:
        if not {"validation", "test"} <= set(receipt.answers):
            raise GateFailed(
                f"{engine.name} was built on {receipt.device} and not scored there: nothing validates it.",
                fix=again.replace(f"--device {device};", f"--device {device} --set profile.score=both;"),
            )
        return
    if device != "local" and receipt.selftest["verdict"] != "pass":
        reason = receipt.selftest.get("reason", "it answers otherwise there")
        raise GateFailed(
            f"{engine.name} did not pass its selftest on {receipt.device} ({receipt.selftest['verdict']}): {reason}.",
            fix="Choose another engine (medge select --engine), or compile for that device.",
        )


def validated_by(receipt: Receipt | None, *, judged_there: bool = False) -> str:
    """What makes an engine validated, in words; `receipt` has passed `refuse_without`."""
    host = "every validation and test image was run through it on the machine that made this bundle"
    if receipt is None or receipt.device == "local":
        return host
    test = receipt.selftest
    if not judged_there:
        return f"{host}; its selftest on {receipt.device} passed ({test.get('vectors', 'some')} images)"
    images = (receipt.metrics or {}).get("images", "all")
    reason = f": {test['reason']}" if "reason" in test else ""
    return (
        f"select judged what it answered on {receipt.device}, which built it, to every validation and test image "
        f"({images} test images); its selftest there, against its graph on the host: {test['verdict']}{reason}"
    )


def compared(here: Any, there: Any, *, precision: str) -> dict[str, Any]:
    """Answers of a device against those of this host: logits [n, classes] of the same images.

    As the bundle's selftest judges (medge.runtime.selftest): the largest difference as a share of the largest logit, at
    least 1; and the most probable class, unless the two highest probabilities are within the tolerance.
    """
    ours, theirs = np.asarray(here, dtype=np.float64), np.asarray(there, dtype=np.float64)
    tolerance = TOLERANCE.get(precision, TOLERANCE["int8"])
    if ours.shape != theirs.shape or not len(ours):
        return {"verdict": "fail", "vectors": len(ours), "reason": f"{theirs.shape} answers, not {ours.shape}"}
    share = float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max())))
    spread = np.sort([probabilities(row, temperature=1.0) for row in ours], axis=1)
    clear = spread[:, -1] - spread[:, -2] > tolerance["probability"]
    changed = int((clear & (ours.argmax(axis=1) != theirs.argmax(axis=1))).sum())
    passed = share <= tolerance["logits"] and not changed
    reason = {} if passed else {"reason": f"logits differ by {share:.3g}, {changed} decisions are others"}
    return {
        "verdict": "pass" if passed else "fail",
        "vectors": len(ours),
        "largest_difference": share,
        "tolerance": tolerance["logits"],
        "changed_decisions": changed,
        **reason,
    }


def made_of(
    engines: Sequence[Engine], report: Mapping[str, Any], *, device: str, machines: Mapping[str, Any],
    selftests: Mapping[str, Any], metrics: Mapping[str, Any], time: str, seal: str | None,
    caches: Sequence[Mapping[str, Any]] = (), answers: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Receipt]:  # fmt: skip
    """A sealed receipt for every engine that was measured; `report` is what latency.json holds."""
    facts = report["device"]["facts"]
    power = report["device"].get("power") or {}
    state = power.get("during") or report["device"].get("before") or {}
    mode = state.get("power_mode")
    made = [
        Receipt(
            engine=engine.name,
            engine_sha256=engine.sha256,
            onnx_sha256=engine.onnx_sha256,
            device=device,
            kind=report["device"]["kind"],
            facts=facts,
            facts_sha256=sha256_of_json(facts),
            machine=machines[engine.name],
            power_mode=mode,
            threads=report["threads"],
            selftest=selftests.get(engine.name, {"verdict": NOT_RUN, "reason": "this host has no answer of its own"}),
            metrics=metrics.get(engine.name),
            latency=report["engines"][engine.name],
            aa_control=report["aa_control"]["verdict"],
            time=time,
            job_seal=seal,
            caches={
                one["kind"]: {"sha256": one["file"]["sha256"], "pin": one["pin"], "given": one["given"]}
                for one in caches
                if one["engine"] == engine.name
            },
            answers=dict((answers or {}).get(engine.name, {})),
        )
        for engine in engines
        if engine.name in report["engines"]
    ]
    return [sealed(receipt) for receipt in made]
