"""Which compressors can follow which. A chain that makes no sense is refused before any work starts.

A compressor module says of itself: `QUANTISES = True` where its result is quantised, `TAKES_QUANTISED = True` where it
can work on such a model; both are False where they are not said.
"""

from __future__ import annotations

from collections.abc import Sequence

from medge import plugins
from medge.errors import RecipeError
from medge.recipe import Variant

__all__ = ["check", "problem", "problems", "quantises"]


def check(variants: dict[str, Variant]) -> None:
    """Raises RecipeError that lists every chain of the variants that cannot be followed."""
    found = problems(variants)
    if found:
        listed = "\n".join(f"  - {p}" for p in found)
        raise RecipeError(
            f"Chains of compressors that cannot be followed:\n{listed}",
            fix="Quantise once, and last: ptq or qat, or ptq and then qat.",
        )


def problems(variants: dict[str, Variant]) -> list[str]:
    """Every chain of the variants that cannot be followed, with the reason."""
    return [f"compress.variants.{name}: {why}" for name, variant in variants.items() for why in _problems(variant)]


def problem(names: Sequence[str]) -> str | None:
    """Why these compressors cannot follow each other in this order; None where they can."""
    if not names:
        return "a chain needs at least one compressor"
    quantiser = None
    for k, name in enumerate(names):
        module = plugins.load("compressors", name)
        if quantiser is not None and not getattr(module, "TAKES_QUANTISED", False):
            if getattr(module, "QUANTISES", False):
                return f"{name} after {quantiser} would quantise twice"
            return f"{name} cannot change a model that {quantiser} has quantised; put it before"
        if quantiser is not None and name in names[:k]:
            return f"{name} twice would quantise twice"
        if getattr(module, "QUANTISES", False):
            quantiser = name
    return None


def quantises(names: Sequence[str]) -> bool:
    """Whether a chain's result is quantised."""
    return any(getattr(plugins.load("compressors", name), "QUANTISES", False) for name in names)


def _problems(variant: Variant) -> list[str]:
    if not variant.first_passing:
        return ["first_passing needs at least one chain"]
    chains = [[step.compressor for step in chain] for chain in variant.first_passing]
    found = [f"[{', '.join(names)}]: {why}" for names in chains if (why := problem(names)) is not None]
    if len({quantises(names) for names in chains}) > 1:
        found.append("some of its chains quantise and some do not; give them names of their own")
    return found
