"""Package: the chosen engine, all that it needs to decide and to prove itself, and the runtime, in one folder.

Writes `<bundle>/`, which has passed its own selftest in a process of its own; `publish` copies it to `deploy/`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from medge import built, bundle_readme, console, device_book, golden, manifest, receipts
from medge.built import Place
from medge.data import dataset
from medge.data.dataset import DataSet
from medge.errors import GateFailed, IntegrityError, ToolError
from medge.package_runtime import runtime_files, write_runtime
from medge.predictions import FLOAT, table_path
from medge.receipts import Receipt
from medge.records import (
    read_json,
    sha256_of_file,
    sha256_of_json,
    verify_files,
    write_json,
    write_text,
)
from medge.runtime import bundle as bundles
from medge.runtime.bundle import RUNTIME, SEAL, OperatingPoint
from medge.sections import PackageSection
from medge.workspace import Inputs

__all__ = ["DEPLOY", "fingerprint", "publish", "run"]

DEPLOY = Path("deploy")
_ENGINE = "engine"  # its folder in the bundle


def run(section: PackageSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Builds the bundle of the chosen engine. Raises GateFailed where none was chosen or the device that it is for gave
    no receipt, ToolError where the bundle does not pass its own selftest."""
    choice = read_json(inputs["select"].folder / "choice.json")
    if choice["chosen"] is None:
        raise GateFailed("No engine was chosen, so there is nothing to package.", fix="Loosen a limit: medge select.")
    data = dataset.load(inputs["data"].folder)
    recipe = (inputs["data"].folder.parent / "recipe.yaml").read_text(encoding="utf-8")
    name = section.name or inputs["data"].folder.parent.name
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run: building it again takes seconds
    folder.mkdir()
    place = built.place_of(inputs, choice["chosen"])
    engine = place.engine
    _copy_engine(place, folder / _ENGINE)
    point = _operating_point(choice)
    receipt = _receipt(section, inputs["profile"].folder, place, folder)
    _write_bundle(folder, name, place, data, point, inputs, choice, recipe, count=section.golden, receipt=receipt)
    if not place.built_there:
        _pass_selftest(folder)
    elif receipt is not None:
        console.warn(
            f"{engine.name} runs on {receipt.device} only, which built it: the bundle's selftest was not run. Run it "
            f"there: python3 {RUNTIME} selftest. What validates it: "
            f"{receipts.validated_by(receipt, judged_there=True)}."
        )
    return {
        "bundle": name,
        "engine": engine.name,
        "engine_sha256": engine.sha256,
        "manifest_sha256": sha256_of_file(folder / bundles.MANIFEST),
        "bytes": sum((folder / path).stat().st_size for path in bundles.files_in(folder)),
        "golden": len(read_json(folder / bundles.MANIFEST)["golden"]),
        "validated_on": receipt.device if receipt is not None else None,
        "validated_by": receipts.validated_by(receipt, judged_there=place.built_there),
        "selftest": "not run: the engine runs on the device that built it" if place.built_there else "pass",
    }


def fingerprint(section: PackageSection) -> str:
    """The code that a bundle carries, so that another runtime makes another bundle."""
    contents = {name: hashlib.sha256(content).hexdigest() for name, content in runtime_files([]).items()}
    return sha256_of_json([contents, bundle_readme.template()])


def publish(stage_folder: Path, name: str) -> Path:
    """`deploy/<name>`, made the same as the bundle in the package stage's folder. Returns it.

    A folder that already is the same is left alone; another one is replaced at once, by renaming. Raises
    IntegrityError where the stage's own bundle is not whole.
    """
    source, target = stage_folder / name, DEPLOY / name
    bundles.load(source)
    if target.exists() and _is_same(source, target):
        return target
    DEPLOY.mkdir(exist_ok=True)
    aside, stale = (DEPLOY / f".{name}.{kind}.{os.getpid()}" for kind in ("new", "old"))
    try:
        shutil.copytree(source, aside)
        bundles.load(aside)
        if target.exists():
            os.replace(target, stale)
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)
    return target


def _is_same(source: Path, target: Path) -> bool:
    try:
        bundles.load(target)
    except IntegrityError as error:
        console.warn(f"{target} is written again: {error.message}")
        return False
    return (source / SEAL).read_bytes() == (target / SEAL).read_bytes()


