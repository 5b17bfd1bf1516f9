"""A plug-in is a file and its name is its key: `medge/backends/openvino.py` is the backend `openvino`.

Folders named in MEDGE_PLUGIN_PATH (separated as in PATH) are searched beside medge's own: a file
`FOLDER/backends/mine.py` is the backend `mine`, with nothing to register.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from types import ModuleType
from typing import List

from medge.errors import RecipeError

__all__ = ["KINDS", "load", "names", "nearest"]

KINDS = ("backends", "compressors", "data.sources", "devices")


def names(kind: str) -> List[str]:
    """Names of the plug-ins of one kind, sorted. Names that begin with `_` are helpers, not plug-ins."""
    return sorted(module.name for module in pkgutil.iter_modules(_package(kind).__path__) if module.name[0] != "_")


def load(kind: str, name: str) -> ModuleType:
    """The module of one plug-in. Raises RecipeError, with the nearest name, where there is none."""
    known = names(kind)
    if name not in known:
        noun = kind.rsplit(".", 1)[-1].rstrip("s")
        raise RecipeError(f"No {noun} '{name}'.", fix=nearest(name, known))
    return importlib.import_module(f"medge.{kind}.{name}")


def nearest(word: str, known: List[str]) -> str:
    """'Did you mean ...?' for a word that is not among the known ones."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Choose one of: {', '.join(known)}."


def _package(kind: str) -> ModuleType:
    package = importlib.import_module(f"medge.{kind}")
    for root in filter(None, os.environ.get("MEDGE_PLUGIN_PATH", "").split(os.pathsep)):
        folder = os.path.join(os.path.abspath(root), *kind.split("."))
        if os.path.isdir(folder) and folder not in package.__path__:
            package.__path__.append(folder)
    return package
