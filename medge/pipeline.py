"""The whole of medge in one screen: the stages in order, data flowing one way. Read this first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from medge import recipe_file, workspace
from medge.errors import GateFailed
from medge.recipe import Recipe
from medge.workspace import Stage

__all__ = ["GOES_ON", "PARENTS", "published", "run"]

PARENTS: Mapping[str, Sequence[str]] = {
    "data": (),  # images, split and decoded once
    "finetune": ("data",),  # the float model
    "compress": ("data", "finetune"),  # variants, each gated on validation images, each an ONNX file
    "compile": ("data", "compress"),  # an engine per variant, backend and precision
    "validate": ("data", "finetune", "compile"),  # every engine's own outputs against the float model
    "profile": ("data", "compress", "compile"),  # every engine's latency, in interleaved blocks
    "select": ("compile", "validate", "profile"),  # the operating point
    "stress": ("data", "finetune", "compile", "validate", "profile", "select"),  # the chosen engine off the beaten path
    "package": ("data", "finetune", "compress", "compile", "validate", "profile", "select", "stress"),  # what ships
}

GOES_ON = ("pass", "accepted")


def run(
    recipe: Recipe, folder: Path, *, stages: Sequence[str] = workspace.STAGES, kept: Recipe | None = None
) -> dict[str, Stage]:
    """Runs `stages` of a recipe in a run folder, skipping what has not changed. Returns them, finished. kept: what the
    run remembers, where some of the recipe is for this once (see `recipe_file.noted`).

    A stage that finds the model wanting says so in its values (`verdict`) and is finished all the same; the stages
    after it are not run, so that nothing is built on it. Raises MedgeError for bad input.
    """
    done: dict[str, Stage] = {}
    with workspace.locked(folder):
        if "finetune" in stages and workspace.completed(folder, "data") is None:
            import_module("medge.stages.finetune").check(recipe.finetune)  # before hours are spent on images
        with recipe_file.noted(folder, kept or recipe, done, continues=len(stages) < len(workspace.STAGES)):
            for name in stages:
                inputs = {parent: done.get(parent) or workspace.required(folder, parent) for parent in PARENTS[name]}
                _refuse_unfit(inputs)
                section, module = recipe.section(name), import_module(f"medge.stages.{name}")
                wanted = (folder, name, section, inputs, module)
                if name == "finetune" and "compress" in stages and not workspace.is_current(*wanted, seed=recipe.seed):
                    import_module("medge.stages.compress").check(recipe, inputs)  # before hours are spent on training
                done[name] = workspace.step(*wanted, seed=recipe.seed)
                if not _goes_on(done[name]):
                    break
        published(done)
    return done


def _refuse_unfit(inputs: Mapping[str, Stage]) -> None:
    """Raises GateFailed where a stage that would be built on has found the model wanting."""
    for name, stage in inputs.items():
        if not _goes_on(stage):
            raise GateFailed(
                f"The verdict of {name} is {stage.values['verdict']}: nothing is built on it.",
                fix=f"See the report; change what it names and repeat medge {name}.",
            )


def _goes_on(stage: Stage) -> bool:
    """Whether the next may follow: a stage without a verdict had nothing to judge, or leaves it to select."""
    verdict = stage.values.get("verdict")
    return verdict is None or verdict in GOES_ON


def published(done: Mapping[str, Stage]) -> Path | None:
    """The bundle under deploy/, put there (again) where it is missing; None where nothing was packaged."""
    if "package" not in done:
        return None
    from medge.stages.package import publish

    return publish(done["package"].folder, done["package"].values["bundle"])
