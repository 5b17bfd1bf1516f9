"""What the commands do, without the command line: find the run, change its recipe, call the pipeline."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medge import console, device_book, pipeline, profile_options, workspace
from medge.errors import DataError, RecipeError
from medge.recipe import Recipe, load, parse, with_settings
from medge.records import NOTICE
from medge.workspace import Stage

__all__ = [
    "Outcome", "compare", "has_search", "inspect", "report_of", "run_recipe", "run_stages", "search_settings",
    "start", "variant_settings",
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a command found: a JSON document, how to show it to a person, and the exit code."""

    document: dict[str, Any]
    show: Callable[[], None]
    exit_code: int = 0


def run_recipe(path: Path, settings: Sequence[str], *, name: str | None) -> Outcome:
    """Every stage of a recipe in `runs/<name>`, the recipe's name if None."""
    recipe = load(path, settings)
    profile_options.tell_of_power(recipe.profile)
    return run_stages(workspace.run_folder(_checked(name or recipe.name)), recipe, workspace.STAGES, origin=path)


def start(
    data: Path | None, name: str | None, settings: Sequence[str], *, options: Sequence[str] = ()
) -> tuple[Path, Recipe]:
    """The run a command continues, with its recipe changed by what its options stand for and by --set; with `data` a
    run of that folder, made if need be."""
    if data is None:
        folder = _run(name)
        return folder, load(folder / "recipe.yaml", settings, options=options)
    run = _checked(name or data.resolve().name)
    old = workspace.RUNS / run / "recipe.yaml"
    value: dict[str, Any] = yaml.safe_load(old.read_text(encoding="utf-8")) if old.is_file() else {"name": run}
    value["data"] = {**value.get("data", {}), **data_keys(data, settings)}
    changed = with_settings(value, [*options, *settings])
    recipe = parse(
        changed, origin=str(old) if old.is_file() else "The command line", options=options, settings=settings
    )
    return workspace.run_folder(run), recipe


def variant_settings(*, int8: bool, prune: float | None, distill: bool) -> list[str]:
    """The setting for one variant with the chain that `medge compress --prune 0.5 --distill --int8` asks for, named
    after what it does (`pruned-distilled-int8`), and none for a search of before; none where nothing is asked for."""
    words = [("pruned", prune is not None), ("distilled", distill), ("int8", int8)]
    name = "-".join(word for word, wanted in words if wanted)
    if not name:
        return []
    chains: list[list[Any]] = [[], []] if int8 else [[]]
    for chain, quantiser in zip(chains, ("ptq", "qat"), strict=False):
        chain += [{"prune": {"ratio": prune}}] if prune is not None else []
        chain += ["distill"] if distill else []
        chain += [quantiser] if int8 else []
    text = yaml.safe_dump({name: {"first_passing": chains}}, default_flow_style=True, width=10_000)
    return [f"compress.variants={text.strip()}", "compress.search=null"]


def search_settings(
    *, search: bool, minutes: float | None, trials: int | None, chain: Sequence[str] = (), own: bool = False
) -> list[str]:
    """The settings of `medge compress --search`: the budget that was named; without one that of the recipe where it has
    a search of its `own`, else 60 minutes. Raises RecipeError for a budget without a search, and for a search beside a
    `chain` (what `variant_settings` gave)."""
    if search and chain:
        raise RecipeError(
            "--search finds the chain, and --prune, --distill and --int8 name one: together they are two commands.",
            fix="First the chain, e.g. medge compress --int8; then medge compress --search, whose best becomes the "
            "variant 'search' beside it.",
        )
    if not search:
        if minutes is not None or trials is not None:
            raise RecipeError("--minutes and --trials are the budget of a search.", fix="Add --search.")
        return []
    budget = {"minutes": minutes, "trials": trials}
    named = [f"compress.search.{key}={value}" for key, value in budget.items() if value is not None]
    return named if named or own else ["compress.search.minutes=60"]


def has_search(name: str | None) -> bool:
    """Whether the recipe of a run, the newest if None, has a search of its own."""
    return load(_run(name) / "recipe.yaml").compress.search is not None


def _run(name: str | None) -> Path:
    return workspace.existing_run(_checked(name)) if name else workspace.newest_run()


def run_stages(
    folder: Path, recipe: Recipe, stages: Sequence[str], *, origin: Path | None = None, kept: Recipe | None = None
) -> Outcome:
    """Runs stages, writes the report whatever the verdicts, and says what came of it. origin: the file that the recipe
    was read from, where that is not the run's own. kept: what the run remembers, where that is not all of the recipe.
    """
    from medge import report

    if "profile" in stages:
        asked = folder / "recipe.yaml" if origin is None else origin
        device_book.find_for(recipe.profile.device, asked)  # a name that nobody knows is said before hours of work
    done = pipeline.run(recipe, folder, stages=stages, kept=kept)
    page = report.write(folder)
    last = list(done.values())[-1]
    verdict: str | None = last.values.get("verdict")  # None of a stage that measures and leaves the verdict to select
    bundle = pipeline.published(done)
    document = {
        "run": folder.as_posix(),
        "verdict": verdict,
        **report.files(folder),
        "bundle": bundle.as_posix() if bundle else None,
        "stages": {stage.name: _summary(stage) for stage in done.values()},
        "notice": NOTICE,
    }
    exit_code = 0 if verdict is None or verdict in pipeline.GOES_ON else 5
    return Outcome(document, lambda: _show_run(folder, done, verdict, page, bundle), exit_code)


