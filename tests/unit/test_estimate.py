"""The roofline: counted by hand on small nets, marked as an estimate everywhere, and never ranked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from medge import estimate, recipe
from medge.errors import RecipeError, ToolError
from medge.estimate import ESTIMATE, MACHINES, Machine
from medge.records import read_json, write_json
from medge.report import gather
from medge.sections import ProfileSection
from medge.stages import select as select_stage
from tests import nets
from tests.synthetic_run import write_run


def write_graph(path: Path, *, open_size: bool = False) -> Path:
    """uint8 [1, 8, 8, 3] -> Conv 3x3, 4 channels, stride 2 -> Relu -> depthwise 3x3 -> Add -> mean -> Gemm 4 x 2."""
    random = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 1, 3, 3), "w3": (4, 2)}
    constants = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Transpose", ["images"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a"], "residual"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["features"]),
        helper.make_node("Gemm", ["features", "w3"], ["logits"], "head"),
    ]
    size: Any = ["h", "w"] if open_size else [8, 8]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, *size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2]),
         helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 4])], constants,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_operations_and_values_are_those_counted_by_hand(tmp_path: Path) -> None:
    layers = {layer.name: layer for layer in estimate.layers_of(write_graph(tmp_path / "m.onnx"))}
    assert set(layers) == {"first", "depthwise", "residual", "pool", "head"}
    counted = {name: (one.operations, one.activations, one.weights) for name, one in layers.items()}
    assert counted == {
        "first": (2 * 4 * 4 * 4 * 27, 8 * 8 * 3 + 4 * 4 * 4, 4 * 27 + 4),
        "depthwise": (2 * 4 * 4 * 4 * 9, 64 + 64, 36),
        "residual": (64, 64, 0),
        "pool": (64, 64 + 4, 0),
        "head": (2 * 2 * 4, 4 + 2, 8),
    }
    assert not any(layer.quantised for layer in layers.values())


def test_each_layer_takes_the_longer_of_computing_and_moving(tmp_path: Path) -> None:
    layers = estimate.layers_of(write_graph(tmp_path / "m.onnx"))
    moved = sum(layer.activations + layer.weights for layer in layers)
    operations = sum(layer.operations for layer in layers)
    waits = estimate.estimate(layers, Machine("m", {"float32": 1e15}, 1e6, "test"), "float32")
    computes = estimate.estimate(layers, Machine("m", {"float32": 1e6}, 1e15, "test"), "float32")
    launches = estimate.estimate(layers, Machine("m", {"float32": 1e15}, 1e15, "test", 0.001), "float32")
    assert waits["estimate_ms"] == pytest.approx(moved * 4 / 1e6 * 1000)
    assert computes["estimate_ms"] == pytest.approx(operations / 1e6 * 1000)
    assert launches["estimate_ms"] == pytest.approx(len(layers), rel=1e-3)
    assert (waits["memory_bound_share"], computes["memory_bound_share"]) == (1.0, 0.0)


def test_quantised_layers_move_a_byte_a_value(tmp_path: Path) -> None:
    machine = MACHINES["jetson-orin-nano"]
    plain, quantised = (
        estimate.estimate(
            estimate.layers_of(nets.write_net(tmp_path / f"{q}.onnx", ("relu", "depthwise"), quantised=q)), machine,
            "float16",
        )
        for q in (False, True)
    )  # fmt: skip
    assert plain["operations"] == quantised["operations"]
    assert quantised["bytes"] < 0.7 * plain["bytes"]
    assert quantised["estimate_ms"] < plain["estimate_ms"]


def test_a_graph_of_unknown_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is not known"):
        estimate.layers_of(write_graph(tmp_path / "m.onnx", open_size=True))


def test_every_figure_says_that_it_is_an_estimate_and_the_error_stands_beside_it(tmp_path: Path) -> None:
    graphs = {"float": write_graph(tmp_path / "m.onnx")}
    host = Machine("this machine", {"float32": 1e10, "int8": 1e11}, 1e10, "measured", 0.0)
    one = estimate.estimate(estimate.layers_of(graphs["float"]), host, "float32")["estimate_ms"]
    measured = {"float/openvino-float32": {"p50_ms": 3 * one}, "float/openvino-bfloat16": {"p50_ms": 1.0}}
    found = estimate.report(graphs, tuple(MACHINES), host=host, measured=measured)
    assert set(found["machines"]) == set(MACHINES)
    for machine in found["machines"].values():
        assert machine["what"] == ESTIMATE == "estimate, not measured"
        assert all(variant["what"] == ESTIMATE for variant in machine["variants"].values())
        assert "GB" in machine["source"]
    assert found["error"]["measured_over_estimate"] == {"float/openvino-float32": pytest.approx(3.0, abs=0.01)}


def test_machines_are_in_the_order_of_their_peaks() -> None:
    names = ["jetson-orin-nano", "jetson-orin-nano-super", "jetson-agx-orin-64"]
    assert [MACHINES[name].peak["int8"] for name in names] == sorted(m.peak["int8"] for m in MACHINES.values())
    assert [MACHINES[name].bandwidth for name in names] == sorted(m.bandwidth for m in MACHINES.values())


def test_an_unknown_machine_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.parse({"profile": {"estimate": ["jetson-orin-nanu"]}}, origin="test")
    assert "jetson-orin-nano" in str(caught.value)
    assert ProfileSection(estimate=["jetson-orin-nano"]).estimate == ("jetson-orin-nano",)


def test_select_never_ranks_an_estimate(tmp_path: Path) -> None:
    run = write_run(tmp_path / "made-up")
    found = gather.gather(run)
    before = read_json(run / "7-select" / "choice.json")
    latency = read_json(run / "6-profile" / "latency.json")
    variant = {"what": ESTIMATE, "precision": "int8", "estimate_ms": 0.0001}
    latency["estimates"] = {"what": ESTIMATE, "machines": {"jetson-orin-nano": {"variants": {"int8": variant}}}}
    write_json(run / "6-profile" / "latency.json", latency)
    inputs = {name: _stage(run, name) for name in ("compile", "validate", "profile")}
    section = recipe.load(run / "recipe.yaml").select
    (tmp_path / "again").mkdir()
    select_stage.run(section, inputs, tmp_path / "again", 0)
    after = read_json(tmp_path / "again" / "choice.json")
    assert after == before
    assert {row["name"] for row in after["candidates"]} == {engine.name for engine in found.engines}


def _stage(run: Path, name: str) -> Any:
    from medge import workspace

    return workspace.required(run, name)
