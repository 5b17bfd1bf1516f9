"""The tables of what `medge profile` measured, in a terminal."""

from __future__ import annotations

from pathlib import Path

from medge import console

__all__ = ["show_latencies"]


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
    """A table of rows that have the same columns; nothing where there are none."""
    if rows:
        console.stdout.print(console.table(list(rows[0]), [list(row.values()) for row in rows], left=left))
