"""How many channels are worth removing: shares are measured one after the other until another step no longer pays.

Kernels like some widths and not others, so that fewer channels can take more time; a count of operations does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medge.statistics.latency import Ratio

__all__ = ["GAIN", "PATIENCE", "STEP", "Walk", "shares_up_to", "walk"]

STEP = 0.05
GAIN = 0.02  # a step pays where it saves at least this share of the time, and its interval is below 1
PATIENCE = 2  # so many steps in a row that do not pay end the walk: widths are multiples, so one can be a flat piece


@dataclass(frozen=True)
class Walk:
    """The share of the channels to remove, 0 where none pays, and what was measured, a sentence each."""

    share: float
    log: tuple[str, ...]


def shares_up_to(most: float) -> list[float]:
    """Shares in steps of about STEP, the last of which is `most`."""
    count = max(1, round(most / STEP))
    return [most * (k + 1) / count for k in range(count)]


def walk(shares: Sequence[float], ratio_of: Callable[[float, float], Ratio | None]) -> Walk:
    """Goes up the `shares`; `ratio_of(share, kept)` is the latency with `share` removed to that with `kept` removed
    (0: the whole model), None where both have the same widths."""
    kept, misses = 0.0, 0
    log: list[str] = []
    for share in shares:
        ratio = ratio_of(share, kept)
        if ratio is None:
            log.append(f"prune: at {share:.0%} no width is another than at {kept:.0%}.")
            continue
        figures = f"{ratio.ratio:.2f}x [{ratio.lower:.2f}, {ratio.upper:.2f}]"
        if ratio.upper < 1 and ratio.ratio <= 1 - GAIN:
            log.append(f"prune: removing {share - kept:.0%} more channels was faster: {figures}; {share:.0%} go.")
            kept, misses = share, 0
            continue
        misses += 1
        word = "slower" if ratio.lower > 1 else "not worth it"
        log.append(f"prune: removing {share - kept:.0%} more channels ({share:.0%}) was {word}: {figures}.")
        if misses == PATIENCE:
            log.append(f"prune: {PATIENCE} steps in a row did not pay; nothing beyond {share:.0%} was tried.")
            break
    return Walk(kept, tuple(log))
