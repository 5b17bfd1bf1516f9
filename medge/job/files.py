"""Files of a job under other names. Light ring."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["link"]


def link(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the file system has no such thing (a USB stick)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.unlink()
    try:
        os.link(str(source), str(target))
    except OSError:
        shutil.copyfile(str(source), str(target))
