"""What a machine shows while it is measured, every second or so: temperature, clock, power, throttling. Light ring."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type

from medge.errors import MedgeError

__all__ = ["ENOUGH_SECONDS", "Sampler", "mean_power_mw", "shows_power", "throttle_events"]

Sample = Dict[str, Any]  # what a kind's `sample` gives, with `at_s`: seconds since the sampler began

ENOUGH_SECONDS = 10.0  # of power: rails are averaged over a second and more, and a processor's load is bursty
_KEPT = (
    "temperature_c", "frequency_mhz", "gpu_mhz", "power_mw", "energy_uj", "energy_range_uj", "power_of", "throttled",
    "throttle_counts",
)  # fmt: skip


class Sampler:
    """A context manager: a thread of its own asks `sample` every `seconds`, and once at either end.

    A reading that fails is left out: a measurement does not stop for it.
    """

    def __init__(self, sample: Callable[[], Sample], *, seconds: float = 1.0) -> None:
        self.samples: List[Sample] = []
        self._sample, self._seconds = sample, seconds
        self._start = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._start = time.monotonic()
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        self._over.set()
        self._thread.join()
        self._take()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._take()

    def _take(self) -> None:
        at = round(time.monotonic() - self._start, 3)
        try:
            found = self._sample()
        except MedgeError:
            return
        kept = {key: found[key] for key in _KEPT if found.get(key) is not None}
        self.samples.append({"at_s": at, **kept})


def shows_power(samples: Sequence[Sample]) -> bool:
    """Whether any reading has a power, or a counter of energy, in it."""
    return any(one.get("power_mw") is not None or one.get("energy_uj") is not None for one in samples)


def mean_power_mw(samples: Sequence[Sample]) -> Tuple[Optional[float], Optional[str]]:
    """The mean power over readings that span ENOUGH_SECONDS, and None; or None and the reason.

    By the counter of energy where there is one (which may have wrapped around once), else the mean over time of what
    was read, each reading standing for the time until the next (trapezium rule).
    """
    counted = [one for one in samples if one.get("energy_uj") is not None]
    read = [one for one in samples if one.get("power_mw") is not None]
    used = counted or read
    if not used:
        return None, "this machine shows no power that this user may read"
    span = used[-1]["at_s"] - used[0]["at_s"]
    if span < ENOUGH_SECONDS:
        return None, f"power was read for {span:.0f} s, and {ENOUGH_SECONDS:.0f} s are needed"
    if counted:
        microjoules = used[-1]["energy_uj"] - used[0]["energy_uj"]
        if microjoules < 0:
            microjoules += used[-1].get("energy_range_uj") or 0
        return (microjoules / span / 1000, None) if microjoules > 0 else (None, "the counter of energy ran backwards")
    area = 0.0
    for before, after in zip(used, used[1:]):  # noqa: RUF007 - pairwise came with Python 3.10
        area += (before["power_mw"] + after["power_mw"]) / 2 * (after["at_s"] - before["at_s"])
    return area / span, None


def throttle_events(samples: Sequence[Sample]) -> List[str]:
    """In words, what held the machine back while it was sampled; empty where nothing did, or nothing is shown."""
    names = sorted({name for one in samples for name in one.get("throttled", ())})
    counts = [one["throttle_counts"] for one in samples if one.get("throttle_counts")]
    found = [f"{name}: on in {sum(name in one.get('throttled', ()) for one in samples)} readings" for name in names]
    if len(counts) > 1:
        found += [
            f"{name}: {counts[-1][name] - before} times"
            for name, before in sorted(counts[0].items())
            if counts[-1].get(name, before) > before
        ]
    return found
