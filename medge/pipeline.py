"""The whole of medge in one screen: the stages in order, data flowing one way. Read this first."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from medge import workspace
from medge.records import write_text
from medge.recipe import Recipe, dump
from medge.workspace import Inputs, Stage

__all__ = ["PARENTS", "run"]

PARENTS = {
    "data": (),
    "finetune": ("data",),
    "compress": ("data", "finetune"),
    "compile": ("data", "compress"),
    "validate": ("data", "finetune", "compile"),
    "profile": ("data", "compile"),
    "select": ("compile", "validate", "profile"),
    "package": ("data", "finetune", "compress", "compile", "validate", "profile", "select"),
}


def run(recipe: Recipe, folder: Path, *, stages: Sequence[str] = workspace.STAGES) -> dict[str, Stage]:
    """Runs `stages` of a recipe in a run folder, skipping what has not changed. Returns every finished stage.

    A stage that finds the model wanting says so in its values (`verdict`) and is finished all the same; the stages
    after it are not run, so that nothing is built on it. Raises MedgeError for bad input.
    """
    done: dict[str, Stage] = {}
    with workspace.locked(folder):
        write_text(folder / "recipe.yaml", dump(recipe))
        for name in stages:
            inputs: Inputs = {parent: done.get(parent) or workspace.required(folder, parent) for parent in PARENTS[name]}
            stage = import_module(f"medge.stages.{name}")
            section = getattr(recipe, {"validate": "validate_"}.get(name, name))
            done[name] = workspace.step(folder, name, section, inputs, stage.run, seed=recipe.seed)
            if done[name].values.get("verdict", "pass") not in _GOES_ON:
                break
    return done


_GOES_ON = ("pass", "accepted")
