"""The recipe.yaml of a run: what its commands asked for and its stages took, so that the next goes on with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from medge.errors import MedgeError
from medge.recipe import Recipe, dump
from medge.records import write_text

__all__ = ["FILE", "noted"]

FILE = "recipe.yaml"


@contextmanager
def noted(folder: Path, recipe: Recipe, done: Iterable[str], *, continues: bool) -> Iterator[None]:
    """Writes a run's recipe.yaml while its stages are run. `done`: the stages that are finished, as it grows.

    A command that `continues` a run and ends in a MedgeError leaves recipe.yaml as it found it, but for the sections of
    the stages that it did finish: what was refused is not asked for again by the next command. One that is interrupted
    leaves what it asked for. A new run, and `medge run`, which states the whole recipe, keep it in either case.
    """
    path = folder / FILE
    earlier = path.read_text(encoding="utf-8") if continues and path.is_file() else None
    write_text(path, dump(recipe))
    try:
        yield
    except MedgeError:
        if earlier is not None:
            write_text(path, _with_finished(earlier, recipe, list(done)))
        raise


def _with_finished(earlier: str, recipe: Recipe, done: list[str]) -> str:
    value = yaml.safe_load(earlier)
    if not done or not isinstance(value, dict):
        return earlier
    asked = yaml.safe_load(dump(recipe))
    taken = {name: asked[name] for name in ("seed", *done)}
    return yaml.safe_dump({**value, **taken}, sort_keys=False)
