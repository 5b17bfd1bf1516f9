"""What a person sees. While medge works, notes and bars on stderr; on stdout what a command was asked for, as JSON is:
the tables of `devices list`, `devices doctor` and `profile`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Advance", "progress", "say", "stderr", "stdout", "table", "warn"]

stderr, stdout = Console(stderr=True, highlight=False), Console(highlight=False)
for _console in (stderr, stdout):
    if not _console.is_terminal:
        _console.width = 120  # a log and a pipe have no edge to wrap at


class Advance(Protocol):
    """Moves a progress bar on by some units."""

    def __call__(self, units: int = 1) -> None: ...


def say(text: str) -> None:
    """A line of Rich markup on stderr."""
    stderr.print(text)


def warn(text: str) -> None:
    """A warning on stderr; the text is not read as markup."""
    stderr.print("warning: ", style="yellow", end="")
    stderr.print(text, markup=False)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]] = (),
    *,
    left: Collection[str] = (),
    whole: Collection[str] = (),
    title: str | None = None,
) -> Table:
    """A table as medge draws them all: columns in `left` hold words, the others numbers; those in `whole` are never
    broken. Cells are Rich markup."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in left else "right"
        made.add_column(column, justify=justify, no_wrap=column in whole, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def progress(description: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
    """A bar with units per second and time left; silent where stderr is not a terminal, but for a last line."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(description, total=total, rate="")

        def advance(units: int = 1) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=units, rate=f"{speed:.0f} {unit}/s" if speed else "")

        yield advance
