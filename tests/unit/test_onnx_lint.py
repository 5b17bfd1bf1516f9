"""Each rule has its own message and names the node; a clean graph has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from medge.errors import ToolError
from medge.lowering.net import Net, load, to_model
from medge.onnx_lint import lint, refuse
from medge.onnx_lowering import lower
from medge.protocols import QuantRules
from tests import nets

SIGNED = QuantRules(activations="int8")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    source = nets.write_net(tmp_path / "source.onnx", ["relu", "depthwise"], quantised=True)
    lower(source, tmp_path / "clean.onnx", SIGNED)
    return tmp_path / "clean.onnx"


def changed(path: Path, change: Callable[[Net], None]) -> Path:
    net = load(path)
    change(net)
    onnx.save(to_model(net), str(path))
    return path


def activation(net: Net) -> onnx.NodeProto:
    return net.of_type("QuantizeLinear")[1]


def weight(net: Net) -> onnx.NodeProto:
    return next(node for node in net.of_type("DequantizeLinear") if net.value(node.input[0]) is not None)


def test_a_clean_graph_has_no_problem(clean: Path) -> None:
    assert lint(clean, SIGNED) == []
    refuse(clean, SIGNED)


def set_constant(which: Callable[[Net], onnx.NodeProto], position: int, value: np.ndarray) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        node = which(net)
        node.input[position] = net.constant("changed", value)

    return change


def bias_quantised(net: Net) -> None:
    conv = net.of_type("Conv")[0]
    size = net.constants[conv.input[2]].size
    inputs = [
        net.constant("b", np.zeros(size, np.int32)),
        net.constant("s", np.ones(size, np.float32)),
        net.constant("z", np.zeros(size, np.int32)),
    ]
    conv.input[2] = net.add("DequantizeLinear", inputs, "bias", axis=0)


def cast_removed(net: Net) -> None:
    (cast,) = net.consumers("images")
    net.nodes.remove(cast)
    net.redirect(cast.output[0], "images")


def weights_of(value: int) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        node = weight(net)
        integers = net.constants[node.input[0]].copy()
        integers.flat[0] = value
        net.constants[node.input[0]] = integers

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_constant(activation, 2, np.zeros((), np.uint8)), "its integers are uint8; TensorRT reads them as int8"),
        (set_constant(activation, 2, np.array(3, np.int8)), "its zero point is not 0"),
        (set_constant(activation, 1, np.array(np.inf, np.float32)), "its scales must be finite and positive"),
        (set_constant(activation, 1, np.array(0, np.float32)), "its scales must be finite and positive"),
        (set_constant(activation, 1, np.full(8, 0.1, np.float32)), "an activation has 8 scales; it must have one"),
        (set_constant(weight, 1, np.array(0.1, np.float32)), "weights must have one scale per channel of axis 0"),
        (weights_of(-128), "weights must lie within [-127, 127]"),
        (bias_quantised, "its bias is quantised; it must be float"),
        (cast_removed, "reads the uint8 image; TensorRT wants a Cast there"),
    ],
)
def test_each_rule_of_signed_int8_names_its_node(clean: Path, change: Callable[[Net], None], message: str) -> None:
    problems = lint(changed(clean, change), SIGNED)
    assert any(message in problem for problem in problems), problems
    assert all(": " in problem for problem in problems)
    names = {node.name for node in load(clean).nodes}
    assert all(problem.split(": ")[0] in names for problem in problems)


def test_weights_in_float_behind_a_quantiser_are_a_problem(clean: Path) -> None:
    def unfold(net: Net) -> None:
        node = weight(net)
        floats = net.constant("floats", net.constants[node.input[0]].astype(np.float32))
        node.input[0] = net.add("QuantizeLinear", [floats, *node.input[1:]], "unfolded", axis=0)

    assert any("fold it to int8" in problem for problem in lint(changed(clean, unfold), SIGNED))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.opset_import[0].__setattr__("version", 18), "opset 18: must be 17"),
        (lambda model: model.graph.output.reverse(), "outputs features, logits: must be logits, features"),
        (
            lambda model: model.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.FLOAT),
            "must be uint8",
        ),
        (
            lambda model: model.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_param", "batch"),
            "with fixed sizes, found [0, 16, 16, 3]",
        ),
        (
            lambda model: model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1])),
            "2 inputs: must be one",
        ),
        (
            lambda model: (
                model.graph.node.append(helper.make_node("Custom", ["features"], ["y"], "own", domain="mine"))
                or model.opset_import.append(helper.make_opsetid("mine", 1))
            ),
            "own: operator of the domain 'mine'",
        ),
    ],
)
def test_each_rule_of_the_border_has_its_message(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    path = nets.write_net(tmp_path / "net.onnx", [])
    assert lint(path) == []
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    problems = lint(path)
    assert any(message in problem for problem in problems), problems


def test_data_outside_the_file_is_a_problem(tmp_path: Path) -> None:
    path = nets.write_net(tmp_path / "net.onnx", ["relu"])
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert any("its data is outside the file" in problem for problem in lint(path))


def test_onnx_runtimes_rules_name_what_would_be_slow(clean: Path) -> None:
    problems = lint(clean, QuantRules(activations="uint8"))
    assert any("its integers are int8; ONNX Runtime is fast with uint8 only" in problem for problem in problems)


def test_refusing_lists_every_problem(clean: Path) -> None:
    changed(clean, weights_of(-128))
    changed(clean, bias_quantised)
    with pytest.raises(ToolError, match=r"breaks 2 rules:\n  - .*\n  - "):
        refuse(clean, SIGNED)
