"""Which kind a machine looks like, against the one that it was recorded as. Light ring."""

from __future__ import annotations

from typing import Optional

from medge.devices.local import run_here
from medge.errors import MissingError, ToolError
from medge.protocols import Run

__all__ = ["looks_like", "mismatch", "refuse_other"]

_KNOWN = ("jetson", "raspberrypi", "intel")  # `linux` is any; of a plug-in's kind nothing is known here


def looks_like(run: Run = run_here) -> str:
    """The kind that its board, L4T release or processor suggest."""

    def text(path: str) -> str:
        try:
            return run(["cat", path]).lower()
        except (MissingError, ToolError):
            return ""

    board = text("/proc/device-tree/model") + text("/proc/device-tree/compatible")
    if "jetson" in board or "tegra" in board or text("/etc/nv_tegra_release"):
        return "jetson"
    if "raspberry pi" in board:
        return "raspberrypi"
    return "intel" if "genuineintel" in text("/proc/cpuinfo") else "linux"


def mismatch(kind: str, looks: str) -> Optional[str]:
    """What is wrong with a machine of `kind` that looks otherwise; None where nothing is."""
    return f"added as {kind}, it looks like {looks}" if kind in _KNOWN and looks != kind else None


def refuse_other(device: str, kind: str, looks: str, *, fix: str) -> None:
    """Raises MissingError for a device of `kind` that looks otherwise."""
    wrong = mismatch(kind, looks)
    if wrong is not None:
        raise MissingError(f"{device}: {wrong}.", fix=fix)
