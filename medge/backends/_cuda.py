"""The few calls of NVIDIA's driver library that TensorRT's buffers need, through ctypes: nothing to install.

The driver API is used, not the runtime library: libcuda comes with the driver, libcudart may not be there. Meanings
and names: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np

from medge.errors import MissingError, ToolError

__all__ = ["Buffer", "Device", "lack"]

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

Array = Any


def _library() -> Any:
    for name in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def lack() -> Optional[str]:
    """None where a driver and a GPU are there, else what is missing. Asked before TensorRT is even imported."""
    library = _library()
    if library is None:
        return "no NVIDIA driver (libcuda.so.1)"
    status = library.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver finds no usable GPU (cuInit: CUDA error {status})"
    count = ctypes.c_int(0)
    library.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value > 0 else "no GPU"


@dataclass
class Buffer:
    """Page-locked host memory seen as an array, and device memory of the same size."""

    host: Array
    device: int


class Device:
    """GPU 0 with its primary context, which TensorRT shares, and one stream."""

    def __init__(self, library: Any = None) -> None:
        self._library = library if library is not None else _library()
        if self._library is None:
            raise MissingError("No NVIDIA driver (libcuda.so.1).", fix="Run this on a machine with an NVIDIA GPU.")
        self._call("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int(0)
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(0))
        self._stream = stream

    @property
    def stream(self) -> int:
        return int(self._stream.value or 0)

    @property
    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, ctypes.c_int(256), self._device)
        return text.value.decode("utf-8", "replace")

    @property
    def capability(self) -> Tuple[int, int]:
        """Compute capability, e.g. (8, 7) for Orin."""
        values = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            value = ctypes.c_int(0)
            self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), self._device)
            values.append(value.value)
        return values[0], values[1]

    @property
    def driver(self) -> str:
        """The highest CUDA version of the driver, e.g. `12060`."""
        value = ctypes.c_int(0)
        self._call("cuDriverGetVersion", ctypes.byref(value))
        return str(value.value)

    def allocate(self, shape: Tuple[int, ...], dtype: Any) -> Buffer:
        """Zeroed memory on both sides; kept until the process ends."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        host, device = ctypes.c_void_p(), ctypes.c_uint64(0)
        self._call("cuMemAllocHost_v2", ctypes.byref(host), ctypes.c_size_t(size))
        self._call("cuMemAlloc_v2", ctypes.byref(device), ctypes.c_size_t(size))
        ctypes.memset(host, 0, size)
        raw = (ctypes.c_uint8 * size).from_address(host.value or 0)
        return Buffer(np.frombuffer(raw, dtype=dtype).reshape(shape), device.value)

    def to_device(self, buffer: Buffer) -> None:
        source = ctypes.c_void_p(buffer.host.ctypes.data)
        size = ctypes.c_size_t(buffer.host.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(buffer.device), source, size, self._stream)

    def to_host(self, buffer: Buffer) -> None:
        target = ctypes.c_void_p(buffer.host.ctypes.data)
        size = ctypes.c_size_t(buffer.host.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(buffer.device), size, self._stream)

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise ToolError(f"CUDA: {function} failed with error {status}.", fix="Check the GPU with nvidia-smi.")
