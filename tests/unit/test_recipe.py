"""Recipes: strict, all mistakes at once, the nearest right word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medge import recipe
from medge.errors import RecipeError


def mistakes(value: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(value, origin="test")
    assert caught.value.exit_code == 2
    return caught.value.message


def test_every_mistake_is_reported_at_once_with_the_nearest_word() -> None:
    message = mistakes(
        {
            "nam": "x",
            "data": {"sorce": "folder", "split": {"trian": 0.5}, "size": "big"},
            "compile": {"backends": {"openvin": ["float32"]}},
            "compress": {"variants": {"int8": [{"qat": {"epoch": 3}}], "other": ["ptk"]}},
        }
    )
    assert "7 mistakes" in message
    for words in ("'name'", "'source'", "'train'", "data.size", "'openvino'", "'epochs'", "'ptq'"):
        assert words in message


def test_a_recipe_written_out_reads_back_equal() -> None:
    original = recipe.parse(
        {"name": "x", "compress": {"variants": {"a": ["ptq"], "b": [{"qat": {"epochs": 3}}]}}}, origin="t"
    )
    assert recipe.parse(yaml.safe_load(recipe.dump(original)), origin="again") == original


def test_a_chain_may_be_written_short_or_as_chains_to_try() -> None:
    short = recipe.parse({"compress": {"variants": {"int8": ["ptq"]}}}, origin="t").compress.variants["int8"]
    spelled = recipe.parse({"compress": {"variants": {"int8": {"first_passing": [["ptq"]]}}}}, origin="t")
    assert short == spelled.compress.variants["int8"]
    assert [step.compressor for step in short.first_passing[0]] == ["ptq"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"data": {"split": {"train": 0.9, "validation": 0.2, "test": 0.2}}}, "sum to 1"),
        ({"compress": {"variants": {"float": ["ptq"]}}}, "always there"),
        ({"validate": {"margins": {"auc": 0.01}}}, "less than 0"),
        ({"compress": {"variants": {"a": [{"ptq": {"preset": "fast"}}]}}}, "preset"),
        ({"name": "../escape"}, "name"),
        ({"compress": {"search": {"minutes": float("inf")}}}, "compress.search.minutes"),
        ({"validate": {"margins": {"auc": float("nan")}}}, "validate.margins.auc"),
        ({"compress": {"variants": {"a": [{"distill": {"features": float("inf")}}]}}}, "features is a number"),
        ({"data": None}, "data"),
        ([], "no keys"),
        ("text", "no keys"),
        (None, "no keys"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(value: Any, words: str) -> None:
    assert words in mistakes(value)


def test_settings_change_nested_keys() -> None:
    value = recipe.with_settings({"data": {"size": 64}}, ["data.path=/a b/c", "finetune.augment.zoom=[0.8, 1.2]"])
    assert value == {"data": {"size": 64, "path": "/a b/c"}, "finetune": {"augment": {"zoom": [0.8, 1.2]}}}


@pytest.mark.parametrize("setting", ["data.path", "=x", "data..path=x", "data.path=[1"])
def test_a_setting_that_cannot_be_read_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError):
        recipe.with_settings({}, [setting])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_value_gives_a_recipe_or_a_clear_error(value: Any) -> None:
    try:
        recipe.parse(value, origin="random")
    except RecipeError as error:
        assert error.fix


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [1", b""])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError):
        recipe.load(path)


def test_a_missing_recipe_says_where_examples_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load(tmp_path / "none.yaml")
    assert "recipes/" in caught.value.fix


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"rollback": {"flip": 0.1}}, "compress.variants.v.rollback.flip: no such key. Did you mean 'flips'"),
        ({"rolback": None}, "compress.variants.v.rolback: no such key. Did you mean 'rollback'"),
    ],
)
def test_below_a_name_that_the_recipe_gives_the_nearest_key_is_of_that_place(value: Any, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.parse({"compress": {"variants": {"v": {"first_passing": [["ptq"]], **value}}}}, origin="test")
    assert words in str(caught.value)
