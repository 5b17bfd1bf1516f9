"""A Jetson's power modes and clocks: `nvpmodel` and `jetson_clocks`, which want root. Light ring."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Sequence

from medge.errors import MissingError, RecipeError, ToolError
from medge.protocols import Run

__all__ = [
    "MODES_FILE", "clocks", "clocks_from", "lock_clocks", "mode_from", "modes_from", "power_mode", "power_modes",
    "restore_clocks", "set_power_mode", "store_clocks",
]  # fmt: skip

MODES_FILE = "/etc/nvpmodel.conf"
_MODE = re.compile(r"^NV Power Mode: *(\S.*?) *$\n^ *(\d+) *$", re.MULTILINE)
_MODE_OF_FILE = re.compile(r"^\s*<\s*POWER_MODEL ID=(\d+) NAME=(\S+)\s*>", re.MULTILINE)
_LIMITS = re.compile(r"^(cpu\d+|GPU|EMC)\b.*?MinFreq=(\d+) MaxFreq=(\d+)", re.MULTILINE)
_NO_RIGHT = re.compile(r"root|ermission|not permitted|: 13\b|password is required|not allowed|sudoers", re.IGNORECASE)
_SUDO_FIX = (
    "Sign in as root, or let this user run the two tools without a password, in /etc/sudoers.d/medge: "
    "USER ALL=(root) NOPASSWD: /usr/sbin/nvpmodel, /usr/bin/jetson_clocks"
)


def power_modes(run: Run) -> List[Dict[str, Any]]:
    """The modes of this board, from nvpmodel's own file."""
    return modes_from(run(["cat", MODES_FILE]))


def power_mode(run: Run) -> Dict[str, Any]:
    return mode_from(run(["nvpmodel", "-q"]))


def set_power_mode(run: Run, mode: str) -> Dict[str, Any]:
    known = power_modes(run)
    wanted = [one for one in known if mode.lower() in (one["name"].lower(), str(one["id"]))]
    if not wanted:
        names = ", ".join(f"{one['name']} ({one['id']})" for one in known)
        raise RecipeError(f"This Jetson has no power mode '{mode}'.", fix=f"Choose one of: {names}.")
    said, target = "", wanted[0]
    try:
        said = _as_root(run, ["nvpmodel", "-m", str(target["id"])])
    except ToolError as error:  # the tool's exit code says little: what the mode is afterwards decides
        said = error.message
    if power_mode(run)["id"] == target["id"]:
        return target
    if "reboot" in said.lower():
        raise ToolError(
            f"This Jetson changes to power mode {target['name']} only by a reboot, and medge reboots no machine.",
            fix=f"Reboot it into the mode yourself (sudo nvpmodel -m {target['id']}, answer yes), then measure without "
            "--power-mode.",
        )
    raise ToolError(
        f"nvpmodel did not change to power mode {target['name']}: {_last_line(said)}",
        fix="Look at it there: sudo nvpmodel -q --verbose",
    )


def clocks(run: Run) -> Dict[str, Any]:
    return clocks_from(_as_root(run, ["jetson_clocks", "--show"]))


def store_clocks(run: Run) -> str:
    folder = run(["mktemp", "-d", "/tmp/medge-clocks-XXXXXX"]).strip()
    _as_root(run, ["jetson_clocks", "--store", f"{folder}/clocks"])
    return folder


def lock_clocks(run: Run) -> None:
    _as_root(run, ["jetson_clocks"])


def restore_clocks(run: Run, stored: str) -> None:
    _as_root(run, ["jetson_clocks", "--restore", f"{stored}/clocks"])
    run(["rm", "-rf", stored])


def mode_from(text: str) -> Dict[str, Any]:
    """`NV Power Mode: 15W` and, on the next line, `0`; nvpmodel may warn before and after. Raises ToolError."""
    found = _MODE.search(text)
    if found is None:
        raise ToolError(f"nvpmodel -q does not name a mode: {_last_line(text)}")
    return {"id": int(found.group(2)), "name": found.group(1)}


def modes_from(text: str) -> List[Dict[str, Any]]:
    """`< POWER_MODEL ID=0 NAME=15W >`, one for each mode. Raises ValueError where there is none."""
    found = [{"id": int(number), "name": name} for number, name in _MODE_OF_FILE.findall(text)]
    if not found:
        raise ValueError(f"{MODES_FILE} has no POWER_MODEL")
    return found


def clocks_from(text: str) -> Dict[str, Any]:
    """The limits in `jetson_clocks --show`: kHz for processors, Hz for GPU and EMC, as printed. `locked`: lowest and
    highest of all processors that are on and of the GPU are the same. Raises ToolError."""
    online = {name: on for name, on in re.findall(r"^(cpu\d+): *Online=(\d)", text, re.MULTILINE)}
    limits = {name: [int(low), int(high)] for name, low, high in _LIMITS.findall(text) if online.get(name, "1") == "1"}
    if not limits:
        raise ToolError(f"jetson_clocks --show names no clock: {_last_line(text)}")
    return {"limits": limits, "locked": all(low == high for name, (low, high) in limits.items() if name != "EMC")}


def _as_root(run: Run, command: Sequence[str]) -> str:
    """Runs a tool, by sudo where this user is not root. Raises MissingError where it may not."""
    root = run(["id", "-u"]).strip() == "0"
    try:
        return run(list(command) if root else ["sudo", "-n", *command])
    except ToolError as error:
        if not root and _NO_RIGHT.search(error.message):
            raise MissingError(
                f"'{' '.join(command)}' needs root on the Jetson: {_last_line(error.message)}", fix=_SUDO_FIX
            ) from error
        raise


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
