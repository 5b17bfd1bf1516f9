"""Memory freed inside stays; at the end it goes back. In processes of their own: malloc's options are global."""

import resource
import subprocess
import sys

import pytest

from medge import heap

FAULTS = """
import contextlib, ctypes, resource, sys
import numpy as np
from medge import heap

def faults(size=40 * 2**20):  # larger than what glibc ever keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(size, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

faults()
outside = faults()
with heap.kept():
    faults()
    inside, held = faults(), resident()
print(outside, inside, held - resident(), faults())
"""


def run(script: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [float(value) for value in done.stdout.split()]


@pytest.mark.skipif(not heap.available(), reason="the C library is not glibc, whose allocator this is about")
def test_freed_memory_is_asked_for_once_inside_and_given_back_at_the_end() -> None:
    outside, inside, returned, after = run(FAULTS)
    assert inside < outside / 20
    assert returned > 30  # MiB
    assert after > outside / 2


@pytest.mark.skipif(not heap.available(), reason="the C library is not glibc, whose allocator this is about")
def test_what_glibc_keeps_by_itself_it_keeps_afterwards_too() -> None:
    found = run(FAULTS + "\nfaults(4 * 2**20)\nprint(faults(4 * 2**20))\n")
    assert found[-1] < 4 * 2**20 / resource.getpagesize(), "each block of 4 MB is asked for anew"


def test_it_does_nothing_where_the_c_library_has_no_such_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "available", lambda: False)
    monkeypatch.setattr(heap, "_set", lambda options: pytest.fail("an option of malloc was set"))
    with heap.kept():
        pass


@pytest.mark.skipif(not heap.available(), reason="the C library is not glibc, whose allocator this is about")
def test_it_ends_when_something_fails_inside() -> None:
    failing = "\ntry:\n    with heap.kept():\n        raise KeyError\nexcept KeyError:\n    print(faults())\n"
    found = run(FAULTS + failing)
    assert found[-1] > found[0] / 2
