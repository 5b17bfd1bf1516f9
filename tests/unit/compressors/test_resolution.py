"""Fewer pixels: what the network sees, that its weights stay, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medge import chains
from medge.compressors import Context, prune, ptq, resolution
from medge.data import dataset
from medge.errors import RecipeError, ToolError
from medge.lowering import image
from medge.lowering.net import load
from medge.lowering.net import save as save_net
from medge.lowering.simplify import fold_constants
from medge.model import Classifier, create, save, specify
from medge.onnx_export import onnx_from_torch
from tests import nets
from tests.teachers import SIZE


def _context(data: dataset.DataSet, teacher: Classifier, work: Path) -> Context:
    work.mkdir(exist_ok=True)
    return Context(data, data.indices("train")[:4], teacher, 0, work)


def _seen(model: Classifier, data: dataset.DataSet) -> torch.Tensor:
    """What the backbone is given for an image."""
    found = []
    hook = model.backbone.register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
    with torch.no_grad():
        model(torch.from_numpy(data.read([0])))
    hook.remove()
    return found[0]


def test_the_network_sees_the_mean_of_two_by_two_pixels_at_half_the_side(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    context = _context(data, lite, tmp_path)
    reduced = resolution.apply(lite, resolution.Options(scale=0.5, epochs=0), context)
    assert isinstance(reduced, Classifier)
    whole, seen = _seen(lite, data), _seen(reduced, data)
    assert seen.shape == (1, 3, SIZE // 2, SIZE // 2)
    assert torch.allclose(seen, torch.nn.functional.avg_pool2d(whole, 2), atol=1e-5)
    assert context.log[0].endswith(f"{SIZE // 2} x {SIZE // 2} of {SIZE} x {SIZE} pixels, 25% of them.")
    assert lite.side is None


def test_weights_stay_and_batch_norms_gather_statistics_of_reduced_images(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    reduced = resolution.apply(lite, resolution.Options(scale=0.5, epochs=0), _context(data, lite, tmp_path))
    before, after = lite.state_dict(), reduced.state_dict()
    weights = [name for name, _ in lite.named_parameters()]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert not torch.equal(before["backbone.bn1.running_mean"], after["backbone.bn1.running_mean"])


def test_training_brings_it_nearer_and_a_second_step_reduces_what_it_sees(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    options = resolution.Options(scale=0.75, epochs=3, batch_size=8, learning_rate=1e-4)
    context = _context(data, lite, tmp_path / "first")
    once = resolution.apply(lite, options, context)
    losses = torch.load(tmp_path / "first" / "resolution.pt", weights_only=True)["losses"]
    assert len(losses) == 4
    assert min(losses[1:]) < losses[0]
    twice = resolution.apply(once, resolution.Options(scale=0.75, epochs=0), _context(data, lite, tmp_path / "second"))
    assert (once.side, twice.side) == (8 * round(SIZE * 0.75 / 8), 8 * round(0.75 * once.side / 8))
    with pytest.raises(RecipeError, match=f"less than half of the image's {SIZE}"):
        resolution.apply(twice, resolution.Options(scale=0.7, epochs=0), _context(data, lite, tmp_path / "third"))


def test_pruning_and_quantising_follow_it(data: dataset.DataSet, lite: Classifier, tmp_path: Path) -> None:
    assert chains.problem(["resolution", "prune", "ptq", "qat"]) is None
    assert "resolution cannot change a model that ptq has quantised" in str(chains.problem(["ptq", "resolution"]))
    model = resolution.apply(lite, resolution.Options(scale=0.5, epochs=0), _context(data, lite, tmp_path / "0"))
    model = prune.apply(model, prune.Options(ratio=0.5, epochs=0), _context(data, lite, tmp_path / "1"))
    assert model.side == SIZE // 2
    quantised = ptq.apply(model, ptq.Options(subset_size=4), _context(data, lite, tmp_path / "2"))
    assert _seen(quantised, data).shape == (1, 3, SIZE // 2, SIZE // 2)


def test_onnx_runtime_normalises_the_whole_image_by_rows_before_it_is_reduced(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    reduced = resolution.apply(lite, resolution.Options(scale=0.5, epochs=0), _context(data, lite, tmp_path))
    source, lowered = tmp_path / "source.onnx", tmp_path / "lowered.onnx"
    onnx_from_torch(reduced, source, size=(SIZE, SIZE))
    net = load(source)
    fold_constants(net)
    image.cast_first(net)
    image.by_rows(net)
    assert any(node.name.startswith("rows/") for node in net.nodes)
    save_net(net, lowered)
    images = data.read(range(4))
    with torch.no_grad():
        expected = reduced(torch.from_numpy(images))[0].numpy()
    assert np.allclose(nets.run_plainly(lowered, images)[0], expected, atol=1e-2)


def test_a_network_for_one_size_is_refused_as_a_tools_refusal(data: dataset.DataSet, tmp_path: Path) -> None:
    vit = create(specify("vit_tiny_patch16_224", classes=2, head="plain", dropout=0.0, size=SIZE)).eval()
    with pytest.raises(ToolError, match="vit_tiny_patch16_224 cannot take") as caught:
        resolution.apply(vit, resolution.Options(scale=0.5, epochs=0), _context(data, vit, tmp_path))
    assert caught.value.exit_code == 4


def test_a_reduced_model_is_not_saved_as_one_that_is_not(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    reduced = resolution.apply(lite, resolution.Options(scale=0.5, epochs=0), _context(data, lite, tmp_path / "0"))
    assert isinstance(reduced, Classifier)
    with pytest.raises(ToolError, match="as ONNX alone"):
        save(reduced, tmp_path)
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize("scale", [0.4, 1, 1.5, -1, True, "half"])
def test_a_scale_that_reduces_nothing_or_skips_pixels_is_refused(scale: object) -> None:
    with pytest.raises(ValueError, match="scale is"):
        resolution.Options(scale=scale)  # type: ignore[arg-type]


def test_a_scale_that_rounds_to_the_whole_image_is_refused_with_the_figures(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=rf"0\.99 of {SIZE} pixels, rounded to a multiple of 8, is {SIZE}"):
        resolution.apply(lite, resolution.Options(scale=0.99), _context(data, lite, tmp_path))


def test_another_module_is_refused(data: dataset.DataSet, lite: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="takes a classifier"):
        resolution.apply(torch.nn.Identity(), resolution.Options(), _context(data, lite, tmp_path))
