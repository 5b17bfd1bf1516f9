"""Writes docs/recipes.md from the recipe's models: `python docs/recipe_reference.py`. A test keeps the page current."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from medge import plugins
from medge.recipe import Recipe
from medge.recovery import Training
from medge.sections import Rollback, Section, Variant

PAGE = Path(__file__).with_name("recipes.md")


_VARIANT = f"""\
## compress.variants.NAME

{Variant.__doc__}
A chain is a list of compressors, each by its name or with options (below): `[ptq]`, `[{{prune: {{ratio: 0.5}}}}, ptq]`.
One chain may stand alone; several to try in order, or a rollback of its own, need the long form:

```yaml
compress:
  variants:
    int8: [ptq]
    small: {{first_passing: [[{{prune: {{ratio: 0.5}}}}, ptq], [{{prune: {{ratio: 0.5}}}}, qat]]}}
    fewer-flips: {{first_passing: [[ptq]], rollback: {{flips: 0.004}}}}
    all-int8: {{first_passing: [[ptq]], rollback: null}}
```
"""


def page() -> str:
    """The reference as Markdown: every section, key and default."""
    lines = [
        "# Every key of a recipe",
        "",
        "Made by `python docs/recipe_reference.py`. `--set KEY=VALUE` changes a key: `--set data.size=160`.",
        "",
    ]
    lines += _section("", Recipe)
    lines += [*_VARIANT.splitlines(), ""]
    lines += _section("compress.variants.NAME.rollback.", Rollback)
    lines += ["## Options of compressors", "", "Used as `variants: {NAME: [ptq]}` or `[{qat: {epochs: 2}}]`.", ""]
    lines += ["### medge.recovery.Training", "", " ".join((Training.__doc__ or "").split()), ""]
    shared = [field.name for field in dataclasses.fields(Training)]
    for name in plugins.names("compressors"):
        options = plugins.load("compressors", name).Options
        fields = sorted(dataclasses.fields(options), key=lambda field: field.name in shared)  # its own first
        doc = " ".join((options.__doc__ or "").split())
        lines += [f"### {name}", "", doc, "", *_rows([(field.name, field.default) for field in fields])]
    return "\n".join(lines).rstrip() + "\n"


_REQUIRED = object()


def _section(prefix: str, section: type[Section]) -> list[str]:
    rows: list[tuple[str, Any]] = []
    inner: list[str] = []
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)
        if nested is not None and not str(field.annotation).startswith("dict"):
            inner += _section(f"{key}.", nested)
        else:
            rows.append((key, _REQUIRED if field.is_required() else field.default))
    title = prefix.rstrip(".") or "top level"
    doc = " ".join((section.__doc__ or "").split())
    return [f"## {title}", "", doc, "", *_rows(rows), *inner]


def _rows(rows: list[tuple[str, Any]]) -> list[str]:
    if not rows:
        return []
    body = [f"| `{key}` | {_default(value)} |" for key, value in rows]
    return ["| key | default |", "|---|---|", *body, ""]


def _default(value: Any) -> str:
    if value is _REQUIRED:
        return "required"
    if isinstance(value, dict) and value and all(isinstance(v, Section) for v in value.values()):
        return "`int8`: `ptq`, then `qat` where its gate does not pass"
    text = str(list(value)) if isinstance(value, tuple) else str(value)
    return f"`{text}`".replace("|", "\\|") if value is not None else "none"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
