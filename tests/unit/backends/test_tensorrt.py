"""TensorRT without TensorRT: its three generations as fakes, and a process that may die."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from medge.backends import _cuda, tensorrt
from medge.backends._tensorrt_child import Answer, ask
from medge.errors import DataError, MissingError, ToolError
from tests import nets

FAKE = Path(__file__).parents[1] / "fake_tensorrt"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return nets.write_net(tmp_path / "graph.onnx", [])


def build(
    graph: Path, monkeypatch: pytest.MonkeyPatch, *, version: str = "10", does: str = "", **request: Any
) -> Answer:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_TRT", version)
    monkeypatch.setenv("FAKE_TRT_DOES", does)
    plan = str(graph.with_name("engine.plan"))
    whole = {"module": "fake_trt", "onnx": str(graph), "plan": plan, "precision": "int8", **request}
    return ask(whole, seconds=20 if does != "hangs" else 1)


@pytest.mark.parametrize(
    ("version", "precision", "network", "config"),
    [
        ("8.6", "int8", 0b1, ["INT8", "SPARSE_WEIGHTS", "TF32"]),  # explicit batch; 8.6 runs Q/DQ only with the flag
        ("8.6", "float32", 0b1, ["SPARSE_WEIGHTS"]),
        (
            "10",
            "int8",
            0b11,
            ["SPARSE_WEIGHTS", "TF32"],
        ),  # explicit batch and strongly typed, where precision flags are refused
        ("10", "float32", 0b11, ["SPARSE_WEIGHTS"]),
        ("11", "int8", 0b1, ["SPARSE_WEIGHTS", "TF32"]),  # strongly typed is the only flag left
        ("11", "float32", 0b1, ["SPARSE_WEIGHTS"]),
    ],
)
def test_each_generation_gets_the_flags_that_it_has(
    graph: Path, monkeypatch: pytest.MonkeyPatch, version: str, precision: str, network: int, config: list[str]
) -> None:
    answer = build(graph, monkeypatch, version=version, precision=precision)
    assert (answer.failure, answer.layers) == ("", 7)
    assert json.loads(graph.with_name("engine.plan").read_bytes()) == {"network": network, "config": config}


@pytest.mark.parametrize(
    ("does", "failure"),
    [
        ("warns", "would change the quantisation: warning: TensorRT doesn't support UINT8. Defaulting to INT8"),
        ("refuses", "parser refused the graph: Unsupported operator: Custom"),
        ("no_plan", "built no plan: error: Could not find any implementation"),
        ("segfaults", "was killed by SIGSEGV"),
        ("hangs", "took longer than 1 s"),
    ],
)
def test_what_goes_wrong_in_tensorrt_is_an_answer(
    graph: Path, monkeypatch: pytest.MonkeyPatch, does: str, failure: str
) -> None:
    answer = build(graph, monkeypatch, does=does)
    assert failure in answer.failure
    assert not graph.with_name("engine.plan").exists()
    assert not any("much" in message for message in answer.messages)


@pytest.mark.parametrize(
    ("kept", "does", "layers", "dropped"),
    [
        (None, "", 1, False),
        (b'{"version": "10.3.0", "layers": 5}', "", 6, False),
        (b'{"version": "8.6.1", "layers": 5}', "", 1, True),  # another version's
        (b"\x00 damaged", "", 1, True),
        (b"\x00 damaged", "refuses_timing", 1, True),
    ],
)
def test_a_timing_cache_is_used_where_it_fits_and_dropped_with_a_sentence_where_it_does_not(
    graph: Path, monkeypatch: pytest.MonkeyPatch, kept: bytes | None, does: str, layers: int, dropped: bool
) -> None:
    cache = graph.with_name("timing.cache")
    if kept is not None:
        cache.write_bytes(kept)
    answer = build(graph, monkeypatch, does=does, timing_cache=str(cache))
    assert answer.failure == ""
    assert json.loads(cache.read_bytes()) == {"version": "10.3.0", "layers": layers}
    assert any("timing cache does not fit" in message for message in answer.messages) is dropped


def test_a_tensorrt_without_timing_caches_builds_without_one(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = graph.with_name("timing.cache")
    assert build(graph, monkeypatch, does="no_timing", timing_cache=str(cache)).failure == ""
    assert not cache.exists()


def test_a_plan_that_does_not_load_is_an_answer(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_TRT_DOES", "bad_plan")
    answer = ask({"module": "fake_trt", "load": str(graph)}, seconds=20)
    assert "cannot load the plan" in answer.failure


def test_a_module_that_is_not_there_is_an_answer(graph: Path) -> None:
    answer = ask({"module": "no_such_tensorrt", "onnx": str(graph), "plan": None, "precision": "int8"}, seconds=20)
    assert "No module named 'no_such_tensorrt'" in answer.failure


def test_everything_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "lack", lambda: "no NVIDIA driver (libcuda.so.1)")
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    lack = tensorrt.missing("int8") or ""
    assert "no NVIDIA driver" in lack
    assert "no Python package tensorrt" in lack
    assert "JetPack" in lack
    with pytest.raises(MissingError):
        tensorrt.versions()


class FakeDriver:
    """libcuda with host memory in the place of a GPU's."""

    def __init__(self, **statuses: int) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, ctypes.Array[Any]] = {}
        self._statuses = statuses

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in ("cuMemAlloc_v2", "cuMemAllocHost_v2"):
                block = (ctypes.c_uint8 * arguments[1].value)()
                self.memory[ctypes.addressof(block)] = block
                arguments[0]._obj.value = ctypes.addressof(block)
            elif name == "cuDeviceGetName":
                arguments[0].value = b"Orin"
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 7}[arguments[1].value]
            elif name in ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"):
                ctypes.memmove(arguments[0].value, arguments[1].value, arguments[2].value)
            return self._statuses.get(name, 0)

        return call


