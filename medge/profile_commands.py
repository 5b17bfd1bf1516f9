"""What `medge profile` does beyond running its stage: jobs on a stick, and many devices at once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medge import commands, console, device_book, plugins, workspace
from medge.commands import Outcome
from medge.device_book import LOCAL, Device
from medge.errors import MissingError, RecipeError
from medge.profile_options import ALL
from medge.recipe import Recipe
from medge.records import NOTICE

__all__ = ["export_job", "import_result", "measure_fleet"]


def export_job(run: Path, recipe: Recipe, path: Path) -> Outcome:
    """Writes the job of `profile.device` as a zip. Raises RecipeError for `local`."""
    device_book.find_for(recipe.profile.device, run / "recipe.yaml")
    device = _elsewhere(recipe.profile.device)
    from medge import offline, remote_profile
    from medge.stages import profile

    profile.refuse_threads(recipe.profile, (device.facts or {}).get("cores"), device.name)

    inputs = {name: workspace.required(run, name) for name in ("data", "compile")}
    with workspace.locked(run), tempfile.TemporaryDirectory() as scratch:
        made = remote_profile.make(recipe.profile, inputs, Path(scratch), device=device, seed=recipe.seed)
        offline.export(made, path, run)
    size = path.stat().st_size
    document = {"job": made.spec.id, "device": device.name, "file": str(path), "bytes": size, "notice": NOTICE}
    text = f"{path} ({size / 1e6:.1f} MB). On {device.name}: unzip it, python3 job.pyz. It holds images."
    return Outcome(document, lambda: console.stderr.print(text, markup=False, soft_wrap=True))


def import_result(run: Path, name: str | None, path: Path, settings: Sequence[str]) -> Outcome:
    """The profile stage from a result that was brought back. Raises IntegrityError for a changed or foreign one."""
    from medge import offline

    copy, spec = offline.keep(path, run)
    changes = [f"profile.device={spec.device}", f"profile.result={copy.absolute()}"]
    folder, recipe = commands.start(None, name or run.name, settings, options=changes)
    return commands.run_stages(folder, recipe, ("profile",))


def measure_fleet(run: Path, recipe: Recipe, words: Sequence[str]) -> Outcome:
    """The same job on many devices at once; writes `fleet.json` into the run. The run's own profile stays."""
    devices: dict[str, Device] = {}
    for word in words:
        found = _all_of(word[len(ALL) :]) if word.startswith(ALL) else [_elsewhere(word)]
        devices.update({device.name: device for device in found})
    from medge import fleet
    from medge.stages import profile

    for device in devices.values():
        profile.refuse_threads(recipe.profile, (device.facts or {}).get("cores"), device.name)

    inputs = {name: workspace.required(run, name) for name in ("data", "compile")}
    with workspace.locked(run):
        document: dict[str, Any] = fleet.measure(list(devices.values()), recipe, inputs, run)
    return Outcome(
        {**document, "notice": NOTICE}, lambda: fleet.show(document, run / fleet.FILE), 3 if document["failures"] else 0
    )


def _all_of(kind: str) -> list[Device]:
    """Every device of a kind. Raises RecipeError for no kind, MissingError where there is none of it."""
    if kind not in device_book.kinds():
        raise RecipeError(f"No kind of device '{kind}'.", fix=plugins.nearest(kind, device_book.kinds()))
    found = [device for device in device_book.devices() if device.kind == kind]
    if not found:
        raise MissingError(
            f"No device of kind {kind} is known.",
            fix=f"Add one: medge devices add NAME ssh://user@host --kind {kind}. Known ones: medge devices list",
        )
    return found


def _elsewhere(word: str) -> Device:
    device = device_book.find(word)
    if device.name == LOCAL.name:
        raise RecipeError("'local' is this machine.", fix="Name another: --device NAME (medge devices list)")
    return device
