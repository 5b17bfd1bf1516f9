"""A run of its own beside a finished one, whose data and float model it borrows: the other run is only read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from medge.errors import RecipeError

__all__ = ["beside"]


def beside(source: Path, work: Path | None, name: str) -> Path:
    """`runs/<name>` in `work` (a temporary folder if None), where the process then is. Raises RecipeError."""
    work = (work or Path(tempfile.mkdtemp(prefix=f"medge-{name}-"))).resolve()
    folder = work / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    for stage in ("1-data", "2-finetune"):
        if not (source / stage / "record.json").is_file():
            raise RecipeError(f"{source} has no finished stage {stage}.", fix="Make it: medge finetune.")
        if not (folder / stage).exists():
            (folder / stage).symlink_to(source / stage)
    os.chdir(work)  # the calibration list is drawn here
    return folder
