"""The first steps of a graph, from the uint8 NHWC image to normalised planes: the same values in another order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medge.lowering.net import Net, Node, attribute
from medge.lowering.simplify import static_shapes

__all__ = ["by_rows", "cast_first"]

_FLOAT = 1  # onnx.TensorProto.FLOAT
_ARITHMETIC = ("Sub", "Div", "Mul", "Add")

Indices = NDArray[np.int64]


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


def by_rows(net: Net) -> None:
    """What is done to the image (reducing it, normalising its colours) is done on rows of NHWC, before the
    transposition: a row is [width * colours] numbers, and what is added to it or multiplied as long.

    A backend that keeps NHWC inside would otherwise broadcast three numbers over each pixel, or move the image to
    planes and back; either takes longer than a convolution. Of EfficientNet-Lite0's time that was a fifth in ONNX
    Runtime at 224 px, and in OpenVINO on AVX-512 what came before the first convolution took 0.20 ms instead of 0.05,
    and reduced to 128 px 0.44 instead of 0.09. Expects `cast_first`.
    """
    chain = _image_chain(net)
    if not chain:
        return
    _, height, width, colours = static_shapes(net)[net.inputs[0]]
    cast, transpose, *others = chain
    resize = others.pop() if others and others[-1].op_type == "Resize" else None
    side = (height, width)
    if resize is None:
        current = _rows(net, cast.output[0], height, width * colours)
    else:
        side = (int(net.constants[resize.input[3]][2]), int(net.constants[resize.input[3]][3]))
        current = _reduced(net, (height, width, colours), side)
    for node in others:
        values = np.broadcast_to(net.constants[node.input[1]].reshape(-1), (colours,))
        current = net.add(
            node.op_type, [current, net.constant("rows/constant", np.tile(values, side[1]))], "rows/normalised"
        )
    shape = net.constant("rows/image_shape", np.array([0, *side, colours]))
    current = net.add("Reshape", [current, shape], "rows/image")
    current = net.add("Transpose", [current], "rows/planes", perm=list(attribute(transpose, "perm", [])))
    net.redirect(chain[-1].output[0], current)


def _rows(net: Net, tensor: str, height: int, length: int) -> str:
    # 0: as many as come (ONNX, Reshape). One, but where a sweep of batch sizes asks this file for several.
    return net.add("Reshape", [tensor, net.constant("rows/shape", np.array([0, height, length]))], "rows")


def _reduced(net: Net, shape: tuple[int, int, int], side: tuple[int, int]) -> str:
    """The uint8 image of that shape [height, width, colours], reduced bilinearly, float rows [1, height, width *
    colours] of the wanted side: two gathers and a weighted sum down, then the same across.

    Before normalisation instead of after it: the weights of each sum add up to 1, so it is the same.
    """
    height, width, colours = shape
    current = _rows(net, net.inputs[0], height, width * colours)
    above, below, share = _neighbours(height, side[0])
    current = _blended(net, current, 1, (above, below), share[:, None], cast=True)
    left, right, share = _neighbours(width, side[1])
    across = [(n[:, None] * colours + np.arange(colours)).reshape(-1) for n in (left, right)]
    return _blended(net, current, 2, (across[0], across[1]), np.repeat(share, colours))


def _blended(
    net: Net, tensor: str, axis: int, places: tuple[Indices, Indices], share: NDArray[np.float32], *, cast: bool = False
) -> str:
    parts = []
    for indices, weight in zip(places, (1 - share, share), strict=True):
        part = net.add("Gather", [tensor, net.constant("rows/places", indices)], "rows/gathered", axis=axis)
        if cast:  # bytes are gathered, not floats
            part = net.add("Cast", [part], "rows/float", to=_FLOAT)
        parts.append(net.add("Mul", [part, net.constant("rows/share", weight)], "rows/weighted"))
    return net.add("Add", parts, "rows/blended")


def _neighbours(size: int, wanted: int) -> tuple[Indices, Indices, NDArray[np.float32]]:
    """For each of `wanted` places the two of `size` between which it lies, and how far it is from the first towards
    the second (`half_pixel` of ONNX, Resize)."""
    place = np.maximum((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0)
    first = np.floor(place).astype(np.int64)
    return first, np.minimum(first + 1, size - 1), (place - first).astype(np.float32)


def _image_chain(net: Net) -> list[Node]:
    """Cast to float, transposition to planes, arithmetic with a constant per colour and perhaps a bilinear reduction,
    in one line from the image; an empty list for anything else."""
    chain: list[Node] = []
    tensor = net.inputs[0]
    while len(net.consumers(tensor)) == 1 and tensor not in net.outputs:
        node = net.consumers(tensor)[0]
        if len(chain) == 0:
            fits = node.op_type == "Cast"
        elif len(chain) == 1:
            fits = node.op_type == "Transpose" and attribute(node, "perm", []) == [0, 3, 1, 2]
        elif chain[-1].op_type == "Resize":
            fits = False
        elif node.op_type == "Resize":
            fits = _is_bilinear(net, node)
        else:
            constant = net.value(node.input[1]) if node.op_type in _ARITHMETIC else None
            fits = constant is not None and constant.shape in ((), (1, 1, 1, 1), (1, 3, 1, 1), (3, 1, 1))
        if not fits:
            break
        chain.append(node)
        tensor = node.output[0]
    return chain if len(chain) > 2 else []


def _is_bilinear(net: Net, node: Node) -> bool:
    """To a known size, with the pixels' middles where torch has them, and without smoothing."""
    sizes = net.value(node.input[3]) if len(node.input) > 3 else None
    wanted = {"mode": b"linear", "coordinate_transformation_mode": b"half_pixel"}
    return (
        sizes is not None
        and len(sizes) == 4
        and all(attribute(node, name, None) == value for name, value in wanted.items())
        and attribute(node, "antialias", 0) == 0
        and attribute(node, "axes", None) is None
    )
