"""Compiled engines as the compile stage left them: `<variant>/<backend>-<precision>/engine.json` and its files."""

from __future__ import annotations

from pathlib import Path

from medge.errors import DataError
from medge.records import Engine, from_json, read_json, write_json

__all__ = ["RECORD", "load", "load_all", "save"]

RECORD = "engine.json"


def load(folder: Path) -> Engine:
    """The engine recorded in its own folder. Its files are not checked. Raises IntegrityError."""
    return from_json(Engine, read_json(folder / RECORD))


def save(engine: Engine, folder: Path) -> None:
    """Records an engine in its own folder; the last file to be written there."""
    write_json(folder / RECORD, engine)


def load_all(compile_folder: Path) -> list[tuple[Engine, Path]]:
    """Every engine of a compile stage with its own folder, the float variant's first, then by name. Raises DataError
    where there is none: a later stage would otherwise pass with nothing to judge."""
    found = [(load(path.parent), path.parent) for path in compile_folder.glob(f"*/*/{RECORD}")]
    if not found:
        raise DataError(f"There is no engine in {compile_folder}.", fix="Compile again: medge compile.")
    return sorted(found, key=lambda item: (item[0].variant != "float", item[0].name))
