"""Engines that a device keeps of its builds: taken up for the same graph, versions, GPU and driver, for no other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medge.job.caches import Caches
from medge.job.spec import Graph, Spec
from medge.job.steps import Steps
from medge.records import Engine, File

STATE = {"version": "1.0", "gpu": "Orin", "driver": "12060"}
SMITHY = """
import json, os
from pathlib import Path
PACKAGE = "smithy"
PRECISIONS = ("float32",)
def _state():
    return json.loads(Path(os.environ["SMITHY_STATE"]).read_text())
def missing(precision):
    return None
def versions():
    return {"smithy": _state()["version"]}
def cache_pin():
    return {"gpu": _state()["gpu"], "driver": _state()["driver"]}
def build(onnx, folder, *, precision):
    with open(os.environ["SMITHY_STATE"] + ".log", "a") as log:
        log.write(onnx.read_text() + " ")
    (folder / "engine.plan").write_text(onnx.read_text() + json.dumps(_state()))
    return ["engine.plan"]
"""


class Device:
    """A device that keeps what its jobs built; `state` is what its versions and GPU are now."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, 0
        self.store = folder / "store"
        self.store.mkdir()
        self.now()

    def now(self, **changes: str) -> None:
        (self.folder / "state.json").write_text(json.dumps({**STATE, **changes}))

    def built(self, graph: Graph) -> tuple[Engine, Path]:
        """One job's engine of `graph`, and where it lies in that job."""
        self.jobs += 1
        folder = self.folder / f"job-{self.jobs}"
        folder.mkdir()
        spec = Spec(
            id="a", device="cart7", kind="linux", medge="", seed=0, threads=1, engines=(), graphs=(graph,),
            images=File("images.npy", "", 0), labelled=None, bench=None, limit_seconds=1.0,
        )  # fmt: skip
        said: list[dict[str, Any]] = []
        steps = Steps(spec, folder, [self.store], folder / "out", said.append, kept=self.store)
        caches = Caches(spec, folder, folder / "out", cpu="x", find=lambda file: self.store / file.sha256, note=print)
        assert len(steps._build(caches)) == 1, said
        ((engine, place),) = steps._engines
        return engine, place

    def graph(self, content: str, variant: str = "float") -> Graph:
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        (self.store / sha256).write_text(content)
        return Graph(variant, "smithy", "float32", File("graph.onnx", sha256, len(content)))

    @property
    def builds(self) -> int:
        return len((self.folder / "state.json.log").read_text().split())


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    plugin = tmp_path / "plugin/backends"
    plugin.mkdir(parents=True)
    (plugin / "smithy.py").write_text(SMITHY)
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(plugin.parent))
    monkeypatch.setenv("SMITHY_STATE", str(tmp_path / "state.json"))
    return Device(tmp_path)


def test_the_next_job_takes_up_what_was_built_from_the_same_graph(device: Device) -> None:
    graph = device.graph("means")
    first, second = device.built(graph), device.built(graph)
    assert device.builds == 1
    assert second[0] == first[0]
    assert (second[1] / "engine.plan").read_bytes() == (first[1] / "engine.plan").read_bytes()


def test_a_kept_build_of_the_same_graph_carries_the_name_of_the_variant_that_asks(device: Device) -> None:
    device.built(device.graph("means", variant="float"))
    engine, place = device.built(device.graph("means", variant="folded"))
    assert device.builds == 1
    assert (engine.variant, engine.name) == ("folded", "folded/smithy-float32")
    assert place.as_posix().endswith("engines/folded/smithy-float32")
    assert (place / "engine.plan").is_file()


def test_another_graph_under_the_same_name_is_built(device: Device) -> None:
    device.built(device.graph("means"))
    engine, place = device.built(device.graph("others"))
    assert device.builds == 2
    assert (place / "engine.plan").read_text().startswith("others")
    assert engine.onnx_sha256 == hashlib.sha256(b"others").hexdigest()


@pytest.mark.parametrize(("key", "value"), [("version", "1.1"), ("gpu", "Xavier"), ("driver", "12080")])
def test_a_build_of_another_version_gpu_or_driver_is_not_taken_up(device: Device, key: str, value: str) -> None:
    graph = device.graph("means")
    device.built(graph)
    device.now(**{key: value})
    _, place = device.built(graph)
    assert device.builds == 2
    assert f'"{key}": "{value}"' in (place / "engine.plan").read_text()
    device.now()
    device.built(graph)
    assert device.builds == 2


def test_a_build_in_another_precision_is_not_taken_up(device: Device) -> None:
    graph = device.graph("means")
    device.built(graph)
    device.built(replace(graph, precision="int8"))
    assert device.builds == 2