class FakeEngine:
    """A plan whose logits are the sum of the image and its first byte, whose features are all ones."""

    SHAPES: ClassVar = {"images": (1, 4, 4, 3), "logits": (1, 2), "features": (1, 5)}
    num_io_tensors = 3

    def __init__(self, driver: FakeDriver, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
        self._driver, self._shapes = driver, shapes or self.SHAPES
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, position: int) -> str:
        return list(self._shapes)[position]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8" if name == "images" else "float32"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        view = {n: self._driver.memory[a] for n, a in self.addresses.items()}
        image = np.frombuffer(view["images"], dtype=np.uint8)
        np.frombuffer(view["logits"], dtype=np.float32)[:] = [image.sum(), image[0]]
        np.frombuffer(view["features"], dtype=np.float32)[:] = 1
        return True


def running(driver: FakeDriver, engine: FakeEngine | None) -> Any:
    trt = SimpleNamespace(
        Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=np.dtype,
    )
    return tensorrt._Running(trt, b"plan", _cuda.Device(driver))


def test_an_image_goes_to_the_gpu_and_the_answers_come_back() -> None:
    driver = FakeDriver()
    session = running(driver, FakeEngine(driver))
    image = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    logits, features = session.run(image)
    assert logits.tolist() == [[image.sum(), 0]]
    assert features.tolist() == [[1] * 5]
    kept = logits.copy()
    session.run(image[:, ::-1].copy())
    assert np.array_equal(logits, kept)
    assert driver.calls.count("cuMemAlloc_v2") == 3  # once, not at every run
    with pytest.raises(DataError):
        session.run(image[:, :2])


def test_a_plan_that_tensorrt_does_not_load_is_refused() -> None:
    with pytest.raises(ToolError, match="cannot load the plan"):
        running(FakeDriver(), None)


def test_a_plan_with_other_ports_is_refused() -> None:
    driver = FakeDriver()
    with pytest.raises(ToolError, match="not one uint8"):
        running(driver, FakeEngine(driver, {"images": (-1, 4, 4, 3), "logits": (1, 2), "features": (1, 5)}))


def test_a_failing_call_of_the_driver_is_named() -> None:
    with pytest.raises(ToolError, match="cuStreamCreate failed with error 2"):
        _cuda.Device(FakeDriver(cuStreamCreate=2))


def test_the_driver_says_what_the_gpu_is() -> None:
    device = _cuda.Device(FakeDriver())
    assert (device.name, device.capability) == ("Orin", (8, 7))


def test_a_plan_of_another_gpu_or_version_is_not_even_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"tensorrt": "10.3.0", "gpu": "Orin", "compute_capability": "8.7"}
    monkeypatch.setattr(tensorrt, "missing", lambda precision: None)
    monkeypatch.setattr(tensorrt, "versions", lambda: here)
    (tmp_path / "engine.plan").write_bytes(b"plan")
    (tmp_path / "plan.json").write_text(json.dumps({**here, "tensorrt": "8.6.1"}))
    with pytest.raises(ToolError, match=r"built with .*tensorrt 8\.6\.1, this machine has .*tensorrt 10\.3\.0"):
        tensorrt.start(tmp_path, ["engine.plan", "plan.json"], precision="int8", threads=1)


def test_a_build_leaves_the_plan_and_what_it_was_built_with(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: dict[str, Any], *, seconds: float) -> Answer:
        asked.append(request)
        if "onnx" in request:
            Path(request["plan"]).write_bytes(b"plan")
        return Answer("", ())

    monkeypatch.setattr(tensorrt, "missing", lambda precision: None)
    monkeypatch.setattr(tensorrt, "versions", lambda: {"tensorrt": "10.3.0"})
    monkeypatch.setattr(tensorrt, "ask", answer)
    assert tensorrt.build(graph, tmp_path / "engine", precision="int8") == ["engine.plan", "plan.json"]
    assert [next(key for key in ("load", "onnx") if key in request) for request in asked] == ["onnx", "load"]
    assert json.loads((tmp_path / "engine" / "plan.json").read_text()) == {"tensorrt": "10.3.0"}
    monkeypatch.setattr(tensorrt, "ask", lambda request, seconds: Answer("TensorRT's parser refused the graph", ()))
    with pytest.raises(ToolError, match="parser refused"):
        tensorrt.build(graph, tmp_path / "engine", precision="int8")
    assert not os.path.exists(tmp_path / "engine" / "engine.plan")


@pytest.mark.gpu
def test_a_plan_runs_on_a_real_gpu(tmp_path: Path) -> None:
    lack = tensorrt.missing("int8")
    if lack is not None:
        pytest.skip(lack)
    source = nets.write_net(tmp_path / "net.onnx", ["relu", "depthwise"], quantised=True, signed=True)
    from medge.onnx_lowering import lower

    lower(source, tmp_path / "lowered.onnx", tensorrt.QUANT)
    files = tensorrt.build(tmp_path / "lowered.onnx", tmp_path / "engine", precision="int8")
    session = tensorrt.start(tmp_path / "engine", files, precision="int8", threads=1)
    picture = nets.images(1, size=16)
    expected = nets.run_plainly(source, picture)[1]
    assert np.abs(session.run(picture)[1] - expected).max() <= 0.05 * np.abs(expected).max()