def report_of(name: str | None) -> Outcome:
    """The report of a run, written again from its records."""
    from medge import report

    folder = _run(name)
    page = report.write(folder)
    document = {"run": folder.as_posix(), **report.files(folder), "notice": NOTICE}
    return Outcome(document, lambda: _show_report(page))


def compare(names: Sequence[str]) -> Outcome:
    """Chosen engines of several runs side by side, and the first against each other where the test images are the
    same."""
    if len(set(names)) < 2:
        raise RecipeError("Compare two different runs or more.", fix="medge compare RUN RUN...")
    folders = [workspace.existing_run(_checked(name)) for name in names]
    from medge import compare as comparing

    document = comparing.compare(folders)
    return Outcome({**document, "notice": NOTICE}, lambda: comparing.show(document))


def inspect(path: Path, settings: Sequence[str]) -> Outcome:
    """What `medge data inspect` finds in a folder."""
    changed = with_settings({"data": data_keys(path, settings)}, settings)
    recipe = parse(changed, origin="the command line", settings=settings)
    from medge.data.inspect import inspect as look
    from medge.data.inspect import show

    found = look(recipe.data, recipe.seed)
    document = {**found, "notice": NOTICE}
    return Outcome(document, lambda: show(found), 2 if found.get("problems") else 0)


def data_keys(path: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe's data keys for a folder: its manifest's columns where it has one, else class folders."""
    if not path.is_dir():
        raise DataError(f"{path} is not a folder.", fix="Name a folder of class folders, or one with a manifest.csv.")
    for name in ("manifest.csv", "metadata.csv"):
        if (path / name).is_file():
            return {"source": "csv", "path": str(path), "manifest": name, "columns": _columns(path / name, settings)}
    return {"source": "folder", "path": str(path)}


_KNOWN_COLUMNS = {
    "path": ("path", "file", "filename", "image", "image_path"),
    "label": ("label", "class", "target", "diagnosis"),
    "group": ("group", "patient_id", "patient", "lesion_id", "subject_id"),
}


def _columns(manifest: Path, settings: Sequence[str]) -> dict[str, str]:
    with open(manifest, encoding="utf-8", newline="") as stream:
        header = next(csv.reader(stream), [])
    found = {key: next((n for n in names if n in header), None) for key, names in _KNOWN_COLUMNS.items()}
    named = {setting.partition("=")[0] for setting in settings}
    missing = [key for key in ("path", "label") if found[key] is None and f"data.columns.{key}" not in named]
    if missing:
        raise RecipeError(
            f"{manifest} has no column for {' and '.join(missing)} (it has: {', '.join(header)}).",
            fix="Name them: --set data.columns.path=COLUMN --set data.columns.label=COLUMN, or rename the columns.",
        )
    return {key: column for key, column in found.items() if column}


def _checked(name: str) -> str:
    if not name or name in (".", "..") or not set(name) <= _NAME_CHARACTERS or name[0] in ".-":
        raise RecipeError(f"{name!r} cannot be a run's name.", fix="Use letters, digits, '.', '_' and '-': --run NAME.")
    return name


_NAME_CHARACTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def _summary(stage: Stage) -> Mapping[str, Any]:
    return {
        "folder": stage.folder.as_posix(),
        "sha256": stage.sha256,
        "skipped": stage.skipped,
        "seconds": stage.seconds,
        "values": stage.values,
    }


def _show_report(page: Path) -> None:
    from medge import report

    console.stderr.print(f"report  {page}", soft_wrap=True)
    console.stderr.print(f"beside  {', '.join(n for n in report.FILES.values() if n != page.name)}", soft_wrap=True)


def _is_synthetic(done: Mapping[str, Stage]) -> bool:
    from medge.data import dataset

    found = workspace.completed(next(iter(done.values())).folder.parent, "data")
    return found is not None and dataset.load(found.folder).synthetic


def _python() -> str:
    """This interpreter, which has what the bundle needs, as it is shortest typed here."""
    here, there = Path.cwd(), Path(sys.executable)
    return there.relative_to(here).as_posix() if there.is_relative_to(here) else str(there)


def _show_run(folder: Path, done: Mapping[str, Stage], verdict: str | None, page: Path, bundle: Path | None) -> None:
    from medge import report

    if "profile" in done and set(done) <= {"data", "compile", "profile"}:
        from medge.measured import show_latencies

        show_latencies(folder)
    rows = report.verdict_table(folder) if {"validate", "select"} & set(done) else []
    if rows:
        whole = [column for column in rows[0] if column != "engine"]
        cells = [list(row.values()) for row in rows]
        console.stderr.print(f"{folder.name}: engines against the float model, on test images")
        console.stderr.print(console.table(list(rows[0]), cells, left=("engine", "verdict"), whole=whole))
    sentence = done["select"].values.get("sentence") if "select" in done else None
    if sentence:
        console.say(f"[bold]{sentence}[/bold]")
    if _is_synthetic(done):
        console.say("[bold]Synthetic images: these figures say nothing about patients.[/bold]")
    if verdict is not None:
        colour = "green" if verdict in pipeline.GOES_ON else "red"
        console.say(f"verdict [bold {colour}]{verdict}[/bold {colour}]")
    _show_report(page)
    if bundle:
        console.stderr.print(f"bundle  {bundle}", soft_wrap=True)
        console.stderr.print(f"try     {_python()} {bundle}/medge-runtime.pyz selftest", soft_wrap=True)
    console.say(f"[dim]{NOTICE}[/dim]")
