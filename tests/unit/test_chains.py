"""Chains of compressors: what makes no sense is refused before any work, with the reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from medge import chains, plugins, recipe, sections
from medge.errors import RecipeError, ToolError


@pytest.mark.parametrize("names", [["ptq"], ["qat"], ["ptq", "qat"]])
def test_quantising_once_and_training_what_is_quantised_makes_sense(names: list[str]) -> None:
    assert chains.problem(names) is None
    assert chains.quantises(names)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "at least one"),
        (["ptq", "ptq"], "ptq after ptq would quantise twice"),
        (["qat", "ptq"], "ptq after qat would quantise twice"),
        (["qat", "qat"], "qat twice would quantise twice"),
        (["ptq", "qat", "qat"], "qat twice would quantise twice"),
    ],
)
def test_quantising_twice_is_refused(names: list[str], words: str) -> None:
    assert words in str(chains.problem(names))


def test_what_does_not_take_a_quantised_model_cannot_follow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"ptq": SimpleNamespace(QUANTISES=True), "thin": SimpleNamespace()}
    monkeypatch.setattr(plugins, "load", lambda kind, name: modules[name])
    assert chains.problem(["thin", "ptq"]) is None
    assert "thin cannot change a model that ptq has quantised" in str(chains.problem(["ptq", "thin"]))


def test_a_recipe_with_such_chains_is_refused_with_all_of_them() -> None:
    value = {"a": ["ptq", "ptq"], "b": {"first_passing": [["ptq"], ["qat", "ptq"]]}, "c": [], "d": ["ptq", "qat"]}
    with pytest.raises(RecipeError) as caught:
        recipe.parse({"compress": {"variants": value}}, origin="t")
    assert "3 mistakes" in caught.value.message
    assert "compress.variants.a: [ptq, ptq]: ptq after ptq" in caught.value.message
    assert "compress.variants.b: [qat, ptq]: ptq after qat" in caught.value.message
    assert "compress.variants.c: []: a chain needs at least one" in caught.value.message


def test_the_stage_refuses_them_too() -> None:
    step = sections.Step(compressor="ptq")
    with pytest.raises(RecipeError) as caught:
        chains.check({"a": sections.Variant(first_passing=((step, step),))})
    assert "compress.variants.a: [ptq, ptq]" in caught.value.message
    assert "Quantise once" in caught.value.fix


@pytest.mark.parametrize("names", [["prune", "ptq"], ["prune", "distill", "qat"], ["distill", "prune", "ptq", "qat"]])
def test_pruning_and_distilling_before_quantising_make_sense(names: list[str]) -> None:
    assert chains.problem(names) is None


@pytest.mark.parametrize("names", [["ptq", "prune"], ["qat", "prune"], ["prune", "ptq", "distill"]])
def test_pruning_and_distilling_after_quantising_are_refused_with_the_reason(names: list[str]) -> None:
    assert f"{names[-1]} cannot change a model that {names[-2]} has quantised; put it before" == chains.problem(names)


def test_a_student_that_would_throw_away_what_was_made_is_refused() -> None:
    value = {
        "a": ["prune", {"distill": {"student": "resnet10t"}}],
        "b": [{"distill": {"student": "resnet10t"}}, "prune"],
    }
    with pytest.raises(RecipeError) as caught:
        recipe.parse({"compress": {"variants": value}}, origin="t")
    assert "1 mistake" in caught.value.message
    assert "compress.variants.a: [prune, distill]: distill with a student begins a new model" in caught.value.message


def test_steps_are_looked_at_up_to_the_first_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def check(model: Any, options: Any, context: Any) -> str:
        seen.append((model, options))
        if options == {"bad": True}:
            raise ToolError("no such layer.", fix="Name another.")
        return f"{model}+"

    modules = {"says": SimpleNamespace(Options=dict, check=check), "silent": SimpleNamespace(Options=dict)}
    monkeypatch.setattr(plugins, "load", lambda kind, name: modules[name])
    says, silent = sections.Step(compressor="says"), sections.Step(compressor="silent")
    bad = sections.Step(compressor="says", options={"bad": True})
    context: Any = SimpleNamespace(teacher="float")
    chains.look_ahead({"a": sections.Variant(first_passing=((says, says, silent, bad), (silent,)))}, context)
    assert seen == [("float", {}), ("float+", {})]
    with pytest.raises(ToolError) as caught:
        chains.look_ahead({"b": sections.Variant(first_passing=((silent,), (says, bad)))}, context)
    assert caught.value.message == "compress.variants.b: [says, says]: no such layer."
    assert caught.value.fix == "Name another."
