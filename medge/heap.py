"""Memory that a training frees stays with the process, so that the next step does not ask the kernel for it again.

A training step allocates and frees some hundred MB of activations. glibc takes blocks of that size from the kernel and
gives them back each time, and the kernel clears every page anew. Of a recovery (EfficientNet-Lite0 at 128 px imitating
itself at 224, batches of 32, two cores with AVX512) that was 30 % of the processor's time: 59 images/s became 90.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["available", "kept"]

# Of malloc.h; their meaning and their defaults are in mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_WANTED = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 * 2**20}  # -1: never trimmed
# A process that was told once no longer adjusts its thresholds: afterwards they are where glibc's own adjusting ends.
_AFTERWARDS = {
    _MMAP_MAX: 65_536,
    _MMAP_THRESHOLD: 32 * 2**20,
    _TRIM_THRESHOLD: 64 * 2**20,
    _TOP_PAD: 128 * 2**10,
}


@contextmanager
def kept() -> Iterator[None]:
    """What is freed inside stays with the process and goes back to the kernel at the end. Of the whole process;
    does nothing where the C library is not glibc."""
    if not available():
        yield
        return
    _set(_WANTED)
    try:
        yield
    finally:
        _set(_AFTERWARDS)
        ctypes.CDLL(None).malloc_trim(0)


def available() -> bool:
    """Whether the C library has these options: glibc has."""
    return os.name == "posix" and hasattr(ctypes.CDLL(None), "mallopt")


def _set(options: dict[int, int]) -> None:
    libc = ctypes.CDLL(None)
    for option, value in options.items():
        libc.mallopt(ctypes.c_int(option), ctypes.c_int(value))
