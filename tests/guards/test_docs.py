"""What is written down stays true: recipes read, the reference is current, the README's commands are run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from medge import recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_reads_and_its_first_line_is_the_command_that_runs_it(path: Path) -> None:
    assert recipe.load(path).name == path.stem
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# medge run recipes/{path.name}")


def test_there_are_recipes_to_read() -> None:
    assert {"quickstart", "chest-xray", "chest-xray-b0", "skin"} <= {p.stem for p in RECIPES}


def test_the_recipe_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("recipe_reference", ROOT / "docs" / "recipe_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python docs/recipe_reference.py"


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md", "docs/devices.md", "docs/profile.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
