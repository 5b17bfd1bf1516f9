"""A Raspberry Pi: the firmware says by `vcgencmd` whether it is held back by heat or a weak power supply. Light ring.

https://www.raspberrypi.com/documentation/computers/os.html#vcgencmd
"""

from __future__ import annotations

from typing import Any, Dict, List

from medge.devices import linux, local
from medge.devices.local import Asked, run_here
from medge.protocols import Run

__all__ = ["THROTTLED_BITS", "facts", "sample", "state", "throttled_from"]

# get_throttled: bits 0 to 3 are now, the same 16 higher are since the start of the machine (documentation above).
THROTTLED_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def facts(run: Run = run_here) -> Dict[str, Any]:
    """As of any Linux machine, with the firmware's version and what the power supply has done since the start."""
    found = linux.facts(run)
    asked = Asked(run)
    asked.ask_command("firmware", ["vcgencmd", "version"], lambda text: text.splitlines()[0].strip())
    more = asked.as_dict()
    return {**found, **more, "missing": {**found["missing"], **more["missing"]}}


def state(run: Run = run_here) -> Dict[str, Any]:
    """As of any Linux machine, with the firmware's own temperature, clock and throttling flags."""
    found = linux.state(run)
    return {**found, **_firmware(run, found["missing"])}


def sample(run: Run = run_here) -> Dict[str, Any]:
    """Temperature and flags by the firmware; a Pi measures no power of its own."""
    found = local.sample(run)
    return {**found, **_firmware(run, found["missing"])}


def throttled_from(text: str) -> Dict[str, List[str]]:
    """`throttled=0x50005` as {"now": [...], "since_start": [...]}. Raises ValueError for anything else."""
    name, _, value = text.strip().partition("=")
    if name != "throttled":
        raise ValueError(text)
    bits = int(value, 16)
    return {
        "now": [word for bit, word in THROTTLED_BITS.items() if bits >> bit & 1],
        "since_start": [word for bit, word in THROTTLED_BITS.items() if bits >> (bit + 16) & 1],
    }


def _firmware(run: Run, missing: Dict[str, str]) -> Dict[str, Any]:
    asked = Asked(run)
    asked.ask_command("temperature_c", ["vcgencmd", "measure_temp"], _temperature)
    asked.ask_command("frequency_mhz", ["vcgencmd", "measure_clock", "arm"], _clock_mhz)
    asked.ask_command("flags", ["vcgencmd", "get_throttled"], throttled_from)
    found = asked.as_dict()
    flags = found.pop("flags")
    # Sticky flags are no counters, but from 0 to 1 is an event that happened in between.
    counts = {} if flags is None else {word: int(word in flags["since_start"]) for word in THROTTLED_BITS.values()}
    values = {key: value for key, value in found.items() if key != "missing" and value is not None}
    left = {key: reason for key, reason in missing.items() if key not in values}
    return {
        **values,
        "throttled": [] if flags is None else flags["now"],
        "throttle_counts": counts,
        "missing": {**left, **({} if flags is not None else {"throttled": found["missing"]["flags"]})},
    }


def _temperature(text: str) -> float:
    """`temp=53.8'C`"""
    return float(text.strip().split("=")[1].split("'")[0])


def _clock_mhz(text: str) -> int:
    """`frequency(48)=1500345728`, or `frequency(0)=...` on newer firmware: Hz."""
    return round(int(text.strip().split("=")[1]) / 1e6)
