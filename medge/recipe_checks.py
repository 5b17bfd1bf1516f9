"""What is wrong with a recipe, in words: unknown keys with the nearest right one, plug-ins and their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from medge import plugins
from medge.backends import offered
from medge.errors import RecipeError
from medge.sections import Section, step_from_shorthand

__all__ = ["plugin_problems", "problem"]


def problem(error: Any, recipe: type[Section]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: no such key. {plugins.nearest(str(error['loc'][-1]), _keys_at(recipe, error['loc'][:-1]))}"
    said = str(error["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):  # pydantic's, before the words of a check of ours
        said = said[len(prefix) :] if said.startswith(prefix) else said
    found = f" (found {error['input']!r})" if not isinstance(error["input"], dict) else ""
    return f"{where}: {said}{found}"


def _keys_at(recipe: type[Section], location: tuple[Any, ...]) -> list[str]:
    section: Any = recipe
    parts = iter(location)
    for part in parts:
        if section is None:
            return []
        by_alias = {field.alias or name: field for name, field in section.model_fields.items()}
        if part not in by_alias:
            break
        annotation = by_alias[part].annotation
        inside = (annotation, *get_args(annotation))
        section = next((t for t in inside if isinstance(t, type) and issubclass(t, Section)), None)
        if get_origin(annotation) in (dict, Mapping):
            next(parts, None)  # a name that the recipe gives, such as that of a variant
    if section is None:
        return []
    return sorted(field.alias or name for name, field in section.model_fields.items())


def plugin_problems(value: dict[str, Any]) -> list[str]:
    """Names of plug-ins and their options, read from the plain values so that they are reported with the rest."""
    problems = []

    def check(where: str, kind: str, name: Any) -> bool:
        if not isinstance(name, str) or name in plugins.names(kind):
            return isinstance(name, str)
        problems.append(f"{where}: no {kind.rsplit('.', 1)[-1].rstrip('s')} '{name}'. "
                        f"{plugins.nearest(name, plugins.names(kind))}")  # fmt: skip
        return False

    def at(*keys: str) -> Any:
        found: Any = value
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    check("data.source", "data.sources", at("data", "source"))
    check("compress.search.backend", "backends", at("compress", "search", "backend"))
    backends = at("compile", "backends")
    for name, precisions in backends.items() if isinstance(backends, dict) else ():
        if check(f"compile.backends.{name}", "backends", name):
            problems += _precision_problems(name, precisions)
    variants = at("compress", "variants")
    for name, chains in variants.items() if isinstance(variants, dict) else ():
        check(
            f"compress.variants.{name}.rollback.backend",
            "backends",
            at("compress", "variants", name, "rollback", "backend"),
        )
        chains = chains.get("first_passing") if isinstance(chains, dict) else [chains]
        for chain in chains if isinstance(chains, (list, tuple)) else ():
            for item in map(step_from_shorthand, chain if isinstance(chain, (list, tuple)) else ()):
                if isinstance(item, dict) and check(f"compress.variants.{name}", "compressors", item.get("compressor")):
                    problems += _option_problems(f"compress.variants.{name}", item)
    return problems


def _precision_problems(backend: str, precisions: Any) -> list[str]:
    if backend not in plugins.names("backends") or not isinstance(precisions, (list, tuple)):
        return []
    known = offered(plugins.load("backends", backend))
    unknown = [str(precision) for precision in precisions if precision not in known]
    return [f"compile.backends.{backend}: no precision '{p}'. {plugins.nearest(p, known)}" for p in unknown]


def _option_problems(where: str, item: dict[str, Any]) -> list[str]:
    options = plugins.load("compressors", item["compressor"]).Options
    known = [field.name for field in dataclasses.fields(options)]
    given = item.get("options") or {}
    where = f"{where}.{item['compressor']}"
    if not isinstance(given, dict):
        return [f"{where}: options are KEY: VALUE pairs (found {given!r})"]
    unknown = [
        f"{where}.{key}: no such option. {plugins.nearest(str(key), known)}" for key in given if key not in known
    ]
    if unknown:
        return unknown
    try:
        options(**given)
    except (RecipeError, TypeError, ValueError) as error:
        return [f"{where}: {error}"]
    return []
