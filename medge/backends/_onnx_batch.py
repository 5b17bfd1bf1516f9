"""The same ONNX file for more images at once: the first dimension of its inputs and outputs, which is 1, set to another
size in the file's bytes. A device has no `onnx` package, and these few bytes need none.

Field numbers: onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3); wire format:
https://protobuf.dev/programming-guides/encoding/. Sizes up to 127 take one byte, as 1 does, so no length changes.
"""

from __future__ import annotations

from typing import Iterator, List, Optional, Sequence, Tuple

from medge.errors import ToolError

__all__ = ["with_batch_size"]

_GRAPH, _INPUT, _OUTPUT = 7, 11, 12  # of ModelProto; of GraphProto
# ValueInfoProto.type, TypeProto.tensor_type, Tensor.shape, TensorShapeProto.dim (the first), Dimension.dim_value
_FIRST_SIZE = (2, 1, 2, 1, 1)
_LARGEST = 127


def with_batch_size(model: bytes, size: int) -> bytes:
    """A model whose inputs and outputs have `size` rows instead of one. What it computes inside may still be made for
    one: run it and look. Raises ToolError for a model that is not of fixed batch 1, or a size beyond 127."""
    if not 1 <= size <= _LARGEST:
        raise ToolError(f"A batch of {size} images cannot be asked for.", fix=f"Choose 1 to {_LARGEST}.")
    changed = bytearray(model)
    ports = 0
    try:
        for begin, end in _all(model, [(0, len(model))], _GRAPH):
            for port in [*_all(model, [(begin, end)], _INPUT), *_all(model, [(begin, end)], _OUTPUT)]:
                at = _first_size(model, port)
                if at is None or model[at] != 1:
                    raise ToolError("The graph is not of fixed batch 1.", fix="Compile it again: medge compile.")
                changed[at] = size
                ports += 1
    except IndexError:
        raise ToolError("The file is no whole ONNX model.", fix="Compile it again: medge compile.") from None
    if ports == 0:
        raise ToolError("The file is no ONNX model.", fix="Compile it again: medge compile.")
    return bytes(changed)


def _first_size(model: bytes, port: Tuple[int, int]) -> Optional[int]:
    """Where the one byte of the first dimension's size is; None where it has no size."""
    spans: Sequence[Tuple[int, int]] = [port]
    for field in _FIRST_SIZE:
        spans = _all(model, spans, field)[:1]
    return spans[0][0] if spans else None


def _all(model: bytes, spans: Sequence[Tuple[int, int]], wanted: int) -> List[Tuple[int, int]]:
    """Where the values of a field lie in messages at `spans`."""
    return [(at, end) for span in spans for field, at, end in _fields(model, *span) if field == wanted]


def _fields(model: bytes, at: int, end: int) -> Iterator[Tuple[int, int, int]]:
    """(number, begin, end of the value) of each field of a message."""
    while at < end:
        key, at = _varint(model, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            _, after = _varint(model, at)
        elif wire == 2:
            length, at = _varint(model, at)
            after = at + length
        elif wire in (1, 5):
            after = at + (8 if wire == 1 else 4)
        else:
            raise IndexError(at)
        if after > end:
            raise IndexError(after)
        yield field, at, after
        at = after


def _varint(model: bytes, at: int) -> Tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = model[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
