"""A bundle: the folder that ships. It is read whole or refused.

`manifest.json` lists every file with its sha256; `manifest.sha256` seals the manifest (`sha256sum -c` reads it too).
A file that is missing, changed, linked or not listed is an error: what runs is what was validated, or nothing runs.
This finds accidents and careless changes, not an attacker, who would seal anew; that takes a signature.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Tuple

from medge.errors import IntegrityError
from medge.records import Engine, File, Preprocess, from_json, verify_files, write_text

__all__ = ["MANIFEST", "RUNTIME", "SCHEMA", "SEAL", "Bundle", "OperatingPoint", "files_in", "load", "seal"]

SCHEMA = 1
MANIFEST, SEAL, RUNTIME = "manifest.json", "manifest.sha256", "medge-runtime.pyz"

_COPY_AGAIN = "Do not use it. Copy the bundle again from where it was made."


@dataclass(frozen=True)
class OperatingPoint:
    """How logits become a decision (medge.runtime.decision). With two classes `positive` and `threshold` are set; with
    more both are None and the most probable class is the decision."""

    rule: str
    threshold: Optional[float]
    temperature: float
    positive: Optional[str]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `engine.files` are relative to `engine_folder`; `manifest` is the whole document."""

    folder: Path
    manifest_sha256: str
    engine: Engine
    engine_folder: Path
    preprocess: Preprocess
    labels: Tuple[str, ...]
    operating_point: OperatingPoint
    threads: int
    manifest: Dict[str, Any]


def load(folder: Path) -> Bundle:
    """The bundle in `folder`, every byte of it verified. Raises IntegrityError with all that is wrong."""
    text, digest = _sealed_manifest(folder)
    try:
        manifest = json.loads(text)
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder / MANIFEST} is not a manifest: {error!r}.", fix=_COPY_AGAIN) from error
    if schema != SCHEMA:
        raise IntegrityError(
            f"{folder / MANIFEST} has schema {schema!r}; this runtime reads schema {SCHEMA}.",
            fix=f"Use the {RUNTIME} that came with the bundle.",
        )
    try:
        listed = [_file(item) for item in manifest["files"]]
        _verify(folder, listed)
        return _bundle(folder, digest, manifest, {file.path for file in listed})
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise IntegrityError(f"{folder / MANIFEST} is not a manifest: {error!r}.", fix=_COPY_AGAIN) from error


def seal(folder: Path) -> str:
    """Writes `manifest.sha256` for the manifest in `folder`; returns the manifest's sha256."""
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    write_text(folder / SEAL, _seal_text(digest))
    return digest


def files_in(folder: Path) -> List[str]:
    """Paths of everything below `folder` that is not a plain folder, relative, with forward slashes, sorted."""
    found = []
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found += [Path(root, name).relative_to(folder).as_posix() for name in [*names, *links]]
    return sorted(found)


def _seal_text(digest: str) -> str:
    return f"{digest}  {MANIFEST}\n"


def _sealed_manifest(folder: Path) -> Tuple[bytes, str]:
    """The manifest's bytes and sha256. Raises IntegrityError where the seal says otherwise, in any byte."""
    try:
        text, sealed = (folder / MANIFEST).read_bytes(), (folder / SEAL).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{folder} is not a bundle: {error}.", fix=_COPY_AGAIN) from error
    digest = hashlib.sha256(text).hexdigest()
    if sealed != _seal_text(digest).encode():
        raise IntegrityError(f"{folder / MANIFEST} is not the one that {SEAL} seals.", fix=_COPY_AGAIN)
    return text, digest


def _verify(folder: Path, listed: Iterable[File]) -> None:
    """Raises IntegrityError for a path outside the bundle, a file not listed, a link, and what verify_files finds."""
    listed = list(listed)
    paths = [file.path for file in listed]
    outside = [path for path in paths if not _is_inside(path)]
    if outside or len(set(paths)) != len(paths):
        raise IntegrityError(
            f"{folder / MANIFEST} names files outside the bundle, or twice: {outside or paths}.", fix=_COPY_AGAIN
        )
    present = files_in(folder)
    wrong = [f"{path} is not in the manifest" for path in present if path not in {*paths, MANIFEST, SEAL}]
    wrong += [f"{path} is a link" for path in present if os.path.islink(folder / path)]
    if wrong:
        raise IntegrityError(f"In {folder}: {'; '.join(wrong)}.", fix=f"Remove what you added. Else: {_COPY_AGAIN}")
    verify_files(folder, listed)


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return not (set(parts) & {"", ".", ".."}) and not set(path) & set("\\:\0") and path not in (MANIFEST, SEAL)


def _bundle(folder: Path, digest: str, manifest: Dict[str, Any], listed: Iterable[str]) -> Bundle:
    """The parts of the manifest that running needs, checked. Raises IntegrityError, KeyError, TypeError, ValueError."""
    first = manifest["engines"][0]
    below = first["folder"] + "/"
    files = [_file(item) for item in first["files"]]
    if not files or not all(file.path.startswith(below) and file.path in listed for file in files):
        raise ValueError(f"the engine's files are not listed below {below}")
    engine = Engine(
        variant=first["variant"],
        backend=first["backend"],
        precision=first["precision"],
        files=tuple(File(file.path[len(below) :], file.sha256, file.bytes) for file in files),
        onnx_sha256=first["onnx_sha256"],
        versions=first["versions"],
    )
    if engine.sha256 != first["sha256"]:
        raise ValueError("the engine's sha256 is not that of its files")
    labels = tuple(str(label) for label in manifest["labels"])
    refusal = manifest.get("ood")
    if refusal is not None and refusal["file"] not in listed:
        raise ValueError(f"the file of ood, {refusal['file']}, is not listed")
    point = from_json(OperatingPoint, manifest["operating_point"])
    _check_point(point, labels)
    return Bundle(
        folder=folder,
        manifest_sha256=digest,
        engine=engine,
        engine_folder=folder / first["folder"],
        preprocess=Preprocess(**{key: manifest["preprocess"][key] for key in Preprocess.__annotations__}),
        labels=labels,
        operating_point=point,
        threads=int(manifest["threads"]),
        manifest=manifest,
    )


def _file(item: Dict[str, Any]) -> File:
    return File(str(item["path"]), str(item["sha256"]), int(item["bytes"]))


def _check_point(point: OperatingPoint, labels: Tuple[str, ...]) -> None:
    """Raises ValueError for an operating point that cannot decide between these labels."""
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ValueError(f"the labels are {list(labels)}")
    if not (math.isfinite(point.temperature) and point.temperature > 0):
        raise ValueError(f"the temperature is {point.temperature}")
    if (point.threshold is None) != (point.positive is None):
        raise ValueError("a threshold needs a positive class, and a positive class a threshold")
    if point.threshold is not None and (len(labels) != 2 or point.positive not in labels):
        raise ValueError(f"'{point.positive}' with a threshold does not fit the labels {list(labels)}")
    if point.threshold is not None and not math.isfinite(point.threshold):
        raise ValueError(f"the threshold is {point.threshold}")
