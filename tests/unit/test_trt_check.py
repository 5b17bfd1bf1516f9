"""NVIDIA's own parser and builder take medge's int8 graphs, and what they refuse is an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from medge import trt_check
from medge.backends import tensorrt
from medge.backends._tensorrt_child import DROPPED, ask
from medge.errors import MissingError
from medge.lowering.net import load
from medge.onnx_lint import lint
from medge.onnx_lowering import lower
from tests import nets
from tests.fake_stages import write_onnx


def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_check, "find_spec", lambda name: None)
    assert "trt-check" in (trt_check.missing() or "")
    with pytest.raises(MissingError, match="trt-check"):
        trt_check.check(tmp_path / "graph.onnx", precision="int8")


@pytest.fixture
def parser() -> None:
    lack = trt_check.missing()
    if lack is not None:
        pytest.skip(lack)


@pytest.mark.trt_check
@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("quantised", [False, True])
def test_a_lowered_graph_of_every_block_parses_and_builds(tmp_path: Path, quantised: bool) -> None:
    source = nets.write_net(tmp_path / "source.onnx", nets.BLOCKS, quantised=quantised)
    lower(source, tmp_path / "lowered.onnx", tensorrt.QUANT)
    answer = trt_check.check(tmp_path / "lowered.onnx", precision="int8" if quantised else "float32")
    assert (answer.failure, answer.messages) == ("", ())
    assert answer.layers > 0
    assert answer.plan_bytes > 0


@pytest.mark.trt_check
@pytest.mark.usefixtures("parser")
def test_nvidias_builder_says_of_a_damaged_timing_cache_that_it_begins_with_none(tmp_path: Path) -> None:
    write_onnx(tmp_path / "graph.onnx", size=32)
    cache = tmp_path / "timing.cache"
    request = {
        "module": trt_check.MODULE, "onnx": str(tmp_path / "graph.onnx"), "plan": None, "precision": "float32",
        "timing_cache": str(cache),
    }  # fmt: skip
    first = ask(request, seconds=120)
    assert (first.failure, first.messages) == ("", ())
    assert cache.stat().st_size > 0
    cache.write_bytes(b"damaged" * 50)
    second = ask(request, seconds=120)
    assert second.failure == ""
    assert any(DROPPED in message for message in second.messages)


@pytest.mark.trt_check
@pytest.mark.usefixtures("parser")
def test_a_graph_as_nncf_writes_it_is_refused_with_nvidias_own_words(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["relu"], quantised=True)
    answer = trt_check.check(source, precision="int8")
    assert "UInt8" in answer.failure
    assert answer.messages


@pytest.mark.trt_check
@pytest.mark.usefixtures("parser")
def test_uint8_that_would_be_read_as_int8_is_refused(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["relu"], quantised=True)
    net = load(source)
    from medge.lowering import image
    from medge.lowering.net import save

    image.cast_first(net)  # all that the parser itself asks for
    save(net, tmp_path / "cast.onnx")
    assert any(
        "TensorRT reads them as int8 and clips" in problem for problem in lint(tmp_path / "cast.onnx", tensorrt.QUANT)
    )
    answer = trt_check.check(tmp_path / "cast.onnx", precision="int8")
    assert "Defaulting to INT8" in answer.failure


@pytest.mark.trt_check
@pytest.mark.slow
@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
def test_the_int8_graph_of_a_backbone_passes_lint_parser_and_builder(tmp_path: Path, name: str) -> None:
    """Post-training quantisation as a recipe does it, on noise: the graph's form is what counts."""
    import torch

    from medge import model as models
    from medge.compressors import ptq
    from medge.fold import fold_batch_norms
    from medge.onnx_export import onnx_from_torch

    torch.manual_seed(0)
    classifier = models.create(models.specify(name, classes=2, head="batchnorm", dropout=0.0, size=64)).eval()
    pictures = torch.from_numpy(nets.images(4, size=64))
    folded, _ = fold_batch_norms(classifier, pictures[:1])
    quantised = ptq.quantise(folded, (picture[None] for picture in pictures), ptq.Options())
    onnx_from_torch(quantised, tmp_path / "model.onnx", size=(64, 64))
    lower(tmp_path / "model.onnx", tmp_path / "lowered.onnx", tensorrt.QUANT)
    assert lint(tmp_path / "lowered.onnx", tensorrt.QUANT) == []
    assert len(load(tmp_path / "lowered.onnx").of_type("QuantizeLinear")) > 50
    answer = trt_check.check(tmp_path / "lowered.onnx", precision="int8")
    assert (answer.failure, answer.messages) == ("", ())
