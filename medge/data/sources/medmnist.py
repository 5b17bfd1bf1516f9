"""MedMNIST through its own package (`pip install 'medge[medmnist]'`): a 2D set by name, e.g. `pneumoniamnist`.

Sets are looked for in `data.path` (default `~/.medmnist`) and downloaded there where they are missing, which is what
naming one asks for. They tell no patients, so each image is a group; `split: {column: folder}` keeps their own split.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge import console, plugins
from medge.data.files import state_of
from medge.data.table import SourceTable, interned
from medge.errors import DataError, MissingError

__all__ = ["files", "rows"]

_SIDES = ("train", "val", "test")


def files(section: Any) -> Iterator[Path]:
    """The files that `rows` depends on."""
    yield _archive(section, _facts(section))


def rows(section: Any, *, seed: int, work: Path) -> SourceTable:
    """One row per image of all three sides. Raises MissingError without the package, DataError for a wrong name."""
    facts = _facts(section)
    archive = _archive(section, facts)
    if not archive.is_file():
        _download(section, facts, archive)
    labels: list[str] = []
    sides: list[str] = []
    parts = []
    try:
        for side in _SIDES:
            part, index = _unpacked(archive, f"{side}_images", work), np.load(archive)[f"{side}_labels"]
            labels += [facts["label"][str(int(k))] for k in index.reshape(-1)]
            sides += [side] * len(index)
            parts.append(part)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} is not a whole MedMNIST archive: {error}.", fix="Delete it and repeat.") from error
    starts = np.cumsum([0, *(part.count for part in parts)])

    def fetch(row: int) -> NDArray[np.uint8]:
        k = int(np.searchsorted(starts, row, side="right")) - 1
        return parts[k].image(row - int(starts[k]))

    paths = [f"{side}/{n:06d}" for side, part in zip(_SIDES, parts, strict=True) for n in range(part.count)]
    return SourceTable(
        name=archive.stem,
        paths=paths,
        labels=interned(labels),
        groups=paths,
        splits=interned(sides),
        fetch=fetch,
        warnings=("MedMNIST tells no patients: each image counts as a group of its own.",),
        identity=state_of([archive]),
    )


class _Images:
    """Images uint8 [N, h, w(, 3)] of an unpacked .npy file, read one at a time without a memory map."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            formats = np.lib.format
            header = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
            shape, fortran, dtype = header(stream)
            self._offset = stream.tell()
        if dtype != np.uint8 or fortran or len(shape) not in (3, 4):
            raise ValueError(f"{path.stem} is {dtype} {shape}, not 2D images")
        self._path, self._shape, self.count = path, shape[1:], shape[0]

    def image(self, row: int) -> NDArray[np.uint8]:
        size = int(np.prod(self._shape))
        with open(self._path, "rb") as stream:
            return np.frombuffer(os.pread(stream.fileno(), size, self._offset + row * size), np.uint8).reshape(
                self._shape
            )


def _unpacked(archive: Path, name: str, work: Path) -> _Images:
    """One array of the archive, unpacked into the work folder block by block."""
    target = work / "scratch" / f"{name}.npy"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_suffix(".partial")
        with zipfile.ZipFile(archive) as packed, packed.open(f"{name}.npy") as source, open(aside, "wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
        aside.replace(target)
    return _Images(target)


def _facts(section: Any) -> dict[str, Any]:
    """What the package knows of the set."""
    try:
        from medmnist import INFO
    except ImportError as error:
        raise MissingError(
            f"The source medmnist needs the package medmnist ({error}).", fix="pip install 'medge[medmnist]'"
        ) from error
    usable = {name: facts for name, facts in INFO.items() if "3d" not in name and "multi-label" not in facts["task"]}
    if section.medmnist is None:
        raise DataError("data.medmnist is not set.", fix=f"Choose one of: {', '.join(usable)}.")
    name = section.medmnist.rsplit("_", 1)[0]
    if name not in usable:
        raise DataError(f"No 2D single-label MedMNIST set '{name}'.", fix=plugins.nearest(name, list(usable)))
    return dict(usable[name])


def _archive(section: Any, facts: dict[str, Any]) -> Path:
    """`pneumoniamnist` has 28 px; `pneumoniamnist_224` is the same set at 224."""
    size = section.medmnist.partition("_")[2]
    if size not in ("", "28", "64", "128", "224"):
        raise DataError(f"MedMNIST has no size '{size}'.", fix="Write NAME, NAME_64, NAME_128 or NAME_224.")
    name = facts["python_class"].lower() + (f"_{size}" if size not in ("", "28") else "")
    folder = Path(section.path).expanduser() if section.path else Path.home() / ".medmnist"
    return folder / f"{name}.npz"


def _download(section: Any, facts: dict[str, Any], archive: Path) -> None:
    """The archive from where the package says it is, checked against the package's MD5, written aside and renamed."""
    size = section.medmnist.partition("_")[2]
    suffix = f"_{size}" if size not in ("", "28") else ""
    url, expected = facts[f"url{suffix}"], facts[f"MD5{suffix}"]
    console.say(f"downloading {url}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    aside = archive.with_suffix(".partial")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(aside, "wb") as stream:
            for block in iter(lambda: source.read(1 << 20), b""):
                digest.update(block)
                stream.write(block)
    except (OSError, http.client.HTTPException) as error:
        raise MissingError(f"Cannot download {url}: {error}.", fix=f"Fetch it and put it at {archive}.") from error
    if digest.hexdigest() != expected:
        raise DataError(
            f"{url} is not the file that medmnist names (MD5 differs).", fix=f"Put it at {archive} yourself."
        )
    aside.replace(archive)
