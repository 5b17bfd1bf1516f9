"""The command line: parse, call the pipeline, print what came of it. Nothing is decided here.

stdout holds results (with --json one document); progress, tables and errors go to stderr.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from medge import launch
from medge.cli_devices import devices_app
from medge.cli_options import Json, Run, Set, finish
from medge.cli_profile import profile
from medge.errors import MedgeError
from medge.records import NOTICE

__all__ = ["app", "main"]

app = typer.Typer(
    help=f"Compress, compile, prove not worse, ship: medical image classifiers for the edge. [dim]{NOTICE}[/dim]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at images before anything is trained on them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(devices_app, name="devices")


def _version(wanted: bool) -> None:
    if wanted:
        import medge

        typer.echo(f"medge {medge.__version__} ({NOTICE})")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; examples are in recipes/.")],
    settings: Set = None,
    name: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="Its name under runs/; else the recipe's.")
    ] = None,
    json: Json = False,
) -> None:
    """Everything from images to a verified bundle; repeat it to continue where it stopped."""
    from medge import commands

    finish(commands.run_recipe(recipe, settings or [], name=name), json)


@app.command()
def finetune(
    data: Annotated[
        Path | None, typer.Option(help="Class folders, or a folder with a manifest.csv: starts a run.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A timm model, e.g. efficientnet_b0.")] = None,
    weights: Annotated[str | None, typer.Option(help="timm, PATH, package:efficientnet-lite0 or none.")] = None,
    name: Run = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Fine-tune a timm model on a folder of images."""
    from medge import commands

    changes = [
        f"finetune.{key}={value}" for key, value in (("model", model), ("weights", weights)) if value is not None
    ]
    folder, recipe = commands.start(data, name, settings or [], options=changes)
    finish(commands.run_stages(folder, recipe, ("data", "finetune")), json)


@app.command()
def compress(
    int8: Annotated[bool, typer.Option("--int8", help="PTQ first, QAT where its gate does not pass.")] = False,
    prune: Annotated[
        float | None, typer.Option(metavar="RATIO", help="First remove this share of the channels, e.g. 0.5.")
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Train towards the float model before quantising.")
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Try chains by measurement; the best becomes the variant search.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", help="How long to search (the recipe's, else 60).")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="How many chains to try at most (the recipe's, else 100).")
    ] = None,
    name: Run = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Make the recipe's variants, or the one of the chain --prune, --distill, --int8, gated on validation images."""
    from medge import commands

    changes = commands.variant_settings(int8=int8, prune=prune, distill=distill)
    own = search and commands.has_search(name)
    changes += commands.search_settings(search=search, minutes=minutes, trials=trials, chain=changes, own=own)
    _continue("compress", name, settings, json, commands, options=changes)


@app.command("compile")
def compile_(name: Run = None, settings: Set = None, json: Json = False) -> None:
    """Build an engine of every variant for every backend."""
    from medge import commands

    _continue("compile", name, settings, json, commands)


@app.command()
def validate(
    predictions: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FLOAT.csv ENGINE.csv", help="Judge these two tables instead of a run: any tool's."),
    ] = None,
    fitted_on: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FLOAT.csv ENGINE.csv", help="Fit thresholds on these tables (with --predictions)."),
    ] = None,
    name: Run = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Judge every engine, on its own outputs, against the float model."""
    from medge import commands, trial_commands

    if predictions is None and fitted_on is None:
        _continue("validate", name, settings, json, commands)
    else:
        finish(trial_commands.judge_tables(predictions, fitted_on, settings or [], name=name), json)


app.command()(profile)


@app.command()
def select(
    engine: Annotated[str | None, typer.Option(help="Choose this engine by hand, e.g. int8/openvino-int8.")] = None,
    prefer: Annotated[str | None, typer.Option(help="latency, size or auc.")] = None,
    name: Run = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Choose the operating point: an engine and its threshold."""
    from medge import commands

    changes = [f"select.{key}={value}" for key, value in (("engine", engine), ("prefer", prefer)) if value is not None]
    _continue("select", name, settings, json, commands, options=changes)


@app.command()
def stress(name: Run = None, settings: Set = None, json: Json = False) -> None:
    """Corrupt images, set the refusal of unlike ones, draw where flips come from: the chosen engine off the path."""
    from medge import commands

    _continue("stress", name, settings, json, commands)


@app.command()
def package(
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="The bundle is for this device: refused without its receipt.")
    ] = None,
    name: Run = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Write the verified bundle to deploy/."""
    from medge import commands

    changes = [f"package.device={device}"] if device else []
    _continue("package", name, settings, json, commands, options=changes)


@app.command()
def report(name: Run = None, json: Json = False) -> None:
    """Write the report of a run again."""
    from medge import commands

    finish(commands.report_of(name), json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Names under runs/, the reference first.")],
    json: Json = False,
) -> None:
    """Compare the chosen engines of several runs, paired where their test images are the same."""
    from medge import commands

    finish(commands.compare(runs), json)


@data_app.command("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Class folders, or a folder with a manifest.csv.")],
    settings: Set = None,
    json: Json = False,
) -> None:
    """Count classes, groups and splits; find unreadable, leaking and duplicate images."""
    from medge import commands

    finish(commands.inspect(path, settings or []), json)


def _continue(
    stage: str,
    name: str | None,
    settings: Sequence[str] | None,
    json: bool,
    commands: Any,
    *,
    options: Sequence[str] = (),
) -> None:
    folder, recipe = commands.start(None, name, settings or [], options=options)
    finish(commands.run_stages(folder, recipe, (stage,)), json)


def _stop(number: int, _: object) -> NoReturn:
    typer.echo("\nstopped; the same command continues where it was", err=True)
    sys.exit(128 + number)


def _lead() -> None:
    """The command itself; processes launched beside this one are sent home after it, unless a signal ends them all."""
    try:
        app()
    except SystemExit as leaving:
        if not isinstance(leaving.code, int) or leaving.code < 128:
            launch.dismiss()
        raise
    except MedgeError:
        launch.dismiss()
        raise


def main() -> NoReturn:
    """The `medge` command. A MedgeError becomes its message and exit code; a bug keeps its traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        launch.serve() if launch.is_helper() else _lead()
    except MedgeError as error:
        if "--json" in sys.argv:
            import json

            document = {"error": error.message, "fix": error.fix, "exit_code": error.exit_code, "notice": NOTICE}
            typer.echo(json.dumps(document, indent=2))
        typer.secho(f"error: {error.message}", fg="red", err=True)
        if error.fix:
            typer.echo(f"  fix: {error.fix}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(141)
    sys.exit(0)
