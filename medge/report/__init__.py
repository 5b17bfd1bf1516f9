"""The report: one self-contained page about a run, from whatever stages are finished."""

from __future__ import annotations

from pathlib import Path

__all__ = ["verdict_table", "write"]


def write(run: Path) -> Path:
    """Writes `report.html` into the run's folder and returns its path. Raises IntegrityError, DataError where a
    finished stage's files are not whole."""
    from medge.records import write_text
    from medge.report.gather import gather
    from medge.report.page import render

    path = run / "report.html"
    write_text(path, render(gather(run)))
    return path


def verdict_table(run: Path) -> list[dict[str, str]]:
    """One row per engine (column -> text): figures on test, latency and size where measured, and the verdict."""
    from medge.report.gather import gather
    from medge.report.tables import verdict_rows

    return verdict_rows(gather(run))
