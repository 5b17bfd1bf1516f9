"""A power mode or locked clocks for as long as a measurement takes. Light ring."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

from medge.errors import MedgeError, MissingError, ToolError
from medge.protocols import Run

__all__ = ["powered"]


@contextmanager
def powered(kind: Any, run: Run, *, mode: Optional[str] = None, lock: bool = False) -> Iterator[Dict[str, Any]]:
    """Sets what is asked for, yields what was before and is during, and puts it back whatever happens.

    `kind`: a module of devices/. Asked for nothing, it touches nothing. Raises MissingError where the kind has no such
    control, ToolError where a change was refused, or where what was before could not be put back: then it says what to
    do by hand.
    """
    if mode is None and not lock:
        yield {}
        return
    if not hasattr(kind, "set_power_mode"):
        raise MissingError(
            f"Machines of the kind '{kind.__name__.rsplit('.', 1)[-1]}' have no power modes that medge can set.",
            fix="Leave out --power-mode and --lock-clocks, or set them on the machine yourself.",
        )
    before = {"power_mode": kind.power_mode(run), "clocks": kind.clocks(run)}
    stored = kind.store_clocks(run)
    try:
        if mode is not None:
            kind.set_power_mode(run, mode)
        if lock:
            kind.lock_clocks(run)
        yield {"before": before, "during": {"power_mode": kind.power_mode(run), "clocks": kind.clocks(run)}}
    finally:
        _put_back(kind, run, before, stored)


def _put_back(kind: Any, run: Run, before: Dict[str, Any], stored: str) -> None:
    problems: List[str] = []
    name = before["power_mode"]["name"]
    try:
        if kind.power_mode(run)["id"] != before["power_mode"]["id"]:
            kind.set_power_mode(run, str(before["power_mode"]["id"]))
    except MedgeError as error:
        problems.append(error.message)
    try:
        kind.restore_clocks(run, stored)
        after = kind.clocks(run)
        if after["limits"] != before["clocks"]["limits"]:
            problems.append("the limits of its clocks are not those of before")
    except MedgeError as error:
        problems.append(error.message)
    if problems:
        raise ToolError(
            f"The machine could not be put back into power mode {name} as it was: {'; '.join(problems)}",
            fix=f"Do it there: sudo nvpmodel -m {before['power_mode']['id']}, then sudo jetson_clocks --restore "
            f"{stored}/clocks, or reboot.",
        )
