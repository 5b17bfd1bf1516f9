"""The report: a page, the same as numbers, a model card, a change control plan, from whatever stages are finished;
and a page of what was measured."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "FILES",
    "PROFILE",
    "files",
    "latency_table",
    "measured_on",
    "sweep_table",
    "there_table",
    "verdict_table",
    "write",
]

PROFILE = "profile.html"  # beside the report, once something was measured

# key in the JSON of commands -> file in the run's folder
FILES = {
    "report": "report.html",
    "report_json": "report.json",
    "model_card": "model-card.md",
    "change_control": "change-control.md",
}


def files(run: Path) -> dict[str, str]:
    """Where the four files of a run's report lie, by their key in the JSON of commands."""
    return {key: (run / name).as_posix() for key, name in FILES.items()}


def write(run: Path) -> Path:
    """Writes the four files into the run's folder, and the fifth, `profile.html`, where something was measured; returns
    the page's path. Raises IntegrityError, DataError where
    a finished stage's files are not whole or not those of its record."""
    from medge.records import write_json, write_text
    from medge.report.document import document
    from medge.report.gather import gather
    from medge.report.markdown import change_control, model_card
    from medge.report.page import render

    found = gather(run)
    write_json(run / FILES["report_json"], document(found))
    write_text(run / FILES["model_card"], model_card(found))
    write_text(run / FILES["change_control"], change_control(found))
    if found.latency:
        from medge.report import profile_page

        write_text(run / PROFILE, profile_page.render(found))
    path = run / FILES["report"]
    write_text(path, render(found))
    return path


def verdict_table(run: Path) -> list[dict[str, str]]:
    """One row per engine (column -> text): figures on test, latency and size where measured, and the verdict."""
    from medge.report.gather import gather
    from medge.report.tables import verdict_rows

    return verdict_rows(gather(run))


def latency_table(run: Path) -> tuple[list[dict[str, str]], str | None]:
    """One row per engine (column -> text) of what was measured, the fastest first, and why it is not to be trusted;
    None where the machine was steady."""
    from medge.report.costs import scenario_rows
    from medge.report.gather import gather

    return scenario_rows(gather(run))


def measured_on(run: Path) -> str:
    """`cart7 (jetson), NVIDIA Jetson Orin Nano`: what the latencies were measured on."""
    from medge.report.gather import gather
    from medge.report.machine import where

    device = gather(run).latency["device"]
    hardware = device["facts"].get("board") or device["facts"].get("cpu")
    return ", ".join(filter(None, [where(device), hardware]))


def there_table(run: Path) -> list[dict[str, str]]:
    """One row per engine (column -> text): its selftest on the device and its answers there; none on this host."""
    from medge.report import there
    from medge.report.gather import gather

    return there.rows(gather(run))


def sweep_table(run: Path) -> list[dict[str, str]]:
    """One row per engine, batch size and threads (column -> text) of a sweep; none where there was none."""
    from medge.report.costs import sweep_rows
    from medge.report.gather import gather

    return sweep_rows(gather(run).latency)
