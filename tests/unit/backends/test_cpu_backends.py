"""No silent fallback: what was asked for is what runs, or a refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from medge import backends
from medge.backends import onnxruntime as ort
from medge.backends import openvino
from medge.errors import MissingError, ToolError
from tests import nets


def test_another_provider_than_the_one_asked_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = nets.write_net(tmp_path / "net.onnx", [])
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda self: ["SomethingElse", "CPUExecutionProvider"]
    )
    with pytest.raises(ToolError, match="SomethingElse"):
        ort.build(graph, tmp_path / "engine", precision="float32")


def test_onnx_runtime_uses_the_threads_it_is_told(tmp_path: Path) -> None:
    graph = nets.write_net(tmp_path / "net.onnx", [])
    options = ort._session(graph, threads=3).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_openvino_in_another_precision_than_asked_for_is_refused() -> None:
    def compiled(**properties: Any) -> Any:
        return SimpleNamespace(get_property=properties.__getitem__)

    bf16 = SimpleNamespace(to_string=lambda: "bf16")
    with pytest.raises(MissingError, match="float16 engine in bf16"):
        openvino._refuse_fallback(compiled(INFERENCE_PRECISION_HINT=bf16, EXECUTION_DEVICES=["CPU"]), "float16")
    openvino._refuse_fallback(compiled(INFERENCE_PRECISION_HINT=bf16, EXECUTION_DEVICES=["CPU"]), "bfloat16")
    openvino._refuse_fallback(compiled(INFERENCE_PRECISION_HINT=bf16, EXECUTION_DEVICES=["CPU"]), "int8_bfloat16")
    with pytest.raises(MissingError, match="int8 engine in bf16"):
        openvino._refuse_fallback(compiled(INFERENCE_PRECISION_HINT=bf16, EXECUTION_DEVICES=["CPU"]), "int8")
    with pytest.raises(ToolError, match="on GPU, not on the CPU"):
        openvino._refuse_fallback(compiled(INFERENCE_PRECISION_HINT=bf16, EXECUTION_DEVICES=["GPU"]), "bfloat16")


@pytest.mark.parametrize(
    ("has", "lack"), [(["INT8", "BF16"], None), (["INT8"], "no bfloat16"), (["BF16"], "no int8"), ([], "no bfloat16")]
)
def test_a_mixed_precision_needs_both_of_the_processor(
    has: list[str], lack: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = SimpleNamespace(get_property=lambda device, name: ["FP32", *has])
    monkeypatch.setattr(openvino, "_package", lambda: SimpleNamespace(Core=lambda: core))
    found = openvino.missing("int8_bfloat16")
    assert (found is None) if lack is None else (lack in str(found))


def test_openvino_sends_nothing_and_the_device_needs_no_torch(tmp_path: Path) -> None:
    graph = nets.write_net(tmp_path / "net.onnx", ["relu"])
    files = openvino.build(graph, tmp_path / "engine", precision="float32")
    script = f"""
import sys
from pathlib import Path
import numpy as np
from medge.backends import openvino
session = openvino.start(Path({str(tmp_path / "engine")!r}), {files!r}, precision="float32", threads=1)
session.run(np.zeros((1, 16, 16, 3), np.uint8))
unwanted = ("torch", "onnx", "nncf", "openvino_telemetry")
print(sorted(name for name, module in sys.modules.items() if module and name.split(".")[0] in unwanted))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("backend", [ort, openvino])
def test_a_package_that_is_not_there_is_named(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend.PACKAGE, None)
    assert f"pip install {backend.PACKAGE}" in (backend.missing("float32") or "")
    with pytest.raises(MissingError, match=backend.PACKAGE):
        backend.versions()


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([("images", "float32", (1, 8, 8, 3))], ["logits", "features"], "not one uint8"),
        ([("images", "uint8", (-1, 8, 8, 3))], ["logits", "features"], "not one uint8"),
        ([("images", "uint8", ("batch", 8, 8, 3))], ["logits", "features"], "not one uint8"),
        ([("images", "uint8", (1, 3, 8, 8))], ["logits", "features"], "not one uint8"),
        ([], ["logits", "features"], ": none"),
        ([("images", "uint8", (1, 8, 8, 3))], ["logits"], "outputs are logits, not logits and features"),
    ],
)
def test_an_engine_with_other_ports_is_refused(inputs: list[Any], outputs: list[str], message: str) -> None:
    with pytest.raises(ToolError, match=message):
        backends.check_ports(inputs, outputs)
    assert backends.check_ports([("x", "uint8", (1, 8, 8, 3))], ["features", "logits"]) == ("x", (1, 8, 8, 3))
