"""Lines of NVIDIA's `tegrastats`. Light ring.

What its words mean: NVIDIA's Developer Guide, "tegrastats Utility", e.g. for L4T 32.5
https://docs.nvidia.com/jetson/archives/l4t-archived/l4t-325/Tegra%20Linux%20Driver%20Package%20Development%20Guide/AppendixTegraStats.html
The other forms were read from lines that owners published: tests/unit/devices/test_jetson.py names them.
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
# `CPU@47.5C`, and in newer releases with the highest so far, `cpu@45.687C/45.687C`
_TEMPERATURE = re.compile(r"(?<=\s)(\w+)@(-?\d+(?:\.\d+)?)C(?=[\s/]|$)")
# `VDD_IN 14025/14416`, `VDD_IN 2763mW/2846mW`, `VDD_IN 3848mW/3848mW/3848mW`: now, mean, highest
_POWER = re.compile(r"(?<=\s)([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/(\d+)(?:mW)?(?=[\s/]|$)")
_NOT_A_RAIL = ("RAM", "SWAP", "IRAM", "NC")
_TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")
# Boards that show no rail for the whole module: rails beside each other, whose sum is the largest scope there is. From
# https://github.com/energymon/energymon/blob/master/jetson/JetsonPowerRails.md, which infers them from NVIDIA's design
# guides and forum; VDDQ_VDD2_1V8AO of AGX Orin is left out, since VIN_SYS_5V0 feeds it. Nobody of medge measured it.
_PARTS = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)


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
    for parts in _PARTS:
        if all(name in rails_mw for name in parts):
            return sum(rails_mw[name] for name in parts), " + ".join(parts)
    return None, None


def _megahertz(gpu: Optional[re.Match[str]]) -> List[int]:
    """One clock for each cluster of the GPU that says one (`off` and `N/A` do not)."""
    if gpu is None:
        return []
    words = (gpu.group(2) or gpu.group(3) or "").split(",")
    return [int(word) for word in words if word.strip().isdigit()]
