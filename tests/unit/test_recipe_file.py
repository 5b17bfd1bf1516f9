"""recipe.yaml of a run: what a command that failed asked for is forgotten, what a stage took is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medge import profile_options, recipe_file
from medge.errors import RecipeError, ToolError
from medge.recipe import Recipe, dump, parse, with_settings
from medge.recipe_file import noted
from medge.sections import ProfileSection

BEFORE = Recipe(name="x")
ASKED = parse(with_settings({"name": "x"}, ["seed=3", "data.size=64", "finetune.epochs=9"]), origin="t")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / recipe_file.FILE).write_text(dump(BEFORE))
    return tmp_path


def remembered(run: Path) -> Recipe:
    return parse(yaml.safe_load((run / recipe_file.FILE).read_text()), origin="t")


def test_a_command_that_fails_leaves_the_recipe_as_it_was(run: Path) -> None:
    text = (run / recipe_file.FILE).read_text()
    with pytest.raises(ToolError), noted(run, ASKED, {}, continues=True):
        raise ToolError("no")
    assert (run / recipe_file.FILE).read_text() == text


def test_what_a_finished_stage_took_stays(run: Path) -> None:
    with pytest.raises(RecipeError), noted(run, ASKED, {"data": 1}, continues=True):
        raise RecipeError("no")
    found = remembered(run)
    assert (found.seed, found.data, found.finetune) == (3, ASKED.data, BEFORE.finetune)


def test_an_interrupted_command_leaves_what_it_asked_for(run: Path) -> None:
    with pytest.raises(SystemExit), noted(run, ASKED, {}, continues=True):
        raise SystemExit(130)
    assert remembered(run) == ASKED


def test_a_new_run_and_a_whole_recipe_are_kept_though_a_stage_fails(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError), noted(run, ASKED, {}, continues=False):
        raise ToolError("no")
    assert remembered(run) == ASKED
    (run / recipe_file.FILE).unlink()
    with pytest.raises(ToolError), noted(run, ASKED, {}, continues=True):
        raise ToolError("no")
    assert remembered(run) == ASKED


def test_options_that_change_a_machine_do_not_last() -> None:
    changes = ["profile.device=cart7", "profile.power_mode='15W'", "profile.lock_clocks=true"]
    assert profile_options.lasting(changes) == ["profile.device=cart7"]


def test_a_recipe_that_changes_the_machine_says_so_and_how_to_undo_it(capsys: pytest.CaptureFixture[str]) -> None:
    kept = ProfileSection(power_mode="15W", lock_clocks=True)
    profile_options.tell_of_power(kept)
    assert capsys.readouterr().err.strip() == (
        "recipe: power mode 15W, clocks locked while it is measured; to switch this off: --set profile.power_mode=null "
        "--set profile.lock_clocks=false"
    )
    profile_options.tell_of_power(ProfileSection(power_mode="25W"), ProfileSection(power_mode="15W"))
    profile_options.tell_of_power(ProfileSection(power_mode="25W", lock_clocks=True), ProfileSection())
    assert capsys.readouterr().err == ""
