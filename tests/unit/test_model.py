"""The classifier: input and output contract, naming of timm models, saving and loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medge import model as models
from medge.data.dataset import load as load_data
from medge.errors import IntegrityError, RecipeError
from tests.tiny_data import data_stage

TINY = "test_efficientnet"


def tiny(head: str = "batchnorm", classes: int = 2, size: int = 32) -> models.Classifier:
    torch.manual_seed(0)
    return models.create(models.specify(TINY, classes=classes, head=head, dropout=0.2, size=size))


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("efficientnet_b0", 1280),
        ("tf_efficientnet_lite0", 1280),
        ("resnet18", 512),
        ("resnet50", 2048),
        ("vgg16_bn", 512),
        ("mobilenetv3_small_100", 1024),
        ("test_vit", 64),
    ],
)
def test_every_first_class_family_gives_logits_and_pooled_features(name: str, dimensions: int) -> None:
    spec = models.specify(name, classes=3, head="batchnorm", dropout=0.2, size=64)
    model = models.create(spec).eval()
    logits, features = model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert tuple(logits.shape) == (2, 3)
    assert (2, dimensions) == tuple(features.shape)
    assert (torch.float32, torch.float32) == (logits.dtype, features.dtype)


def test_normalisation_inside_the_graph_is_that_of_timm() -> None:
    model = tiny().eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = torch.tensor(model.spec.mean).view(3, 1, 1), torch.tensor(model.spec.std).view(3, 1, 1)
    expected = model.backbone((images.permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(model(images)[1], expected, rtol=1e-4, atol=1e-5)


def test_float_images_give_what_uint8_images_give() -> None:
    model = tiny().eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(model(images)[0], model(images.float())[0])


def test_heads_are_what_the_recipe_names() -> None:
    assert [type(m).__name__ for m in tiny("batchnorm").head] == ["BatchNorm1d", "Dropout", "Linear"]
    assert [type(m).__name__ for m in tiny("plain").head] == ["Dropout", "Linear"]


def test_the_head_stays_in_float32_under_autocast() -> None:
    model = tiny().eval()
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        logits, features = model(images)
    assert torch.equal(model.head(features), logits)


@pytest.mark.parametrize(("name", "guess"), [("resnet81", "resnet18"), ("efficientnet_bo", "efficientnet_b0")])
def test_an_unknown_model_is_refused_with_the_nearest_names(name: str, guess: str) -> None:
    with pytest.raises(RecipeError, match="timm has no model") as caught:
        models.specify(name, classes=2, head="plain", dropout=0.0, size=32)
    assert guess in caught.value.fix


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(RecipeError, match="no weights 'nonesuch'"):
        models.specify("resnet18.nonesuch", classes=2, head="plain", dropout=0.0, size=32)


def test_a_size_that_a_model_cannot_take_is_refused() -> None:
    spec = models.specify("inception_v3", classes=2, head="plain", dropout=0.0, size=32)
    with pytest.raises(RecipeError, match="cannot be built for 32 px"):
        models.create(spec)


def test_a_saved_model_is_loaded_with_the_same_outputs(tmp_path: Path) -> None:
    model = tiny().eval()
    models.save(model, tmp_path)
    again = models.load(tmp_path)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert model.spec == again.spec
    assert not again.training
    assert torch.equal(model(images)[0], again(images)[0])


def test_a_truncated_weights_file_is_refused(tmp_path: Path) -> None:
    models.save(tiny(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError):
        models.load(tmp_path)


def test_predictions_keep_order_and_put_the_training_mode_back(tmp_path: Path) -> None:
    data = load_data(data_stage(tmp_path).folder)
    model = tiny()
    rows = np.array([5, 3, 70, 0])
    together = models.predict(model, data, rows, description="all")
    alone = [models.predict(model, data, rows[k : k + 1], description="one")[0] for k in range(4)]
    assert model.training
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-5)


def test_no_images_give_no_predictions(tmp_path: Path) -> None:
    data = load_data(data_stage(tmp_path).folder)
    assert len(models.predict(tiny(), data, np.array([], dtype=np.int64), description="none")) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_exported_graph_agrees_with_torch(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = tiny().eval()
    images = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    torch.onnx.export(model, (images,), str(tmp_path / "x.onnx"), opset_version=17, dynamo=False)
    session = ort.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    logits, features = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(model(images)[0].detach().numpy(), logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model(images)[1].detach().numpy(), features, rtol=1e-3, atol=1e-4)
