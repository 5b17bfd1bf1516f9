"""Any Linux machine that answers commands: over ssh, in a container, on the desk. Light ring."""

from __future__ import annotations

from typing import Any, Dict

from medge.devices import local
from medge.devices.local import Asked, run_here
from medge.errors import MissingError, ToolError
from medge.protocols import Run

__all__ = ["facts", "sample", "state"]


def facts(run: Run = run_here) -> Dict[str, Any]:
    """What `local.facts` reads, and what that knows of itself without asking."""
    found = local.facts(run)
    asked = Asked(run)
    asked.ask_command("architecture", ["uname", "-m"], lambda text: text.split()[0])
    asked.ask_command("cores_allowed", ["nproc"], int)
    asked.ask_command("python", ["python3", "-V"], lambda text: text.split()[1])
    more = asked.as_dict()
    return {**found, **more, "missing": {**found["missing"], **more["missing"]}}


def state(run: Run = run_here) -> Dict[str, Any]:
    """What `local.state` reads, with how often the machine throttled so far."""
    found = local.state(run)
    try:
        return {**found, "throttle_counts": local.sample(run)["throttle_counts"]}
    except (MissingError, ToolError):
        return {**found, "throttle_counts": {}}


sample = local.sample
