"""A recipe: one strict YAML file that says everything a run does. All mistakes are reported together.

Nothing is inherited or imported; its first line is the command that runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from medge import blame
from medge.errors import RecipeError
from medge.sections import (
    CompileSection,
    CompressSection,
    DataSection,
    FinetuneSection,
    Name,
    PackageSection,
    ProfileSection,
    Section,
    SelectSection,
    StressSection,
    ValidateSection,
)  # fmt: skip

__all__ = ["Recipe", "dump", "load", "parse", "with_settings"]


class Recipe(Section):
    """The whole of a run."""

    name: Name = "medge"
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataSection = DataSection()
    finetune: FinetuneSection = FinetuneSection()
    compress: CompressSection = CompressSection()
    compile: CompileSection = CompileSection()
    validate_: Annotated[ValidateSection, Field(alias="validate")] = ValidateSection()
    profile: ProfileSection = ProfileSection()
    select: SelectSection = SelectSection()
    stress: StressSection = StressSection()
    package: PackageSection = PackageSection()

    def section(self, stage: str) -> Section:
        """What a stage is given: its own section, to which compress has the trial's protocol added."""
        if stage == "compress" and self.compress.gate is None:
            return self.compress.model_copy(update={"gate": self.validate_})
        found: Section = getattr(self, "validate_" if stage == "validate" else stage)
        return found


def load(path: Path, settings: Sequence[str] = (), *, options: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file with `KEY=VALUE` settings on top: those that options of a command stand for, then those
    of --set. Raises RecipeError with every mistake."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"No recipe at {path}.", fix="Name a YAML file; examples are in recipes/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Cannot read {path}: {error}.", fix="Name a YAML file; examples are in recipes/.") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}.", fix="Compare it with a file in recipes/.") from error
    changed = with_settings(value, [*options, *settings])
    return parse(changed, origin=str(path), options=options, settings=settings)


def with_settings(value: Any, settings: Sequence[str]) -> Any:
    """`{"data": {"path": "x"}}` with `data.path=y` gives `{"data": {"path": "y"}}`; values are read as YAML."""
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not all(key.split(".")):
            raise RecipeError(f"--set {setting!r} is not KEY=VALUE.", fix="Write it as --set data.path=DIR.")
        try:
            item = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {setting!r}: {error}.", fix="Quote the value as YAML wants it.") from error
        value = _with_key(value, key.split("."), item)
    return value


def parse(value: Any, *, origin: str, options: Sequence[str] = (), settings: Sequence[str] = ()) -> Recipe:
    """A recipe from plain values. Raises RecipeError that lists every mistake with the nearest right word, and blames
    the option or the --set that gave the value, which are told by `options` and `settings`."""
    if not isinstance(value, dict):
        raise RecipeError(f"{origin} holds no keys.", fix="Compare it with a file in recipes/.")
    from medge import recipe_checks

    problems: list[str] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        problems += [recipe_checks.problem(item, Recipe) for item in error.errors()]
    problems += recipe_checks.plugin_problems(value)
    if recipe is not None and not problems:
        from medge import chains  # which reads this module's types

        problems += chains.problems(recipe.compress.variants)
    if problems or recipe is None:
        found = [blame.blamed(problem, options, settings) for problem in problems]
        listed = "\n".join(f"  - {text}" for text, _ in found)
        head, fix = blame.heading(origin, len(found), sum(typed for _, typed in found))
        raise RecipeError(f"{head}:\n{listed}", fix=fix)
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `parse` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False)


def _with_key(value: Any, keys: list[str], item: Any) -> Any:
    if not keys:
        return item
    inner = value if isinstance(value, dict) else {}
    return {**inner, keys[0]: _with_key(inner.get(keys[0]), keys[1:], item)}
