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
