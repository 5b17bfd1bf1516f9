"""`medge profile` in a terminal: what its options mean for the recipe, and the table of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medge import console

__all__ = ["profile_settings", "show_latencies"]


def profile_settings(
    *,
    device: str | None,
    scenarios: Sequence[str] | None,
    power_mode: str | None,
    lock_clocks: bool,
    estimate: Sequence[str] | None,
) -> list[str]:
    """The settings that the options of `medge profile` stand for; steady is measured whether it is named or not."""
    found = [f"profile.device={device}"] if device else []
    if scenarios:
        names = ["steady", *(name for name in scenarios if name != "steady")]
        found.append(f"profile.scenarios=[{', '.join(names)}]")
    if power_mode is not None:
        found.append(f"profile.power_mode='{power_mode}'")
    if lock_clocks:
        found.append("profile.lock_clocks=true")
    if estimate:
        found.append(f"profile.estimate=[{', '.join(estimate)}]")
    return found


def show_latencies(folder: Path) -> None:
    """The table of what was measured, and aloud what makes it unstable."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from medge import report

    rows, unstable = report.latency_table(folder)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("engine", "machine") else "right", overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    console.stderr.print(table)
    if unstable:
        console.say("[bold red]unstable[/bold red]")
        console.stderr.print(f"{unstable}.", markup=False)
    console.stderr.print(f"profile {folder / report.PROFILE}", soft_wrap=True)
