"""Caches of a device's builders and engines (medge.job.caches), kept by the host between two jobs on that device.

`$XDG_CACHE_HOME/medge-caches/<device>/` (else below `~/.cache`): `index.json`, and files by their sha256. Whatever is
wrong with it costs time and never a job: it is dropped with a sentence.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medge import console
from medge.errors import IntegrityError
from medge.job.caches import TIMES
from medge.job.spec import Cache
from medge.records import from_json, read_json, sha256_of_file, to_json, write_json

__all__ = ["folder_of", "keep", "load"]


def folder_of(device: str) -> Path:
    """Where the caches of a device lie on this host."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "medge-caches" / device


def load(device: str, *, backends: Iterable[str], blobs_of: Iterable[str]) -> tuple[tuple[Cache, ...], dict[str, Path]]:
    """The caches that a job can use, and their files by sha256: times of these `backends`' builders, blobs of the
    engines with these sha256."""
    wanted, engines = set(backends), set(blobs_of)
    found: list[Cache] = []
    files: dict[str, Path] = {}
    for cache in _index(device):
        if cache.backend not in wanted if cache.kind == TIMES else cache.pin.get("engine") not in engines:
            continue
        path = folder_of(device) / cache.file.sha256
        if not path.is_file() or sha256_of_file(path) != cache.file.sha256:
            console.warn(f"the kept {cache.kind} of {cache.backend} for {device} are damaged: dropped.")
            continue
        found.append(cache)
        files[cache.file.sha256] = path
    return tuple(found), files


def keep(device: str, result: Mapping[str, Any], fetched: Path) -> None:
    """Takes over what a job brought home; of each builder and engine the last one stays."""
    brought = [from_json(Cache, _plain(item)) for item in result.get("caches", [])]
    if not brought:
        return
    folder = folder_of(device)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {_key(cache): cache for cache in [*_index(device), *brought]}
    for cache in brought:
        shutil.copyfile(fetched / cache.file.sha256, folder / cache.file.sha256)
    write_json(folder / "index.json", [to_json(cache) for cache in kept.values()])
    names = {cache.file.sha256 for cache in kept.values()} | {"index.json"}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def _index(device: str) -> list[Cache]:
    path = folder_of(device) / "index.json"
    if not path.is_file():
        return []
    try:
        return [from_json(Cache, item) for item in read_json(path)]
    except IntegrityError as error:
        console.warn(f"the kept caches for {device} cannot be read and are dropped: {error.message}")
        return []


def _key(cache: Cache) -> tuple[str, str, str]:
    return cache.backend, cache.kind, cache.pin.get("engine", "")


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item[key] for key in ("backend", "kind", "pin", "file")}
