"""Settings of ptq: searched by validation loss, each in the log, none measured twice; squeezes in float."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from medge import quantised, setting_search
from medge.compressors import Context, ptq
from medge.data import dataset
from medge.model import Classifier, create, specify
from medge.records import read_json
from tests.tiny_data import data_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.DataSet:
    return data_of(tmp_path_factory, size=32)


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    torch.manual_seed(0)
    model = create(specify("mobilenetv3_small_100", classes=2, head="plain", dropout=0.0, size=32))
    return model.eval().requires_grad_(False)


class Losses:
    """Settings whose model is themselves, and the losses they are given."""

    def __init__(self, **by_change: float) -> None:
        self.by_change, self.made = by_change, list[Any]()

    def make(self, setting: ptq.Options) -> Any:
        self.made.append(setting)
        return setting

    def loss(self, setting: ptq.Options, context: Context) -> float:
        text = repr(setting)
        return min([1.0, *(loss for word, loss in self.by_change.items() if word in text)])


def test_the_setting_of_the_smallest_loss_is_kept_and_each_is_in_the_log(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(mean_minmax=0.5, mixed=0.2, histogram=0.3)
    monkeypatch.setattr(setting_search, "_loss", losses.loss)
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    best, model = setting_search.best_setting(ptq.Options(), losses.make, context, settings=20)
    assert (best.range_estimator, best.preset) == ("mean_minmax", "mixed")
    assert model == best
    assert len(context.log) == 8  # overflow_fix is `disable` as it is
    assert context.log[1] == "ptq setting (range_estimator mean_minmax): divergence 0.5 on validation images; kept."
    assert "preset mixed" in context.log[5]
    assert "not better" in context.log[-1]
    made = len(losses.made)
    again, _ = setting_search.best_setting(ptq.Options(), losses.make, context, settings=20)
    assert (again, len(losses.made)) == (best, made + 1)  # the model alone is made again


def test_what_was_chosen_is_told_as_options_that_quantise_once_with_it(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(mixed=0.2)
    monkeypatch.setattr(setting_search, "_loss", losses.loss)
    monkeypatch.setattr(ptq, "quantise", lambda model, images, setting: setting)
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    asked = ptq.Options(search=20, ignored=("backbone.conv_stem",))
    made: Any = ptq.apply(teacher, asked, context)
    found = ptq.settled(asked, tmp_path)
    assert found == ptq.Options(preset="mixed", ignored=("backbone.conv_stem",))
    assert made == dataclasses.replace(found, search=20)
    assert ptq.settled(ptq.Options(), tmp_path) == ptq.Options()


def test_no_more_settings_are_tried_than_asked_for_and_none_that_contradict_each_other(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses()
    monkeypatch.setattr(setting_search, "_loss", losses.loss)
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    setting_search.best_setting(ptq.Options(signed=True), losses.make, context, settings=3)
    assert len(losses.made) == 3
    setting_search.best_setting(ptq.Options(signed=True), losses.make, context, settings=20)
    assert {one.preset for one in losses.made} == {"performance"}


def test_a_change_that_changes_nothing_or_was_tried_is_no_try(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(mean_minmax=0.5)
    monkeypatch.setattr(setting_search, "_loss", losses.loss)
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    asked = ptq.Options(range_estimator="minmax")
    setting_search.best_setting(asked, losses.make, context, settings=5)
    tried = [(o.range_estimator, o.bias_correction, o.se_in_float, o.preset) for o in losses.made]
    assert tried == [
        ("minmax", True, False, "performance"),
        ("mean_minmax", True, False, "performance"),  # minmax was tried, and overflow_fix is `disable` as it is
        ("mean_minmax", False, False, "performance"),
        ("mean_minmax", True, True, "performance"),
        ("mean_minmax", True, False, "mixed"),
    ]
    assert len(context.log) == 5


def test_an_interrupted_search_of_settings_ends_like_one_that_was_not(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(mean_minmax=0.5, mixed=0.2, se_in_float=0.9)
    monkeypatch.setattr(setting_search, "_loss", losses.loss)
    contexts = [Context(data, data.indices("train")[:2], teacher, 0, tmp_path / name) for name in ("at once", "twice")]
    for context in contexts:
        context.work.mkdir()

    def stopped(setting: ptq.Options) -> Any:
        if len(losses.made) == 3:
            raise KeyboardInterrupt
        return losses.make(setting)

    with pytest.raises(KeyboardInterrupt):
        setting_search.best_setting(ptq.Options(), stopped, contexts[1], settings=6)
    best, _ = setting_search.best_setting(ptq.Options(), losses.make, contexts[1], settings=6)
    assert best == setting_search.best_setting(ptq.Options(), losses.make, contexts[0], settings=6)[0]
    at_once, twice = (read_json(context.work / "settings.json") for context in contexts)
    assert twice == at_once
    assert len(at_once) == 6


def test_a_quarter_of_the_calibration_images_and_all_of_them_are_tried(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []

    def quantise(model: Any, images: Any, setting: ptq.Options) -> Any:
        read.append((setting.subset_size, len(list(images))))
        return model

    monkeypatch.setattr(ptq, "quantise", quantise)
    monkeypatch.setattr(setting_search, "_loss", lambda model, context: 1.0)
    rows = data.indices("train")[:12]
    (tmp_path / "few").mkdir()
    ptq.apply(teacher, ptq.Options(subset_size=8, search=20), Context(data, rows, teacher, 0, tmp_path / "few"))
    assert read[0] == (8, 8)
    assert read[-2:] == [(2, 2), (12, 12)]
    read.clear()
    ptq.apply(teacher, ptq.Options(search=20), Context(data, rows, teacher, 0, tmp_path))  # 300, of which there are 12
    assert read[-1] == (3, 3)
    assert {images for _, images in read} == {12, 3}


@pytest.mark.slow
def test_squeezes_stay_in_float_where_asked_and_other_ranges_are_other_ranges(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    context = Context(data, data.indices("train")[:4], teacher, 0, tmp_path)
    image = torch.from_numpy(data.read([0]))
    plain, without = (
        ptq.apply(teacher, ptq.Options(**options), context)
        for options in ({}, {"se_in_float": True, "range_estimator": "mean_quantile", "smooth_quant_alpha": 0.5})
    )
    names = [{layer.name for layer in quantised.layers(m, image)[0]} for m in (plain, without)]
    blocks = set(quantised.squeezes(teacher))
    assert len(blocks) == 9
    assert blocks <= names[0]
    assert not blocks & names[1]
    stem = "__nncf_hooks.post_hooks./mul/0__0.0"
    assert not torch.equal(plain.get_submodule(stem).scale, without.get_submodule(stem).scale)


@pytest.mark.parametrize(("alpha", "named"), [(None, None), (-1, None), (0.5, "transformer")])
def test_smooth_quant_is_asked_for_in_the_way_in_which_nncf_runs_it(
    alpha: float | None, named: str | None, teacher: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nncf

    asked: dict[str, Any] = {}

    def quantize(model: Any, dataset: Any, **options: Any) -> Any:
        asked.update(options)
        return model

    monkeypatch.setattr(nncf, "quantize", quantize)
    images = torch.zeros((1, teacher.spec.size, teacher.spec.size, 3), dtype=torch.uint8)
    ptq.quantise(teacher, [images], ptq.Options(smooth_quant_alpha=alpha))
    kind = asked["model_type"]
    assert (None if kind is None else kind.value) == named


@pytest.mark.parametrize(
    "options", [{"range_estimator": "widest"}, {"smooth_quant_alpha": 2}, {"se_in_float": 1}, {"search": -1}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ptq.Options(**options)
