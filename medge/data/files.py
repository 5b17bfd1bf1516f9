"""Which files below a folder are meant as images, and what stands for their state."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medge.errors import DataError

__all__ = ["existing_folder", "file_under", "images_below", "listing", "state_of"]

# Documents that lie beside images. Anything else, also without an ending, is meant as an image.
DOCUMENTS = re.compile(r"\.(csv|tsv|txt|md|rst|json|ya?ml|xml|html?|pdf|docx?|xlsx?|log|sha256|md5|py)$", re.IGNORECASE)
IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini", "license", "readme", "copying"})
IGNORED_FOLDERS = frozenset({"__macosx", "@eadir"})


def existing_folder(section: Any, key: str = "data") -> Path:
    """The folder that the section's `path` names. Raises DataError where it is missing."""
    if not section.path:
        raise DataError(f"{key}.path is not set.", fix=f"Name the folder of images: --set {key}.path=DIR.")
    folder = Path(section.path).expanduser()
    if not folder.exists():
        raise DataError(
            f"{key}.path: there is no folder {folder}.", fix="Check the path, relative to where medge runs."
        )
    if not folder.is_dir():
        raise DataError(f"{key}.path: {folder} is not a folder.", fix="Name the folder that holds the images.")
    return folder


def images_below(folder: Path) -> tuple[list[str], dict[str, int]]:
    """Relative paths (forward slashes, sorted) of all files but those ignored by rule, and the counts of these.

    Ignored are hidden files, what file managers leave behind, and documents by their ending. Everything else is meant
    as an image, also a file without an ending: the decoder then refuses it by name.
    """
    found: list[str] = []
    ignored: Counter[str] = Counter()
    for path in _walk(folder):
        name = path.name.lower()
        if name.startswith(".") or name in IGNORED_NAMES:
            ignored["hidden and system files"] += 1
        elif DOCUMENTS.search(name):
            ignored[path.suffix.lower()] += 1
        else:
            found.append(path.relative_to(folder).as_posix())
    return sorted(found), dict(sorted(ignored.items()))


def file_under(folder: Path, name: str) -> Path:
    """The file that a manifest's path names: relative to the folder, or absolute."""
    path = Path(name)
    return path if path.is_absolute() else folder / path


def listing(items: Sequence[str], *, limit: int = 200) -> str:
    """One line for each item, and how many more there are beyond the limit."""
    lines = [f"  - {item}" for item in items[:limit]]
    if len(items) > limit:
        lines.append(f"  - and {len(items) - limit} more")
    return "\n".join(lines)


def state_of(files: Iterable[Path]) -> str:
    """Hash over paths, sizes and times of change: cheap, and another one after almost any change of the files."""
    digest = hashlib.sha256()
    for path in files:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            state = str(error.errno)
        digest.update(f"{path}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links too, each folder once."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        identity = os.path.realpath(root)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f.lower() not in IGNORED_FOLDERS)
        for name in files:
            yield Path(root, name)
