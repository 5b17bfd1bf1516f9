"""An NVIDIA Jetson: board, JetPack, power mode, clocks, rails, throttling. Light ring.

Nothing is changed unless asked for; `_power.powered` changes and puts back. Written from NVIDIA's documentation and
from outputs that others published; what was run on hardware is said in the README.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from medge.devices import _jetson_power, linux, local
from medge.devices._jetson_power import (
    clocks,
    lock_clocks,
    power_mode,
    power_modes,
    restore_clocks,
    set_power_mode,
    store_clocks,
)
from medge.devices._sysfs import read_matching
from medge.devices._tegrastats import parse, total_power
from medge.devices.local import Asked, run_here
from medge.errors import MissingError, ToolError
from medge.protocols import Run

__all__ = [
    "clocks", "facts", "jetpack_of", "lock_clocks", "power_mode", "power_modes", "rails_from", "restore_clocks",
    "sample", "set_power_mode", "state", "store_clocks",
]  # fmt: skip

_SM = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
# L4T begins with ... -> JetPack (https://developer.nvidia.com/embedded/jetpack-archive); the longest that fits.
_JETPACK = {
    "32": "4", "32.7": "4.6", "35": "5", "35.1": "5.0.2", "35.2": "5.1", "35.3": "5.1.1", "35.4": "5.1.2",
    "35.5": "5.1.3", "36": "6", "36.3": "6.0", "36.4.0": "6.1", "36.4": "6.2", "38": "7",
}  # fmt: skip
_DLA = ("xavier", "orin nx", "agx orin")  # Nano, TX2, Orin Nano and Thor have none
_TEGRASTATS = ["sh", "-c", "tegrastats --interval 200 | head -n 1"]
# JetPack 5 and later, then JetPack 4.
_RAIL_FILES = (
    "/sys/bus/i2c/devices/*/hwmon/hwmon*/name", "/sys/bus/i2c/devices/*/hwmon/hwmon*/in[0-9]_label",
    "/sys/bus/i2c/devices/*/hwmon/hwmon*/in[0-9]_input", "/sys/bus/i2c/devices/*/hwmon/hwmon*/curr[0-9]_input",
    "/sys/bus/i2c/drivers/ina3221x/*/iio*/rail_name_[0-9]", "/sys/bus/i2c/drivers/ina3221x/*/iio*/in_power[0-9]_input",
)  # fmt: skip
_HEAT_FILES = (
    "/sys/class/thermal/thermal_zone*/type", "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/thermal/cooling_device*/type", "/sys/class/thermal/cooling_device*/cur_state",
    "/sys/class/devfreq/*gpu*/cur_freq", "/sys/class/devfreq/*g?1*/cur_freq",
    "/sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc[0-9]_event_cnt",
)  # fmt: skip


def facts(run: Run = run_here) -> Dict[str, Any]:
    """As of any Linux machine, with the SoC, its compute capability, L4T and JetPack, DLA, and the power modes."""
    found = linux.facts(run)
    asked = Asked(run)
    asked.ask("soc", "/proc/device-tree/compatible", _soc)
    asked.ask("l4t", "/etc/nv_tegra_release", _l4t)
    soc, l4t = asked.values["soc"], asked.values["l4t"]
    asked.ask_command("jetpack", ["dpkg-query", "-W", "-f", "${Version}", "nvidia-jetpack"], _version)
    asked.ask("power_modes", _jetson_power.MODES_FILE, _jetson_power.modes_from)
    more = asked.as_dict()
    more["jetpack"] = more["jetpack"] or (jetpack_of(l4t) if l4t else None)
    if more["jetpack"]:
        more["missing"].pop("jetpack", None)
    more["compute_capability"] = _SM.get(soc or "")
    more["dla"] = None if found["board"] is None else any(word in found["board"].lower() for word in _DLA)
    return {**found, **more, "missing": {**found["missing"], **more["missing"]}}


def state(run: Run = run_here) -> Dict[str, Any]:
    """As of any Linux machine, with the power mode (name and id: ids differ by board), the clocks' limits and whether
    they are locked, temperatures, rails, and what throttles."""
    found, missing = linux.state(run), {}
    reading = sample(run)
    for name, ask in (("power_mode", power_mode), ("clocks", clocks)):
        try:
            found[name] = ask(run)
        except (MissingError, ToolError) as error:
            found[name], missing[name] = None, error.message
    shown = ("temperature_c", "temperatures_c", "power_mw", "power_of", "gpu_mhz", "throttled", "throttle_counts")
    values = {key: reading[key] for key in shown if reading.get(key) is not None}
    known = {key: why for key, why in {**found["missing"], **reading["missing"]}.items() if key not in values}
    return {**found, **values, "missing": {**known, **missing}}


def sample(run: Run = run_here) -> Dict[str, Any]:
    """A reading from /sys; what is not there is asked of tegrastats, which needs 0.2 s and no root."""
    found = local.sample(run)
    found.update(_heat_from(read_matching(run, _HEAT_FILES)))
    power, of = total_power(rails_from(read_matching(run, _RAIL_FILES)))
    if power is None or not found["temperatures_c"]:
        try:
            line = parse(run(_TEGRASTATS).strip().splitlines()[-1])
        except (MissingError, ToolError, ValueError, IndexError) as error:
            found["missing"]["power_mw"] = f"no readable rail, and tegrastats: {error}"
        else:
            found["temperatures_c"] = found["temperatures_c"] or line["temperatures_c"]
            found["gpu_mhz"] = found["gpu_mhz"] or max(line["gpu_mhz"], default=None)
            power, of = (power, of) if power is not None else total_power(line["power_mw"])
    found.update(power_mw=power, power_of=of)
    found["temperature_c"] = _hottest(found["temperatures_c"]) or found["temperature_c"]
    if found["temperature_c"] is not None:
        found["missing"].pop("temperature_c", None)
    return found


def jetpack_of(l4t: str) -> Optional[str]:
    """`36.4.3` -> `6.2`; None for a release that this file does not know."""
    parts = l4t.split(".")
    starts = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((_JETPACK[start] for start in starts if start in _JETPACK), None)


def rails_from(files: Dict[str, str]) -> Dict[str, int]:
    """mW by rail, of the INA3221's files: mV x mA / 1000 on JetPack 5 and later, mW on JetPack 4.

    Channels that are not connected (NC) and the chip's own "sum of shunt voltages" are no rails.
    """
    rails = {}
    for path, label in files.items():
        folder, _, name = path.rpartition("/")
        power: Optional[str] = None
        if name.startswith("rail_name_"):
            power = files.get(f"{folder}/in_power{name[-1]}_input", "")
        elif name.startswith("in") and name.endswith("_label") and files.get(f"{folder}/name") == "ina3221":
            number = name[2 : -len("_label")]
            volts, amperes = files.get(f"{folder}/in{number}_input", ""), files.get(f"{folder}/curr{number}_input", "")
            power = str(int(volts) * int(amperes) // 1000) if _are_numbers(volts, amperes) else None
        else:
            continue
        if label not in ("", "NC") and label.lower() != "sum of shunt voltages" and power and power.isdigit():
            rails[label] = int(power)
    return rails


def _are_numbers(*texts: str) -> bool:
    return all(text.isdigit() for text in texts)


def _soc(text: str) -> str:
    """`nvidia,p3768-0000+p3767-0005\\0nvidia,tegra234\\0` -> `tegra234`."""
    return str(re.findall(r"nvidia,(tegra\d+)", text)[-1])


def _version(text: str) -> str:
    """`6.2.1+b38` -> `6.2.1`."""
    return str(re.findall(r"^\d+(?:\.\d+)+", text.strip())[0])


def _l4t(text: str) -> str:
    """`# R36 (release), REVISION: 4.3, GCID: ...` -> `36.4.3`."""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    if found is None:
        raise ValueError(text)
    return f"{found.group(1)}.{found.group(2)}"


def _heat_from(files: Dict[str, str]) -> Dict[str, Any]:
    """Temperatures by zone, the GPU's clock, what throttles now, and how often it throttled, from /sys."""
    temperatures: Dict[str, float] = {}
    throttled, counts, gpu = [], {}, None
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        if name == "temp" and re.fullmatch(r"-?\d+", text) and int(text) > -256000:
            temperatures[files.get(f"{folder}/type", folder[-1])] = round(int(text) / 1000, 1)
        elif name == "cur_state" and text not in ("", "0") and _is_alarm(files.get(f"{folder}/type", "")):
            throttled.append(files[f"{folder}/type"])
        elif name.endswith("_event_cnt") and text.isdigit():
            counts[f"over-current {name[:3]}"] = int(text)
        elif name == "cur_freq" and text.isdigit():
            gpu = round(int(text) / 1e6)
    return {
        "temperatures_c": temperatures,
        "gpu_mhz": gpu,
        "throttled": sorted(set(throttled)),
        "throttle_counts": counts,
    }


def _is_alarm(kind: str) -> bool:
    """`gpu-throttle-alert`, `cpu-throttle-alert`, `hot-surface-alert`; a fan is a cooling device too."""
    return kind.endswith("-alert")


def _hottest(temperatures: Dict[str, float]) -> Optional[float]:
    """The junction where it is shown, else the hottest; the PMIC's is a fixed number on most boards."""
    for name in ("tj", "tj-thermal"):
        if name in temperatures:
            return temperatures[name]
    return max((value for name, value in temperatures.items() if "pmic" not in name.lower()), default=None)
