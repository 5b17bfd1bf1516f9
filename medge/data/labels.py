"""Which classes there are and in which order: of two, index 1 is the positive one."""

from __future__ import annotations

from collections.abc import Sequence

from medge import plugins
from medge.data.checks import Problem

__all__ = ["ordered"]

# Words that leave no doubt which class is the finding, in lower case.
_POSITIVE = {"abnormal", "cancer", "diseased", "malignant", "opacity", "pneumonia", "positive", "tuberculosis", "1"}
_NEGATIVE = {"normal", "benign", "negative", "healthy", "control", "no finding", "no_finding", "neg", "0"}


def ordered(
    found: Sequence[str], *, classes: Sequence[str] | None, positive: str | None
) -> tuple[tuple[str, ...], list[str], list[str], list[Problem]]:
    """Class names in index order, notes, warnings, and problems.

    found: the classes that the source has. classes: those that the recipe wants, in its order, or None for all by
    name. positive: the class that becomes index 1 of two; without it, it is guessed from words that leave no doubt.
    """
    names = list(classes) if classes else sorted(set(found))
    unknown = [name for name in names if name not in found]
    if unknown:
        fix = f"data.classes: {'; '.join(plugins.nearest(name, sorted(found)) for name in unknown)}"
        return tuple(names), [], [], [Problem(f"There are no images of class {', '.join(map(repr, unknown))}.", fix)]
    if len(set(names)) < len(names):
        return tuple(names), [], [], [Problem("data.classes names a class twice.", "Name each class once.")]
    if len(names) < 2:
        there = f"only the class {names[0]}" if names else "no class"
        return (
            tuple(names),
            [],
            [],
            [Problem(f"The data has {there}.", "Two or more classes are needed to tell apart.")],
        )
    if positive is not None and (positive not in names or len(names) > 2):
        fix = plugins.nearest(positive, names) if len(names) == 2 else "Leave it out: it is for two classes."
        return (
            tuple(names),
            [],
            [],
            [Problem(f"data.positive is {positive!r}; the classes are {', '.join(names)}.", fix)],
        )
    if len(names) > 2:
        return tuple(names), [], [], []
    notes, warnings = [], []
    if positive is None and classes is not None:
        positive = names[1]
    elif positive is None:
        positive = _by_name(names)
        if positive is not None:
            notes.append(f"The positive class is {positive}, by its name.")
        else:
            positive = names[1]
            warnings.append(f"The positive class is taken to be {positive}, the last by name: set data.positive.")
    return tuple(sorted(names, key=lambda name: name == positive)), notes, warnings, []


def _by_name(names: Sequence[str]) -> str | None:
    """The positive one of two classes where their names leave no doubt."""
    lower = [name.strip().lower() for name in names]
    marks = [(word in _POSITIVE) - (word in _NEGATIVE) for word in lower]
    if marks[0] == marks[1]:
        return None
    return names[0] if marks[0] > marks[1] else names[1]
