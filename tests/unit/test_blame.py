"""A mistake is blamed on what was typed: the option, the --set, or the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medge import cli
from medge.errors import RecipeError
from medge.recipe import parse


@pytest.fixture(autouse=True)
def in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    folder = tmp_path / "runs/x"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: x\n")
    return folder / "recipe.yaml"


def refusal(*words: str) -> RecipeError:
    error = CliRunner().invoke(cli.app, list(words)).exception
    assert isinstance(error, RecipeError), error
    return error


@pytest.mark.parametrize(
    ("words", "blamed"),
    [
        (["profile", "--device", "local", "--scenario", "nonsense"], "--scenario: Input should be 'steady'"),
        (["profile", "--estimate", "jetson-nino"], "--estimate: no machine 'jetson-nino'."),
        (["profile", "--set", "profile.blocks=0"], "--set profile.blocks=0: Input should be greater than"),
        (["profile", "--set", "profile={blocks: 0}"], "--set profile={blocks: 0} (profile.blocks): Input should be"),
        (["compress", "--prune", "1.5"], "--prune: "),
        (["compress", "--search", "--minutes", "0"], "--minutes: Input should be greater than 0"),
        (["compress", "--search", "--trials", "0"], "--trials: Input should be greater than or equal to 1"),
        (["select", "--prefer", "beauty"], "--prefer: Input should be"),
        (["compile", "--set", "compile.backends={onnxruntim: [float32]}"], "--set compile.backends={onnxruntim:"),
    ],
)
def test_a_mistake_of_the_command_line_is_blamed_on_the_option_and_not_on_the_recipe(
    words: list[str], blamed: str
) -> None:
    error = refusal(*words)
    assert error.message.startswith(f"The command line has 1 mistake:\n  - {blamed}")
    assert "recipe.yaml" not in error.message
    assert "--help" in error.fix
    assert error.exit_code == 2


def test_a_mistake_of_the_recipe_is_blamed_on_the_file(in_a_run: Path) -> None:
    in_a_run.write_text("name: x\nprofile: {blocks: 0}\n")
    error = refusal("profile", "--device", "local")
    assert error.message.startswith("runs/x/recipe.yaml has 1 mistake:\n  - profile.blocks: Input should be")


def test_mistakes_of_both_are_told_apart(in_a_run: Path) -> None:
    in_a_run.write_text("name: x\nprofile: {blocks: 0}\n")
    error = refusal("profile", "--scenario", "nonsense")
    assert error.message.startswith("runs/x/recipe.yaml and the command line have 2 mistakes:")
    assert "\n  - profile.blocks: " in error.message
    assert "\n  - --scenario: " in error.message


def test_a_set_counts_after_an_option_and_is_what_is_blamed() -> None:
    error = refusal("profile", "--scenario", "cold", "--set", "profile.scenarios=[nonsense]")
    assert "  - --set profile.scenarios=[nonsense]" in error.message


# Every check of medge's own in a recipe: pydantic puts "Value error, " before what it says.
WRONG = [
    {"profile": {"scenarios": ["cold"]}},
    {"profile": {"estimate": ["x"]}},
    {"compress": {"variants": {"float": ["ptq"]}}},
    {"compress": {"search": {"epochs": []}}},
    {"compress": {"search": {}, "variants": {"search": ["ptq"]}}},
]


@pytest.mark.parametrize("value", WRONG)
def test_no_message_has_the_prefix_of_pydantic(value: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(value, origin="x")
    assert "Value error" not in caught.value.message


@pytest.mark.parametrize("chain", [["--int8"], ["--prune", "0.3"], ["--distill"], ["--prune", "0.3", "--int8"]])
def test_a_search_beside_a_chain_is_refused_with_what_to_do(chain: list[str]) -> None:
    error = refusal("compress", "--search", *chain)
    assert error.message.startswith("--search finds the chain, and --prune, --distill and --int8 name one")
    assert "First the chain" in error.fix
    assert error.exit_code == 2
