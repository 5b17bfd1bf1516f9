"""What the options of several compressors share: checks that raise ValueError, which a recipe reports with the rest."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from medge.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_choice", "check_flag", "check_names", "check_number", "layers_named", "part"]


class _DataClass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=_DataClass)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)} (found {value!r})")


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false (found {value!r})")


def check_number(name: str, value: Any, *, kind: type = float, low: float, high: float = float("inf")) -> None:
    """A number from `low` to `high`, both included; `kind` int refuses fractions."""
    wanted = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not low <= value <= high or math.isinf(value):
        limits = f"of at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} is {'a whole number' if kind is int else 'a number'} {limits} (found {value!r})")


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """A list of non-empty texts, as a tuple (YAML gives lists)."""
    if (
        isinstance(value, str)
        or not isinstance(value, (list, tuple))
        or not all(isinstance(v, str) and v for v in value)
    ):
        raise ValueError(f"{name} is a list of names (found {value!r})")
    return tuple(value)


def part(options: Any, kind: type[T]) -> T:
    """The dataclass `kind` with the values that the fields of `options` of the same names have."""
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})


def layers_named(model: nn.Module, patterns: Collection[str], *, functions: Sequence[str] | None = None) -> list[str]:
    """Names that the patterns of the option `ignored` match (* and ? as in file names), each once: of modules, and of
    `functions` (`MODULE:FUNCTION`, or `MODULE:FUNCTION/CALL`) where there is a colon; None where it takes none.

    Raises RecipeError, with the nearest names, where a pattern matches none.
    """
    modules = [name for name, _ in model.named_modules() if name]
    found: list[str] = []
    for pattern in patterns:
        module, colon, _ = pattern.partition(":")
        if colon and functions is None and fnmatch.filter(modules, module):
            raise RecipeError(
                f"ignored: '{pattern}' is a function, and here only layers can be named.",
                fix=f"Name the layer that calls it: '{module}'.",
            )
        names = functions if colon and functions else modules
        matching = fnmatch.filter(names, pattern)
        if not matching:
            whole = [name for name in names if "/" not in name]
            close = difflib.get_close_matches(pattern, whole, n=3) or whole[:3]
            raise RecipeError(
                f"ignored: the model has no {'function' if colon else 'layer'} '{pattern}'.",
                fix=f"Did you mean {' or '.join(map(repr, close))}?",
            )
        found += matching
    return list(dict.fromkeys(found))
