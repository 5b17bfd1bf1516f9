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
) -> tuple[tuple[str, ...], list[str], list[Problem]]:
    """Class names in index order, notes, and problems.

    found: the classes that the source has. classes: those that the recipe wants, in its order, or None for all by
    name. positive: the class that becomes index 1 of two; without it, it is guessed from words that leave no doubt.
    """
    names = list(classes) if classes else sorted(set(found))
    unknown = [name for name in names if name not in found]
    if unknown:
        fix = f"data.classes: {'; '.join(plugins.nearest(name, sorted(found)) for name in unknown)}"
        return tuple(names), [], [Problem(f"There are no images of class {', '.join(map(repr, unknown))}.", fix)]
    if len(set(names)) < len(names):
        return tuple(names), [], [Problem("data.classes names a class twice.", "Name each class once.")]
    if len(names) < 2:
        there = f"only the class {names[0]}" if names else "no class"
        return tuple(names), [], [Problem(f"The data has {there}.", "Two or more classes are needed to tell apart.")]
    if positive is not None and (positive not in names or len(names) > 2):
        fix = plugins.nearest(positive, names) if len(names) == 2 else "Leave it out: it is for two classes."
        return tuple(names), [], [Problem(f"data.positive is {positive!r}; the classes are {', '.join(names)}.", fix)]
    if len(names) > 2:
        return tuple(names), [], []
    if positive is None and classes is None:
        positive, note = _guessed(names)
    else:
        positive, note = positive or names[1], ""
    return tuple(sorted(names, key=lambda name: name == positive)), [note] if note else [], []


def _guessed(names: Sequence[str]) -> tuple[str, str]:
    """The positive one of two classes, and what to tell the reader about the choice."""
    lower = [name.strip().lower() for name in names]
    for k in (0, 1):
        if (lower[k] in _POSITIVE or lower[1 - k] in _NEGATIVE) and not (
            lower[1 - k] in _POSITIVE or lower[k] in _NEGATIVE
        ):
            return names[k], f"The positive class is {names[k]} (by its name; data.positive says otherwise)."
    return names[1], f"The positive class is taken to be {names[1]}, the last by name. Set data.positive to be sure."
