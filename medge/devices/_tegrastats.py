"""Lines of NVIDIA's `tegrastats`, as JetPack 4 to 7 print them. Light ring.

https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/AT/JetsonLinuxDevelopmentTools/TegrastatsUtility.html
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

__all__ = ["parse", "total_power"]

_OFF = -256.0  # what a sensor says whose part is switched off
_DATE = re.compile(r"^(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d)\s")
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
# `GR3D_FREQ 10%@1300`, `GR3D_FREQ 0%@[1300,1300]`, `GR3D_FREQ @[1000,1000,1000]`, `GR3D_FREQ 37%`
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@(?:(\d+)|\[([^\]]*)\]))?")
# `CPU@47.5C`, and since JetPack 7 with the highest so far, `cpu@45.687C/45.687C`
_TEMPERATURE = re.compile(r"(?<=\s)(\w+)@(-?\d+(?:\.\d+)?)C(?=[\s/]|$)")
# `VDD_IN 14025/14416`, `VDD_IN 2763mW/2846mW`, `VDD_IN 3848mW/3848mW/3848mW`: now, mean, highest
_POWER = re.compile(r"(?<=\s)([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/(\d+)(?:mW)?(?=[\s/]|$)")
_NOT_A_RAIL = ("RAM", "SWAP", "IRAM", "NC")
_TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")
# AGX Orin shows no rail for the whole module; its power is the sum of these three (NVIDIA's Developer Guide, Software
# Based Power Consumption Modeling). VDDQ_VDD2_1V8AO is a part of VIN_SYS_5V0.
_PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def parse(line: str) -> Dict[str, Any]:
    """date, ram_mb, gpu_percent, gpu_mhz (a list), temperatures_c, power_mw; None or empty where it is not there.

    Raises ValueError for a line that has neither memory nor the GPU in it.
    """
    date, ram, gpu = _DATE.search(line), _RAM.search(line), _GPU.search(line)
    if ram is None and gpu is None:
        raise ValueError(f"not a line of tegrastats: {line.strip()[:80]!r}")
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line)}
    return {
        "date": date.group(1) if date else None,
        "ram_mb": int(ram.group(1)) if ram else None,
        "gpu_percent": int(gpu.group(1)) if gpu and gpu.group(1) else None,
        "gpu_mhz": _megahertz(gpu),
        "temperatures_c": {name: value for name, value in temperatures.items() if value != _OFF},
        "power_mw": {name: int(now) for name, now, _ in _POWER.findall(line) if name not in _NOT_A_RAIL},
    }


def total_power(rails_mw: Dict[str, int]) -> Tuple[Optional[int], Optional[str]]:
    """The power of the whole module and the rails it was read from; None where they do not tell."""
    for name in _TOTALS:
        if name in rails_mw:
            return rails_mw[name], name
    if all(name in rails_mw for name in _PARTS):
        return sum(rails_mw[name] for name in _PARTS), " + ".join(_PARTS)
    return None, None


def _megahertz(gpu: Optional[re.Match[str]]) -> List[int]:
    """One clock for each cluster of the GPU that says one (`off` and `N/A` do not)."""
    if gpu is None:
        return []
    words = (gpu.group(2) or gpu.group(3) or "").split(",")
    return [int(word) for word in words if word.strip().isdigit()]
