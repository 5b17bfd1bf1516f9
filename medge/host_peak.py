"""What this machine's processor and memory reach: the peaks of its roofline, measured with ONNX Runtime and numpy.

`python -m medge.host_peak THREADS` prints them as JSON; a process of its own, so that no other thread pool is awake.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from medge.errors import ToolError
from medge.estimate import Machine

__all__ = ["host_machine"]

_SIZE = 1024  # of the square matrices: large enough to fill any core's pipelines, small enough for its caches
_COPY_MB = 256
_REPEATS = 25  # the best counts: a peak is what the machine can do when nothing is in its way


def host_machine(name: str, threads: int) -> Machine:
    """This machine as the table describes others. Raises ToolError where the benchmark does not run."""
    command = [sys.executable, "-m", "medge.host_peak", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise ToolError(f"This machine's peak could not be measured: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    source = (
        f"measured: products of {_SIZE} x {_SIZE} matrices with ONNX Runtime on {threads} threads, "
        f"a copy of {_COPY_MB} MB with numpy"
    )
    return Machine(name, found["peak"], found["bandwidth"], source, launch_seconds=0.0)


def _main(threads: int) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    random = np.random.default_rng(0)
    operations = 2.0 * _SIZE**3
    peak = {}
    for precision, (kinds, arrays) in _products(random).items():
        session = onnxruntime.InferenceSession(kinds, options, providers=["CPUExecutionProvider"])
        inputs = dict(zip("ab", arrays, strict=True))
        peak[precision] = operations / _best(partial(session.run, None, inputs))
    source = np.zeros(_COPY_MB * 1_000_000 // 4, np.float32)
    target = np.ones_like(source)
    bandwidth = 2 * source.nbytes / _best(partial(np.copyto, target, source))
    print(json.dumps({"peak": peak, "bandwidth": bandwidth}))


def _products(random: Any) -> dict[str, tuple[bytes, list[Any]]]:
    """A graph of one product, and its inputs, by precision."""
    import numpy as np
    from onnx import TensorProto, helper

    def graph(operator: str, kinds: tuple[int, int, int]) -> bytes:
        a, b, c = (helper.make_tensor_value_info(n, k, [_SIZE, _SIZE]) for n, k in zip("abc", kinds, strict=True))
        made = helper.make_graph([helper.make_node(operator, ["a", "b"], ["c"])], operator, [a, b], [c])
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    floats = [random.normal(size=(_SIZE, _SIZE)).astype(np.float32) for _ in range(2)]
    integers = [random.integers(0, 127, (_SIZE, _SIZE)).astype(kind) for kind in (np.uint8, np.int8)]
    return {
        "float32": (graph("MatMul", (TensorProto.FLOAT,) * 3), floats),
        "int8": (graph("MatMulInteger", (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)), integers),
    }


def _best(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