def _copy_engine(place: Place, folder: Path) -> None:
    """Copies an engine's files, checked, to `folder`. Raises IntegrityError."""
    for file in place.engine.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place.folder / file.path, folder / file.path)
    verify_files(folder, place.engine.files)


def _receipt(section: PackageSection, profile_folder: Path, place: Place, folder: Path) -> Receipt | None:
    """Copies the engine's receipt into the bundle. Raises GateFailed where the bundle is for a device (one whose engine
    was built there always is) and there is none of it: nothing is called validated for a machine that it did not run
    on. A receipt that would not do for its own device, as of a selftest that failed there, is left out and told."""
    receipt = receipts.find(profile_folder, place.engine)
    device = section.device
    if place.built_there and device is None:
        device = read_json(profile_folder / "latency.json")["device"]["name"]
    if device is not None:
        if section.device and (receipt is None or device not in (receipt.device, receipt.kind)):
            device_book.find(device)  # a name that nobody knows is told before a receipt that it lacks
        receipts.refuse_without(receipt, device=device, engine=place.engine, judged_there=place.built_there)
        if receipt is not None and place.built_there:
            built.refuse_changed_answers(receipt, profile_folder)
    elif receipt is not None:
        try:
            receipts.refuse_without(receipt, device=receipt.device, engine=place.engine)
        except GateFailed as error:
            console.warn(f"the bundle is not called validated on {receipt.device}: {error}")
            return None
    if receipt is not None:
        receipts.write_all(folder, [receipt])
    return receipt


def _operating_point(choice: dict[str, Any]) -> OperatingPoint:
    point = choice["operating_point"]
    positive = point.get("positive") if point.get("threshold") is not None else None
    return OperatingPoint(point["rule"], point.get("threshold"), float(point["temperature"]), positive)


def _write_bundle(
    folder: Path,
    name: str,
    place: Place,
    data: DataSet,
    point: OperatingPoint,
    inputs: Inputs,
    choice: dict[str, Any],
    recipe: str,
    *,
    count: int,
    receipt: Receipt | None,
) -> None:
    engine = place.engine
    refusal = inputs["stress"].folder / "ood.json"
    ood = read_json(refusal) if refusal.is_file() else None
    vectors = golden.write(
        folder,
        data,
        float_test=table_path(inputs["validate"].folder, FLOAT, "test"),
        engine_test=table_path(place.tables, engine.name, "test"),
        point=point,
        count=count,
        **({} if ood is None else _golden_limits(ood)),
    )
    if ood is not None:
        shutil.copyfile(inputs["stress"].folder / "ood.npy", folder / ood["manifest"]["file"])
    if len(vectors) < count:
        console.warn(f"the bundle carries {len(vectors)} golden vectors, not {count}: there are no more test images.")
    trials = built.trials_of(inputs)
    latency = read_json(inputs["profile"].folder / "latency.json")
    write_runtime(folder / RUNTIME, [engine.backend])
    write_text(folder / "README.md", "")  # so that the manifest can be composed, then listed with its text

    def compose() -> dict[str, Any]:
        return manifest.compose(
            folder, name=name, engine=engine, engine_folder=_ENGINE, data=data, point=point, golden=vectors,
            threads=int(latency["threads"]), pattern=golden.PATTERN, metrics=manifest.metrics(trials, latency, choice),
            provenance=manifest.provenance(inputs, data, recipe), ood=None if ood is None else ood["manifest"],
            receipt=receipt, judged_there=place.built_there,
        )  # fmt: skip

    write_text(folder / "README.md", bundle_readme.text(compose(), receipt))
    write_json(folder / bundles.MANIFEST, compose())
    bundles.seal(folder)


def _golden_limits(ood: dict[str, Any]) -> dict[str, Any]:
    return {"ood_scores": ood["test_scores"], "ood_threshold": ood["manifest"]["threshold"]}


def _pass_selftest(folder: Path) -> None:
    """Runs the bundle as a device would. Raises ToolError with what it said where it does not pass."""
    command = [sys.executable, "-I", str(folder / RUNTIME), "selftest"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ToolError("The bundle's selftest did not end in 10 minutes.", fix="Try it: medge validate.") from error
    if done.returncode != 0:
        raise ToolError(
            f"The bundle does not pass its own selftest (exit {done.returncode}): {done.stderr.strip()[-2000:]}",
            fix="The engine does not compute here what it computed in validate: run medge validate again.",
        )
    console.stderr.print(done.stdout.strip(), markup=False, soft_wrap=True)
