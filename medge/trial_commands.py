"""`medge validate --predictions`: the trial of two tables that came from anywhere, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medge import console
from medge.commands import Outcome
from medge.errors import RecipeError
from medge.recipe import parse, with_settings
from medge.records import NOTICE, sha256_of_file

if TYPE_CHECKING:
    from medge.trial import Trial

__all__ = ["judge_tables"]


def judge_tables(
    tables: tuple[Path, Path] | None, fitted_on: tuple[Path, Path] | None, settings: Sequence[str], *, name: str | None
) -> Outcome:
    """The trial of two predictions tables, float first; `settings` change the protocol, e.g. validate.alpha=0.01."""
    if tables is None or name is not None:
        what = "--fitted-on needs --predictions" if tables is None else "--predictions takes no --run"
        raise RecipeError(f"{what}.", fix="medge validate --predictions FLOAT.csv ENGINE.csv")
    strangers = [s for s in settings if not s.startswith(("validate.", "seed="))]
    if strangers:
        raise RecipeError(
            f"--set {strangers[0]} changes nothing here: two tables are judged by the recipe's validate section alone.",
            fix="Set keys of validate, e.g. --set validate.margins.flips=0.01",
        )
    recipe = parse(with_settings({}, settings), origin="the command line", settings=settings)
    from medge import trial

    found = trial.trial_of_files(*tables, fitted_on=fitted_on, section=recipe.validate_, seed=recipe.seed)
    fitted = (
        "other images" if fitted_on else "the judged images themselves: --fitted-on names tables of validation images"
    )
    document = {
        **trial.summary(found),
        "images": found.images,
        "groups": found.groups,
        "repeated": found.repeated,
        "protocol": recipe.validate_.model_dump(mode="json"),
        "protocol_sha256": found.protocol_sha256,
        "thresholds": found.thresholds,
        "thresholds_fitted_on": fitted,
        "tables": [{"path": str(path), "sha256": sha256_of_file(path)} for path in (*tables, *(fitted_on or ()))],
        "notice": NOTICE,
    }
    rule = recipe.validate_.threshold
    return Outcome(
        document, lambda: _show_trial(tables[1].stem, found, fitted, rule), 0 if found.verdict == "pass" else 5
    )


def _show_trial(name: str, found: Trial, fitted: str, rule: str) -> None:
    from medge.verdicts import checks_table, reasons, verdict_table

    console.stderr.print(verdict_table({name: found}, title="judged"))
    console.stderr.print(checks_table(found))
    if why := reasons(found):
        console.stderr.print(f"{name}: {why}", markup=False)
    console.stderr.print(_counted(found), markup=False)
    at = {name: value for name, value in found.thresholds.items() if value is not None and name != "used"}
    values = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in at.items())
    told = f"Thresholds ({rule}): {values}; fitted" if at else "Temperatures were fitted"
    console.stderr.print(f"{told} on {fitted}.", markup=False)
    colour = "green" if found.verdict == "pass" else "red"
    console.say(f"verdict [bold {colour}]{found.verdict}[/bold {colour}]")
    console.say(f"[dim]{NOTICE}[/dim]")


def _counted(found: Trial) -> str:
    """How many images were judged: of each class, of how many groups, and how many rows repeated one."""
    classes = ", ".join(f"{count:,} of {name.replace('_', ' ')}" for name, count in found.images.items())
    repeated = f"; {found.repeated:,} rows repeat an image and count once" if found.repeated else ""
    images = sum(found.images.values())
    return f"{images:,} images ({classes}) of {found.groups:,} groups{repeated}; protocol {found.protocol_sha256[:12]}."
