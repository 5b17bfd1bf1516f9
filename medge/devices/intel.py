"""A machine with an Intel processor: which devices OpenVINO has there, and the energy counter. Light ring."""

from __future__ import annotations

import json
from typing import Any, Dict

from medge.devices import linux, local
from medge.devices.local import Asked, run_here
from medge.protocols import Run

__all__ = ["facts", "sample", "state"]

# Asked in a process of its own: loading OpenVINO takes memory, and a broken GPU driver may take the process down.
_DEVICES = (
    "import json, openvino; core = openvino.Core(); "
    "print(json.dumps({name: str(core.get_property(name, 'FULL_DEVICE_NAME')) for name in core.available_devices}))"
)


def facts(run: Run = run_here) -> Dict[str, Any]:
    """As of any Linux machine, with `openvino_devices`: {"CPU": its full name, "GPU": ..., "NPU": ...} as present."""
    found = linux.facts(run)
    asked = Asked(run)
    asked.ask_command("openvino_devices", ["python3", "-c", _DEVICES], _devices, source="OpenVINO")
    more = asked.as_dict()
    return {**found, **more, "missing": {**found["missing"], **more["missing"]}}


state = linux.state
sample = local.sample


def _devices(text: str) -> Dict[str, str]:
    """The last line: drivers may print before it."""
    found = json.loads(text.strip().splitlines()[-1])
    if not isinstance(found, dict):
        raise ValueError(text)
    return {str(name): str(full) for name, full in found.items()}
