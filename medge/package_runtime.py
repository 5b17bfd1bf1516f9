"""The light ring as one archive that python3 runs, the same bytes every time: `medge-runtime.pyz` of a bundle, and
`job.pyz`, which measures on a device.

Files are stored, not deflated, with one fixed date: zlib's versions compress differently, and the device reads the
archive at every start.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import medge
from medge import plugins
from medge.errors import MissingError

__all__ = ["job_files", "runtime_files", "write_job", "write_runtime"]

_MODULES = (
    "__init__.py",
    "errors.py",
    "plugins.py",
    "predictions.py",
    "protocols.py",
    "records.py",
    "backends/__init__.py",
    "devices/__init__.py",
    "devices/local.py",
)
_MEASURING = ("bench_worker.py", "interleave.py", "measuring.py", "scenarios.py", "sweep.py")
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold


def runtime_files(backends: Sequence[str]) -> dict[str, bytes]:
    """Names in the archive and their bytes: the light ring, and of the backends (also of those found by
    MEDGE_PLUGIN_PATH) only the ones named. Raises RecipeError for a backend that there is not."""
    package = Path(medge.__file__).parent
    files = {f"medge/{name}": (package / name).read_bytes() for name in _MODULES}
    for path in sorted((package / "runtime").glob("*.py")):
        files[f"medge/runtime/{path.name}"] = path.read_bytes()
    for path in sorted((package / "backends").glob("_*.py")):
        files[f"medge/backends/{path.name}"] = path.read_bytes()
    for name in backends:
        files[f"medge/backends/{name}.py"] = _source_of(name)
    files["__main__.py"] = files.pop("medge/runtime/boot.py")
    return dict(sorted(files.items()))


def job_files(backends: Sequence[str]) -> dict[str, bytes]:
    """As runtime_files, with what measures on a device and every kind of device; it needs no bundle around it."""
    package = Path(medge.__file__).parent
    files = runtime_files(backends)
    for path in [*sorted((package / "devices").glob("*.py")), *sorted((package / "job").glob("*.py"))]:
        files[f"medge/{path.parent.name}/{path.name}"] = path.read_bytes()
    for name in _MEASURING:
        files[f"medge/{name}"] = (package / name).read_bytes()
    files["__main__.py"] = files.pop("medge/job/boot.py")  # instead of the runtime's
    return dict(sorted(files.items()))


def write_runtime(path: Path, backends: Sequence[str]) -> None:
    """The archive at `path`. The bundle's manifest must list it, or it refuses to run."""
    _write(path, runtime_files(backends))


def write_job(path: Path, backends: Sequence[str]) -> None:
    """job.pyz at `path`."""
    _write(path, job_files(backends))


def _write(path: Path, files: dict[str, bytes]) -> None:
    with open(path, "wb") as stream:
        stream.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = 0o100644 << 16
                entry.create_system = 3  # Unix, wherever it is written
                archive.writestr(entry, content)
    path.chmod(0o755)


def _source_of(backend: str) -> bytes:
    path = plugins.load("backends", backend).__file__
    if path is None or not path.endswith(".py"):
        raise MissingError(
            f"Backend '{backend}' is not one .py file ({path}).",
            fix="A bundle carries its backend's file: make it one.",
        )
    return Path(path).read_bytes()
