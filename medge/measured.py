"""`medge profile` in a terminal: what its options mean for the recipe, and the table of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medge import console
from medge.errors import RecipeError
from medge.sections import ProfileSection

__all__ = ["lasting", "profile_settings", "show_latencies", "tell_of_power"]

_ONCE = ("profile.power_mode=", "profile.lock_clocks=")


def profile_settings(
    *,
    device: str | None,
    scenarios: Sequence[str] | None,
    power_mode: str | None,
    lock_clocks: bool,
    estimate: Sequence[str] | None,
    batch_sizes: Sequence[str] | None = None,
    threads: Sequence[str] | None = None,
) -> list[str]:
    """The settings that the options of `medge profile` stand for; steady is measured whether it is named or not,
    and a sweep where batch sizes or threads are."""
    found = [f"profile.device={device}"] if device else []
    swept = ["sweep"] if batch_sizes or threads else []
    if scenarios or swept:
        names = ["steady", *(name for name in scenarios or () if name not in ("steady", *swept)), *swept]
        found.append(f"profile.scenarios=[{', '.join(names)}]")
    if batch_sizes:
        found.append(f"profile.sweep.batch_sizes={_numbers('--batch-size', batch_sizes)}")
    if threads:
        found.append(f"profile.sweep.threads={_numbers('--threads', threads)}")
    if power_mode is not None:
        found.append(f"profile.power_mode='{power_mode}'")
    if lock_clocks:
        found.append("profile.lock_clocks=true")
    if estimate:
        found.append(f"profile.estimate=[{', '.join(estimate)}]")
    return found


def _numbers(option: str, values: Sequence[str]) -> list[int]:
    """[1, 4] of `1,4` or of `1` and `4`. Raises RecipeError for what is no whole number."""
    words = [word.strip() for value in values for word in value.split(",")]
    for word in words:
        if not word.isdecimal():
            raise RecipeError(f"{option} {word!r} is no whole number.", fix=f"One or more: {option} 1 {option} 4")
    return [int(word) for word in words]


def lasting(changes: Sequence[str]) -> list[str]:
    """Of the settings that options stand for, those that the run remembers: what changes a machine is for the command
    that says it."""
    return [change for change in changes if not change.startswith(_ONCE)]


def tell_of_power(asked: ProfileSection, kept: ProfileSection | None = None) -> None:
    """One line on stderr where the recipe, `kept`, and not an option of this command changes the machine."""
    kept = asked if kept is None else kept
    words, undo = [], []
    if kept.power_mode is not None and kept.power_mode == asked.power_mode:
        words.append(f"power mode {kept.power_mode}")
        undo.append("--set profile.power_mode=null")
    if kept.lock_clocks:
        words.append("clocks locked")
        undo.append("--set profile.lock_clocks=false")
    if words:
        text = f"recipe: {', '.join(words)} while it is measured; {' '.join(undo)} undoes it"
        console.stderr.print(text, markup=False, soft_wrap=True)


def show_latencies(folder: Path) -> None:
    """The table of what was measured, and aloud what makes it unstable."""
    from medge import report

    rows, unstable = report.latency_table(folder)
    console.stdout.print(f"measured on {report.measured_on(folder)}", markup=False, soft_wrap=True)
    _show(rows, left=("engine", "stability"))
    _show(report.there_table(folder), left=("engine", "selftest"))
    _show(report.sweep_table(folder), left=("engine", ""))
    if unstable:
        console.say("[bold red]unstable[/bold red]")
        console.stderr.print(f"{unstable}.", markup=False)
    console.stderr.print(f"profile {folder / report.PROFILE}", soft_wrap=True)


def _show(rows: list[dict[str, str]], *, left: tuple[str, ...]) -> None:
    """A table of rows that have the same columns, those of `left` aligned so; nothing where there are none."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in rows[0]:
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    console.stdout.print(table)
