"""medge makes no network call that its user did not ask for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import socket, sys
opened = []
class Watched(socket.socket):
    def __init__(self, *arguments, **named):
        opened.append(arguments)
        super().__init__(*arguments, **named)
socket.socket = Watched
import torch
from medge import telemetry
{silence}
import nncf, openvino
from medge.compressors import ptq
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
    def forward(self, images):
        return self.backbone(images)
model = Model()
images = [torch.randn(1, 3, 8, 8) for _ in range(2)]
ptq.quantise(model, iter(images), ptq.Options())
openvino.convert_model(model, example_input=images[0])
from nncf.telemetry import telemetry as client
print(len(opened), "openvino_telemetry.main" in sys.modules, type(client).__name__)
"""


def _run(home: Path, silence: str) -> list[str]:
    script = _SCRIPT.replace("{silence}", silence)
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout.splitlines()[-1].split()


def test_quantising_and_converting_open_no_socket_and_load_no_telemetry(tmp_path: Path) -> None:
    assert _run(tmp_path, "telemetry.silence()") == ["0", "False", "MagicMock"]
    assert list(tmp_path.iterdir()) == []  # nor is a client id written into the home folder


_SESSION = """
import sys
from pathlib import Path
from medge.backends import onnxruntime
session = onnxruntime._session(Path(sys.argv[1]), threads=1)
print(session.get_inputs()[0].name)
"""


def test_a_session_of_onnx_runtime_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "relu.onnx")
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}  # not CI's, where it is off by itself
    done = subprocess.run(
        [sys.executable, "-c", _SESSION, str(tmp_path / "relu.onnx")],
        env=environment, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["x"]
    assert list(home.rglob("*")) == []
