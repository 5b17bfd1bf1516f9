"""Which compressors can follow which. A chain that makes no sense is refused before any work starts.

A compressor module says of itself: `QUANTISES = True` where its result is quantised, `TAKES_QUANTISED = True` where it
can work on such a model; both are False where they are not said. `BEGINS_ANEW = "student"` names the option with which
it makes another model, and not one from what the chain has made so far. `NOT_BEFORE = {"prune": why}` names what must
not follow it, with the reason. A function `check` says what it would refuse of a model (medge.protocols.LooksAhead).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medge import plugins
from medge.errors import MedgeError, RecipeError
from medge.sections import Step, Variant

if TYPE_CHECKING:
    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["check", "look_ahead", "problem", "problems", "quantises"]


def check(variants: dict[str, Variant]) -> None:
    """Raises RecipeError that lists every chain of the variants that cannot be followed."""
    found = problems(variants)
    if found:
        listed = "\n".join(f"  - {p}" for p in found)
        raise RecipeError(
            f"Chains of compressors that cannot be followed:\n{listed}",
            fix="Quantise once, and last: ptq or qat, or ptq and then qat. Before it reduce the resolution, shorten or "
            "prune, then sparsify, distil or make it friendly.",
        )


def look_ahead(variants: dict[str, Variant], context: Context) -> None:
    """Raises now what a step of any chain would raise in its turn, as far as the float model tells: for a wrong name of
    a layer, say, a RecipeError. A chain is followed up to its first compressor without `check`; nothing is trained."""
    for name, variant in variants.items():
        for chain in variant.first_passing:
            try:
                _look_ahead(chain, context)
            except MedgeError as error:
                where = f"compress.variants.{name}: [{', '.join(step.compressor for step in chain)}]"
                raise type(error)(f"{where}: {error.message}", fix=error.fix) from error


def _look_ahead(chain: Sequence[Step], context: Context) -> None:
    current: Classifier = context.teacher
    for step in chain:
        module = plugins.load("compressors", step.compressor)
        if not hasattr(module, "check"):
            return
        current = module.check(current, module.Options(**step.options), context)


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
        for earlier in names[:k]:
            why = getattr(plugins.load("compressors", earlier), "NOT_BEFORE", {}).get(name)
            if why is not None:
                return f"{name} after {earlier}: {why}; put {name} first"
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
    reasons = [problem(names) or _lost(chain) for names, chain in zip(chains, variant.first_passing, strict=True)]
    found = [f"[{', '.join(names)}]: {why}" for names, why in zip(chains, reasons, strict=True) if why is not None]
    if len({quantises(names) for names in chains}) > 1:
        found.append("some of its chains quantise and some do not; give them names of their own")
    return found


def _lost(chain: Sequence[Step]) -> str | None:
    """Why a step would throw away what those before it made; None where none does."""
    for step in chain[1:]:
        option = getattr(plugins.load("compressors", step.compressor), "BEGINS_ANEW", None)
        if option is not None and step.options.get(option) is not None:
            return f"{step.compressor} with a {option} begins a new model and has to be the first of its chain"
    return None
