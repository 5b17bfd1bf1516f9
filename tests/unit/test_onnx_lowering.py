"""Lowering changes how a graph is written, and what it computes only by the rounding that an engine asks for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from medge.backends import onnxruntime as ort_backend
from medge.backends import openvino as openvino_backend
from medge.backends import tensorrt as tensorrt_backend
from medge.errors import DataError, ToolError
from medge.lowering.net import Net, load, save
from medge.onnx_lint import lint
from medge.onnx_lowering import lower
from medge.protocols import QuantRules
from tests import nets

AS_IS = QuantRules()
UINT8 = QuantRules(activations="uint8")
ORT, OPENVINO, TENSORRT = ort_backend.QUANT, openvino_backend.QUANT, tensorrt_backend.QUANT

each_net = given(
    blocks=st.lists(st.sampled_from(nets.BLOCKS), max_size=5), signed=st.booleans(), seed=st.integers(0, 10_000)
)
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def lowered(source: Path, rules: QuantRules) -> Path:
    target = source.with_name("lowered.onnx")
    lower(source, target, rules, calibration_images=nets.images(4, size=16))
    assert lint(target, rules) == []
    return target


def quantisers(path: Path) -> list[tuple[str, float, int]]:
    """Type, scale and zero point of every QuantizeLinear."""
    net = load(path)
    found = [(net.constants[n.input[1]], net.constants[n.input[2]]) for n in net.of_type("QuantizeLinear")]
    return [(zero.dtype.name, float(scale), int(zero)) for scale, zero in found]


@quick
@each_net
def test_openvino_and_tensorrt_get_the_very_same_function(
    tmp_path: Path, blocks: list[str], signed: bool, seed: int
) -> None:
    source = nets.write_net(tmp_path / "source.onnx", blocks, quantised=True, signed=signed, seed=seed)
    pictures = nets.images(3, size=16, seed=seed)
    expected = nets.run_plainly(source, pictures)
    for rules in (AS_IS, OPENVINO):
        found = nets.run_plainly(lowered(source, rules), pictures)
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    for_tensorrt = nets.run_plainly(lowered(source, TENSORRT), pictures)
    if signed:
        assert all(np.array_equal(a, b) for a, b in zip(expected, for_tensorrt, strict=True))
    else:  # 127 steps where there were 255
        assert distance(expected[1], for_tensorrt[1]) < 0.03


@quick
@each_net
def test_onnx_runtime_gets_the_same_function_but_for_rounding(
    tmp_path: Path, blocks: list[str], signed: bool, seed: int
) -> None:
    source = nets.write_net(tmp_path / "source.onnx", blocks, quantised=True, signed=signed, seed=seed)
    pictures = nets.images(3, size=16, seed=seed)
    expected = nets.run_plainly(source, pictures)
    uint8 = nets.run_plainly(lowered(source, UINT8), pictures)
    if signed:  # finer steps after ReLU
        assert distance(expected[1], uint8[1]) < 0.03
    else:
        assert distance(expected[1], uint8[1]) < 1e-6
    # Pairs added at outputs that had none round once more to 8 bits; in nets this small that is some percent (of 250
    # drawn at random 5.5 at most; 10.4 is the most ever seen).
    assert distance(expected[1], nets.run_plainly(lowered(source, ORT), pictures)[1]) < 0.2


@quick
@each_net
def test_a_float_graph_computes_the_same_for_every_backend(
    tmp_path: Path, blocks: list[str], signed: bool, seed: int
) -> None:
    source = nets.write_net(tmp_path / "source.onnx", blocks, seed=seed)
    pictures = nets.images(2, size=16, seed=seed)
    expected = nets.run_plainly(source, pictures)
    for rules in (AS_IS, ORT, TENSORRT, OPENVINO):
        actual = nets.run_plainly(lowered(source, rules), pictures)
        assert all(distance(a, b) < 1e-6 for a, b in zip(expected, actual, strict=True))


@pytest.mark.parametrize("signed", [False, True])
def test_onnx_runtime_runs_the_lowered_graph_in_integers(tmp_path: Path, signed: bool) -> None:
    source = nets.write_net(tmp_path / "source.onnx", nets.BLOCKS, quantised=True, signed=signed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(lowered(source, ORT)), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    convolutions = sum(node.op_type == "Conv" for node in load(source).nodes)
    assert kinds["QLinearConv"] == convolutions - 1  # that of squeeze and excitation is in float
    assert (kinds["Conv"] + kinds["FusedConv"], kinds["QLinearAdd"]) == (1, 2)
    assert (kinds["Clip"], kinds["Relu"], kinds["Add"]) == (0, 0, 0)


def test_signed_pairs_get_unsigned_steps_where_values_are_never_negative(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["linear", "relu"], quantised=True, signed=True)
    before, after = quantisers(source), quantisers(lowered(source, UINT8))
    assert [zero for _, _, zero in after] == [128, 0, 128, 0]  # the image, the stem's ReLU, linear, ReLU
    for (_, old, _), (kind, new, zero) in zip(before, after, strict=True):
        assert kind == "uint8"
        assert new == pytest.approx(old if zero == 128 else old * 127 / 255, rel=1e-6)


def test_tensorrt_gets_the_range_of_uint8_in_int8(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["relu"], quantised=True)
    before, after = quantisers(source), quantisers(lowered(source, TENSORRT))
    assert {(kind, zero) for kind, _, zero in after} == {("int8", 0)}
    for (kind, old, _), (_, new, _) in zip(before, after, strict=True):
        assert new == pytest.approx(old * 255 / 127 if kind == "uint8" else old, rel=1e-6)


def test_asymmetric_pairs_become_symmetric_ones_that_cover_them(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["linear"], quantised=True)
    net = load(source)
    (scale, zero) = net.of_type("QuantizeLinear")[-1].input[1:]
    net.constants[scale], net.constants[zero] = np.float32(0.1), np.int8(-28)  # -10.0 to 15.5
    save(net, source)
    assert quantisers(lowered(source, TENSORRT))[-1] == ("int8", pytest.approx(15.5 / 127, rel=1e-6), 0)
    assert quantisers(lowered(source, UINT8))[-1] == ("uint8", pytest.approx(0.1), 100)


def test_padding_computed_at_run_time_goes_into_the_convolution(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["padded"], quantised=True)
    model = onnx.load(source)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")  # what torch leaves when it cannot see through the padding
    onnx.save(model, source)
    assert any("fixed size" in problem for problem in lint(source))
    target = lowered(source, AS_IS)
    kinds = Counter(node.op_type for node in load(target).nodes)
    assert (kinds["Pad"], kinds["Shape"], kinds["Concat"]) == (0, 0, 0)


def test_a_bias_that_would_overflow_widens_its_channel(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["linear"], quantised=True)
    net = load(source)
    conv = net.of_type("Conv")[-1]
    dequantize = net.producer(conv.input[1])
    assert dequantize is not None
    scale = net.constants[dequantize.input[1]].copy()
    scale[3] = 1e-12  # a channel that pruning left with next to nothing
    net.constants[dequantize.input[1]] = scale
    save(net, source)
    target = lowered(source, QuantRules(activations="uint8", quantize_bias=True))
    pictures = nets.images(3, size=16)
    expected, actual = nets.run_plainly(source, pictures)[1], nets.run_plainly(target, pictures)[1]
    assert distance(expected, actual) < 0.01
    after = load(target)
    biases = [after.producer(conv.input[2]) for conv in after.of_type("Conv")]
    assert [after.constants[bias.input[0]].dtype for bias in biases if bias is not None] == [np.int32, np.int32]
    assert max(np.abs(after.constants[bias.input[0]]).max() for bias in biases if bias is not None) <= 2**30


def test_quantised_biases_become_float_for_tensorrt(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["relu"], quantised=True)
    with_int32 = lowered(source, QuantRules(activations="uint8", quantize_bias=True))
    assert any("bias is quantised" in problem for problem in lint(with_int32, TENSORRT))
    lower(with_int32, tmp_path / "signed.onnx", TENSORRT)
    assert lint(tmp_path / "signed.onnx", TENSORRT) == []


def test_what_a_layer_in_float_reads_is_not_quantised_again(tmp_path: Path) -> None:
    """NNCF leaves an ignored layer in float with its input; a pair there would cost what it was ignored for."""
    source = nets.write_net(tmp_path / "source.onnx", ["conv", "conv", "conv"], quantised=True, signed=False, seed=3)
    net = load(source)
    second = net.of_type("Conv")[1]
    for name in list(second.input[:2]):  # both its pairs go
        dequantize = net.producer(name)
        quantize = net.producer(dequantize.input[0])
        if quantize is None:
            second.input[1] = net.constant("float_weight", dequantised(net, dequantize))
        else:
            second.input[0] = quantize.input[0]
    save(net, source)
    read = load(lowered(source, ORT))
    readers = [node for node in read.of_type("Conv") if read.value(node.input[1]) is not None]
    assert len(readers) == 1
    assert read.producer(readers[0].input[0]).op_type != "DequantizeLinear"
    pictures = nets.images(3, size=16, seed=3)
    expected, found = nets.run_plainly(source, pictures), nets.run_plainly(lowered(source, ORT), pictures)
    assert distance(expected[1], found[1]) < 0.05


def dequantised(net: Net, node: onnx.NodeProto) -> NDArray[np.float32]:
    """The float weights of a DequantizeLinear of constants, per channel or not."""
    values, scale, zero = (net.constants[name] for name in node.input)
    shape = (-1, *[1] * (values.ndim - 1)) if scale.size > 1 else ()
    return ((values.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)).astype(np.float32)


def test_ranges_come_from_images_and_without_any_it_says_so(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["silu"], quantised=True)
    with pytest.raises(DataError, match="need a range") as caught:
        lower(source, tmp_path / "lowered.onnx", ORT)
    assert "calibration images" in caught.value.fix
    assert not (tmp_path / "lowered.onnx").exists()


def test_activations_per_channel_are_refused_by_name(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", [], quantised=True)
    net = load(source)
    node = net.of_type("QuantizeLinear")[-1]
    net.constants[node.input[1]] = np.full(8, 0.1, dtype=np.float32)
    net.constants[node.input[2]] = np.zeros(8, dtype=np.uint8)
    save(net, source)
    for rules in (UINT8, TENSORRT):
        with pytest.raises(ToolError, match=rf"{node.name}: .* per channel \(8 scales\)"):
            lower(source, tmp_path / "lowered.onnx", rules)


@pytest.mark.parametrize("rules", [AS_IS, ORT, TENSORRT])
def test_the_same_graph_gives_the_same_bytes(tmp_path: Path, rules: QuantRules) -> None:
    source = nets.write_net(tmp_path / "source.onnx", nets.BLOCKS, quantised=True)
    first = lowered(source, rules).read_bytes()
    assert first == lowered(source, rules).read_bytes()


def test_lowering_keeps_no_float_copy_of_the_weights(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "source.onnx", ["relu"] * 4, quantised=True)
    for rules in (AS_IS, ORT, TENSORRT, OPENVINO):
        floats = [
            t for t in onnx.load(lowered(source, rules)).graph.initializer if t.data_type == onnx.TensorProto.FLOAT
        ]
        assert max(numpy_helper.to_array(t).size for t in floats) <= 48  # a row of the image, not a kernel of 576


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source.onnx").write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(ToolError, match="not an ONNX file"):
        lower(tmp_path / "source.onnx", tmp_path / "lowered.onnx", AS_IS)
