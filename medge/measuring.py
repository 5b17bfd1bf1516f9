"""Everything that is measured of engines on one machine, here or there: steady in interleaved blocks, then what other
scenarios were asked for, in the power mode that was asked for, with readings of the machine meanwhile. Light ring."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from medge import interleave, scenarios
from medge.devices._power import powered
from medge.devices.local import run_here
from medge.interleave import CONTROL, Interleaved
from medge.records import Engine
from medge.runtime.sampling import Sampler

__all__ = ["Conditions", "Measured", "measure"]


@dataclass(frozen=True)
class Conditions:
    """How to measure; the names are those of the recipe's profile section. settings: {scenario: its keys}."""

    blocks: int
    seconds: float
    warmup_seconds: float
    scenarios: Tuple[str, ...] = ("steady",)
    settings: Dict[str, Any] = field(default_factory=dict)
    power_mode: Optional[str] = None
    lock_clocks: bool = False


@dataclass(frozen=True)
class Measured:
    """steady: the interleaved series; others: {scenario: raw values}; device: the machine before, during and after."""

    steady: Interleaved
    others: Dict[str, Any]
    device: Dict[str, Any]


def measure(
    kind: Any,
    engines: List[Tuple[Engine, Path]],
    *,
    images: Path,
    threads: int,
    seed: int,
    logs: Path,
    conditions: Conditions,
    advance: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda _: None,
    begin: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Measures on this machine, which `kind` (a module of devices/) describes. Where no engine lived through steady,
    nothing else is tried. begin: told of each other scenario as it starts. Raises what `powered` raises."""
    before = kind.state()
    with powered(kind, run_here, mode=conditions.power_mode, lock=conditions.lock_clocks) as power:
        with Sampler(kind.sample) as sampler:
            steady = interleave.measure(
                engines, images=images, threads=threads, section=conditions, seed=seed, logs=logs, advance=advance,
                warn=warn,
            )  # fmt: skip
        medians = {name: statistics.median(one.all_ns()) for name, one in steady.series.items() if name != CONTROL}
        others: Dict[str, Any] = {}
        if medians:
            others = scenarios.run(
                conditions.scenarios,
                [pair for pair in engines if pair[0].name in medians],
                settings=conditions.settings,
                fastest=min(medians, key=lambda name: (medians[name], name)),
                images=images,
                threads=threads,
                seed=seed,
                logs=logs,
                sample=kind.sample,
                warn=warn,
                begin=begin,
            )
    after = kind.state()
    return Measured(steady, others, {"before": before, "after": after, "power": power, "samples": sampler.samples})
