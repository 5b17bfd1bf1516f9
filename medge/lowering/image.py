"""The first steps of a graph, from the uint8 NHWC image to normalised planes: the same values in another order."""

from __future__ import annotations

import numpy as np

from medge.lowering.net import Net, Node, attribute
from medge.lowering.simplify import static_shapes

__all__ = ["cast_first", "normalise_by_rows"]

_FLOAT = 1  # onnx.TensorProto.FLOAT
_ARITHMETIC = ("Sub", "Div", "Mul", "Add")


def cast_first(net: Net) -> None:
    """The image becomes float before anything moves it: TensorRT reads uint8 only where a Cast follows at once."""
    image = net.inputs[0]
    (mover,) = net.consumers(image) if len(net.consumers(image)) == 1 else (None,)
    if mover is None or mover.op_type not in ("Transpose", "Reshape"):
        return
    readers = net.consumers(mover.output[0])
    if all(reader.op_type == "Cast" and attribute(reader, "to", 0) == _FLOAT for reader in readers):
        mover.input[0] = net.add("Cast", [image], f"{image}/float", to=_FLOAT)
        for cast in readers:
            net.redirect(cast.output[0], mover.output[0])
            net.nodes.remove(cast)


def normalise_by_rows(net: Net) -> None:
    """Normalisation per colour is done on rows of the NHWC image, before the transposition.

    A backend that keeps NHWC inside would otherwise broadcast three numbers over each pixel, which takes longer than
    a convolution (measured: a fifth of EfficientNet-Lite0's time in ONNX Runtime). Expects `cast_first`.
    """
    chain = _normalisation(net)
    if not chain:
        return
    _, height, width, colours = static_shapes(net)[net.inputs[0]]
    cast, transpose, *arithmetic = chain
    # 0: as many as come (ONNX, Reshape). One, but where a sweep of batch sizes asks this file for several.
    current = net.add(
        "Reshape", [cast.output[0], net.constant("rows/shape", np.array([0, height, width * colours]))], "rows"
    )
    for node in arithmetic:
        values = np.broadcast_to(net.constants[node.input[1]].reshape(-1), (colours,))
        current = net.add(
            node.op_type, [current, net.constant("rows/constant", np.tile(values, width))], "rows/normalised"
        )
    shape = net.constant("rows/image_shape", np.array([0, height, width, colours]))
    current = net.add("Reshape", [current, shape], "rows/image")
    current = net.add("Transpose", [current], "rows/planes", perm=list(attribute(transpose, "perm", [])))
    net.redirect(chain[-1].output[0], current)


def _normalisation(net: Net) -> list[Node]:
    """Cast to float, transposition to planes and arithmetic with a constant per colour, in one line from the image;
    an empty list for anything else."""
    chain: list[Node] = []
    tensor = net.inputs[0]
    while len(net.consumers(tensor)) == 1 and tensor not in net.outputs:
        node = net.consumers(tensor)[0]
        if len(chain) == 0:
            fits = node.op_type == "Cast"
        elif len(chain) == 1:
            fits = node.op_type == "Transpose" and attribute(node, "perm", []) == [0, 3, 1, 2]
        else:
            constant = net.value(node.input[1]) if node.op_type in _ARITHMETIC else None
            fits = constant is not None and constant.shape in ((), (1, 1, 1, 1), (1, 3, 1, 1), (3, 1, 1))
        if not fits:
            break
        chain.append(node)
        tensor = node.output[0]
    return chain if len(chain) > 2 else []
