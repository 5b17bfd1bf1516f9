"""The space of the search: every point is a chain that can be followed, the plainest first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from medge import chains
from medge.backends import is_int8
from medge.model import create, specify
from medge.recipe import parse
from medge.search_space import Candidate, candidate_of, epochs, first_layers, first_points, space, untrained
from medge.sections import SearchSection

SECTION = SearchSection(epochs=(1, 2))
MODEL = create(specify("efficientnet_b0", classes=2, head="plain", dropout=0.0, size=32))  # with SiLU and squeezes
PRECISIONS = ("float32", "bfloat16", "int8_bfloat16")
SPACE = space(SECTION, PRECISIONS, MODEL)
POINTS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SPACE.items()})


def _candidate(point: Any) -> Candidate:
    return candidate_of(point, SECTION, ("stem", "block"))


@given(POINTS)
def test_every_point_is_a_chain_that_can_be_followed_and_a_recipe_takes(point: Any) -> None:
    candidate = _candidate(point)
    assert is_int8(candidate.precision) == chains.quantises([s.compressor for s in candidate.chain])
    if candidate.chain:
        steps = [{s.compressor: s.options} for s in candidate.chain]
        variants = parse({"compress": {"variants": {"v": steps}}}, origin="t").compress.variants
        assert variants["v"].first_passing == (candidate.chain,)
    short = untrained(candidate)
    assert short.precision == candidate.precision
    assert all(s.options.get("epochs", 0) == 0 for s in short.chain)
    assert not {"qat", "distill"} & {s.compressor for s in short.chain}
    assert ("friendly" in {s.compressor for s in short.chain}) == (
        "friendly" in {s.compressor for s in candidate.chain}
    )


@given(POINTS)
def test_what_does_not_matter_makes_no_other_candidate(point: Any) -> None:
    plain = {**point, "scale": 1.0, "shorten": 0, "prune": 0.0, "distill_epochs": 0}
    plain |= {"activation": "as it is", "quantiser": "ptq"}
    assert _candidate(plain) == _candidate(
        {
            **plain,
            "epochs": 2,
            "learning_rate": 1e-3,
            "last_epochs": 4,
            "qat_epochs": 1,
            "mixup": 0.3,
            "precision": "bfloat16",
        }
    )


@given(POINTS, POINTS)
def test_two_candidates_have_the_same_key_where_they_are_the_same(point: Any, other: Any) -> None:
    one, two = _candidate(point), _candidate(other)
    assert (one.key == two.key) == (one == two)
    assert (one.key == replace(one, precision="float16").key) == (one.precision == "float16")


def test_pixels_go_before_blocks_blocks_before_channels_and_all_before_what_quantises() -> None:
    plainest = {name: values[0] for name, values in SPACE.items()}
    found = _candidate({**plainest, "scale": 0.57, "shorten": 3, "prune": 0.5, "quantiser": "qat"})
    assert [step.compressor for step in found.chain] == ["resolution", "shorten", "prune", "ptq", "qat"]
    assert found.chain[0].options == {"scale": 0.57, "epochs": 0}
    assert found.chain[1].options == {"blocks": 3, "epochs": 0}
    assert [epochs(step) for step in found.chain] == [0, 0, 1, 0, 1], "the last to go is followed by a training"
    assert found.words == "resolution 0.57, shorten 3, prune 0.5, ptq, qat 1 (int8)"
    assert untrained(found).chain[0].options == {"scale": 0.57, "epochs": 0}


def test_only_what_makes_a_difference_to_the_model_is_tried() -> None:
    lite = create(specify("tf_efficientnet_lite0", classes=2, head="plain", dropout=0.0, size=32))
    found = space(SECTION, ("float32",), lite)
    assert (found["activation"], found["se_in_float"]) == (("as it is",), (False,))
    assert found["shorten"] == (0, 1, 3, 5, 9)
    assert space(SearchSection(blocks=()), ("float32",), lite)["shorten"] == (0,), "none are to go"
    plain = create(specify("vgg11_bn", classes=2, head="plain", dropout=0.0, size=32))
    assert space(SECTION, ("float32",), plain)["shorten"] == (0,), "no block of VGG can go"
    assert (SPACE["activation"], SPACE["se_in_float"]) == (("as it is", "hardswish", "relu6"), (False, True))


def test_the_first_points_lie_in_the_space() -> None:
    whole = space(SearchSection(), PRECISIONS, MODEL)
    points = first_points(whole)
    assert len(points) == len({_candidate(point).key for point in points}) == 12
    assert all(set(point) == set(whole) and value in whole[name] for point in points for name, value in point.items())
    few = space(SearchSection(epochs=(2,), scales=()), ("float32",), MODEL)
    assert len(first_points(few)) == 7, "what is not to be tried is left out"


def test_the_long_one_of_the_first_points_trains_once_and_ends_on_the_images_as_they_are() -> None:
    found = [_candidate(point) for point in first_points(space(SearchSection(), ("float32",), MODEL))]
    long = max(found, key=lambda one: sum(map(epochs, one.chain)))
    assert [(s.compressor, epochs(s)) for s in long.chain] == [
        ("resolution", 0), ("shorten", 16), ("distill", 4), ("ptq", 0),
    ]  # fmt: skip
    assert long.chain[2].options == {"epochs": 4, "augment": False}
    before = found[: found.index(long)]
    assert [sum(map(epochs, one.chain)) for one in before if one.chain][-1] == 1, "its pace is known before"


def test_a_chain_in_another_precision_is_another_candidate_and_trains_the_same() -> None:
    points = {point["quantised_precision"]: point for point in first_points(space(SearchSection(), PRECISIONS, MODEL))}
    plain, mixed = (
        _candidate({**points["int8_bfloat16"], "quantised_precision": p}) for p in ("int8", "int8_bfloat16")
    )
    assert plain.chain == mixed.chain
    assert (plain.precision, mixed.precision) == ("int8", "int8_bfloat16")
    assert plain.key != mixed.key
    assert mixed.words.endswith("(int8_bfloat16, first 2 in float)")
    assert {p["quantised_precision"] for p in first_points(space(SECTION, ("float32",), MODEL))} == {"int8"}


def test_first_layers_are_the_stem_and_a_block_that_is_not_most_of_the_model() -> None:
    found = {
        name: first_layers(create(specify(name, classes=2, head="plain", dropout=0.0, size=64)))
        for name in ("tf_efficientnet_lite0", "resnet18", "vgg16_bn")
    }
    assert found["tf_efficientnet_lite0"] == ["backbone.conv_stem", "backbone.blocks.0.0"]
    assert found["resnet18"] == ["backbone.conv1", "backbone.layer1.0"]
    assert found["vgg16_bn"] == ["backbone.features.0", "backbone.features.3"]
