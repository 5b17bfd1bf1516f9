"""An ONNX graph while it is rewritten: nodes in any order, constants as arrays, one place for every look-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge.errors import ToolError

__all__ = ["Net", "attribute", "load", "save"]

Node = Any  # onnx.NodeProto; onnx is imported inside functions
Array = NDArray[Any]


@dataclass
class Net:
    """A graph whose constants are in `constants`; `model` keeps what is not rewritten (inputs, outputs, opsets)."""

    model: Any
    nodes: list[Node]
    constants: dict[str, Array]
    _numbers: Counter[str] = field(default_factory=Counter)

    @property
    def inputs(self) -> list[str]:
        return [value.name for value in self.model.graph.input]

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.model.graph.output]

    def producer(self, tensor: str) -> Node | None:
        """The node that writes `tensor`; None for an input or a constant."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def consumers(self, tensor: str) -> list[Node]:
        """The nodes that read `tensor`."""
        return [node for node in self.nodes if tensor in node.input]

    def of_type(self, *op_types: str) -> list[Node]:
        return [node for node in self.nodes if node.op_type in op_types]

    def value(self, tensor: str) -> Array | None:
        """A constant's value; None for anything else."""
        return self.constants.get(tensor)

    def constant(self, name: str, value: Array) -> str:
        """Adds a constant and returns its name, which begins with `name`."""
        unique = self._unique(name)
        self.constants[unique] = value
        return unique

    def add(self, op_type: str, inputs: Iterable[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output and returns the output's name, which begins with `name`."""
        from onnx import helper

        output = self._unique(name)
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def redirect(self, old: str, new: str) -> None:
        """Every node that reads `old` reads `new`. Graph outputs keep their tensor."""
        for node in self.nodes:
            for k, name in enumerate(node.input):
                if name == old:
                    node.input[k] = new

    def _unique(self, name: str) -> str:
        taken = {*self.constants, *self.inputs, *(o for node in self.nodes for o in node.output)}
        while True:
            self._numbers[name] += 1
            candidate = name if self._numbers[name] == 1 else f"{name}_{self._numbers[name]}"
            if candidate not in taken:
                return candidate


def attribute(node: Node, name: str, default: Any) -> Any:
    """A node's attribute as a Python value, or the default where it is not set."""
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def load(path: Path) -> Net:
    """The graph in a file. Raises ToolError where it is not ONNX."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import numpy_helper

    try:
        model = onnx.load(str(path))
    except (DecodeError, OSError, onnx.checker.ValidationError) as error:
        raise ToolError(f"{path} is not an ONNX file: {error}", fix="Make it again: medge compress.") from error
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        else:
            nodes.append(node)
    return Net(model, nodes, constants)


def to_model(net: Net) -> Any:
    """An onnx.ModelProto of the graph: nodes in topological order, without what no output needs."""
    import onnx
    from onnx import numpy_helper

    nodes = _ordered(net)
    read = {name for node in nodes for name in node.input} | set(net.outputs)
    model = onnx.ModelProto()
    model.CopyFrom(net.model)
    for cleared in ("node", "initializer", "value_info"):
        model.graph.ClearField(cleared)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, order="C"), name)
        for name, value in net.constants.items()
        if name in read
    )
    return model


def save(net: Net, path: Path) -> None:
    """Writes the graph, checked, the same bytes for the same graph. Raises ToolError where it is not valid ONNX."""
    import onnx

    model = to_model(net)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
            value.CopyFrom(known)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]
        raise ToolError(f"The lowered graph is not valid ONNX: {first}", fix="Report this model to medge.") from error
    path.write_bytes(model.SerializeToString(deterministic=True))


def _ordered(net: Net) -> list[Node]:
    """Nodes that an output needs, each after those that it reads from, otherwise in the order they were in."""
    producers = {output: node for node in net.nodes for output in node.output}
    done: dict[int, Node] = {}
    for output in net.outputs:
        stack = [output]
        while stack:
            node = producers.get(stack[-1])
            waiting = [] if node is None or id(node) in done else [
                name for name in node.input if name in producers and id(producers[name]) not in done
            ]  # fmt: skip
            if waiting:
                stack.extend(reversed(waiting))
                continue
            if node is not None:
                done.setdefault(id(node), node)
            stack.pop()
    return list(done.values())
