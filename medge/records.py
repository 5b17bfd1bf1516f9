"""Values that cross a border (stage, process, machine): frozen, hashed, saved as JSON.

Light ring: standard library only, Python 3.8 or newer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Tuple, Type, TypeVar, get_type_hints

from medge.errors import IntegrityError

__all__ = [
    "NOTICE",
    "Engine",
    "File",
    "Latency",
    "Preprocess",
    "file_record",
    "file_stem",
    "from_json",
    "read_json",
    "sha256_of_file",
    "sha256_of_json",
    "verify_files",
    "write_json",
    "write_text",
]

NOTICE = "research use; not a medical device"

T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """A file inside a stage folder or a bundle; `path` is relative to it, with forward slashes."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Preprocess:
    """How a decoded image becomes the engine's input: uint8 [height, width, 3], RGB.

    resize: `squash` (aspect ratio not kept), `letterbox` (kept, black borders), `crop` (kept, centre cut).
    interpolation: `bilinear`, `bicubic` or `lanczos`, as Pillow does them (with antialiasing).
    """

    width: int
    height: int
    resize: str = "squash"
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class Engine:
    """A compiled variant. `files` lie in the engine's own folder; `sha256` names variant-independent content:
    backend, precision and the files' hashes."""

    variant: str
    backend: str
    precision: str
    files: Tuple[File, ...]
    onnx_sha256: str
    versions: Dict[str, str]

    @property
    def name(self) -> str:
        """`int8/openvino-int8`: unique in a run, and the engine's folder in the compile stage."""
        return f"{self.variant}/{self.backend}-{self.precision}"

    @property
    def sha256(self) -> str:
        return sha256_of_json([self.backend, self.precision, [[f.path, f.sha256] for f in self.files]])

    @property
    def bytes(self) -> int:
        return sum(f.bytes for f in self.files)


@dataclass(frozen=True)
class Latency:
    """One image, batch 1, host array in to host array out. A percentile that the sample cannot carry is None."""

    queries: int
    p50_ms: float
    p90_ms: Optional[float]
    p95_ms: Optional[float]
    p99_ms: Optional[float]
    first_inference_ms: float
    peak_memory_mb: Optional[float]


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and paths as plain JSON values; anything else unchanged."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, Path):
        return value.as_posix()
    return value


def file_stem(engine: str) -> str:
    """An engine's name as that of a file, such as `int8__openvino-int8`."""
    return engine.replace("/", "__").replace(" ", "-")


def from_json(kind: Type[T], value: Any) -> T:
    """A dataclass of `kind` from what `to_json` made of it. Raises IntegrityError if it does not fit."""
    try:
        hints = get_type_hints(kind)
        arguments = {name: _revive(hints[name], item) for name, item in value.items()}
        return kind(**arguments)
    except (AttributeError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"A record is not a {kind.__name__}: {error}.",
            fix="Make it again: delete its folder and repeat the command.",
        ) from error


def _revive(hint: Any, value: Any) -> Any:
    arguments: Tuple[Any, ...] = getattr(hint, "__args__", ())
    if value is None:
        return None
    if type(None) in arguments:  # Optional[X]
        hint = next(one for one in arguments if one is not type(None))
        arguments = getattr(hint, "__args__", ())
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)  # type: ignore[arg-type]
    if getattr(hint, "__origin__", None) is tuple:
        return tuple(_revive(arguments[0], item) for item in value)
    return value


def sha256_of_json(value: Any) -> str:
    """Hash of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def file_record(folder: Path, path: Path) -> File:
    """The record of `path`, which lies somewhere below `folder`."""
    return File(path.relative_to(folder).as_posix(), sha256_of_file(path), path.stat().st_size)


def verify_files(folder: Path, files: Iterable[File]) -> None:
    """Raises IntegrityError, naming every file that is missing or not the one recorded."""
    wrong: List[str] = []
    for file in files:
        path = folder / file.path
        if not path.is_file():
            wrong.append(f"{file.path} is missing")
        elif path.stat().st_size != file.bytes or sha256_of_file(path) != file.sha256:
            wrong.append(f"{file.path} is not the recorded file (its sha256 differs)")
    if wrong:
        raise IntegrityError(f"In {folder}: {'; '.join(wrong)}.", fix="Do not use it. Copy or build it again.")


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises IntegrityError if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"Cannot read {path}: {error}.", fix="Make it again, or copy it again.") from error


def write_json(path: Path, value: Any) -> None:
    """JSON written aside and renamed, so that `path` is never half a document. NaN is refused."""
    write_text(path, json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Text written aside, flushed to the disk and renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        if aside.exists():
            aside.unlink()
