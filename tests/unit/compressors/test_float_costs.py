"""What layers in float cost: one engine for each more of them, measured together, once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medge import float_costs, rollback
from medge.chain_trial import Bench, Made
from medge.compressors import ptq
from medge.mending import _with_latency
from medge.model import predict
from medge.quick_latency import QuickBench
from medge.sections import Rollback
from medge.statistics.latency import Ratio
from tests.teachers import context_of, teacher_of

LAYERS = ("backbone.conv_stem", "backbone.blocks.0.0.conv")


@pytest.fixture(scope="module")
def model(data: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Quantised; no test changes it."""
    tiny = teacher_of("test_efficientnet", data)
    return ptq.apply(tiny, ptq.Options(subset_size=2), context_of(data, tiny, tmp_path_factory.mktemp("ptq")))


def _clock(data: Any, work: Path, backend: str = "openvino") -> QuickBench:
    return QuickBench(data, data.indices("train")[:8], backend, work, rounds=10, seconds=0.01, warmup_seconds=0.01)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Of each measurement, as they are made: the integer layers of each engine, by name."""
    made: list[dict[str, int]] = []
    real = QuickBench.medians

    def counted(self: QuickBench, built: Any) -> Any:
        made.append({engine.variant: _integer_layers(folder) for engine, folder in built})
        return real(self, built)

    monkeypatch.setattr(QuickBench, "medians", counted)
    return made


def _integer_layers(folder: Path) -> int:
    import onnx

    nodes = onnx.load(folder / "graph.onnx").graph.node
    written = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    return sum(node.op_type == "Conv" and node.input[1] in written for node in nodes)


def test_an_engine_for_each_more_layer_is_measured_once_and_the_model_left_as_it_was(
    data: Any, model: Any, tmp_path: Path, together: list[dict[str, int]]
) -> None:
    rows = data.indices("validation")
    before = predict(model, data, rows, description="")
    clock = _clock(data, tmp_path / "latency")
    found = float_costs.costs(clock, model, LAYERS, key="a", seconds=600)
    whole = together[0]["0-in-float"]
    assert together == [{"0-in-float": whole, "1-in-float": whole - 1, "2-in-float": whole - 2}]
    assert all(ms > 0 and ratio.lower <= ratio.ratio <= ratio.upper for ms, ratio in found)
    assert len(found) == 2
    assert np.array_equal(before, predict(model, data, rows, description=""))
    assert float_costs.costs(clock, model, LAYERS, key="a", seconds=600) == found
    assert len(together) == 1
    float_costs.costs(clock, model, LAYERS[:1], key="a", seconds=600)
    assert len(together) == 2


def test_milliseconds_are_those_that_the_layer_adds(
    data: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = np.full(40, 2.0)
    series = [steady, 1.1 * steady, 1.045 * steady]

    def build(self: QuickBench, name: str, model: Any, *, precision: str) -> Any:
        (self.work / name).mkdir()
        return SimpleNamespace(name=name), self.work / name

    monkeypatch.setattr(QuickBench, "build", build)
    monkeypatch.setattr(
        QuickBench, "medians", lambda self, built: {e.name: s for (e, _), s in zip(built, series, strict=True)}
    )
    clock = _clock(data, tmp_path / "latency")
    assert float_costs.words(clock, model, LAYERS, key="a", seconds=600) == [
        "+0.200 ms [+0.200, +0.200] on openvino here",
        "-0.110 ms [-0.110, -0.110] on openvino here",
    ]


def test_a_backend_that_is_not_here_is_said(data: Any, model: Any, tmp_path: Path) -> None:
    from medge import plugins

    if plugins.load("backends", "tensorrt").missing("int8") is None:
        pytest.skip("TensorRT runs here")
    said = float_costs.words(_clock(data, tmp_path / "latency", "tensorrt"), model, LAYERS, key="a", seconds=600)
    assert len(said) == 2
    assert said[0].startswith("its latency is not known (tensorrt cannot run int8 here")


@pytest.mark.parametrize(
    ("section", "seconds", "words"),
    [
        (Rollback(), 1.0, "stem in float: flips; +0.020 ms [+0.010, +0.030] on openvino here."),
        (Rollback(minutes=1), 60.0, "stem in float: flips; its latency was not measured: the budget is spent."),
        (Rollback(backend=None), 1.0, "stem in float: flips."),
    ],
)
def test_the_log_says_what_each_layer_costs(
    section: Rollback, seconds: float, words: str, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        float_costs, "costs", lambda *a, seconds, **k: [(2.0, Ratio(1.01, 1.005, 1.015))][: int(seconds > 0)]
    )
    (tmp_path / "float").mkdir()
    (tmp_path / "float" / "model.onnx").write_bytes(b"x")
    listed: Any = type("Listed", (), {"indices": data.indices("train")[:8]})()
    gate: Any = None
    teacher: Any = torch.nn.Identity()
    bench = Bench(data, teacher, listed, gate, 0, tmp_path)
    made = Made(teacher, Any, {}, [])  # type: ignore[arg-type]  # neither model nor table is looked at
    found = rollback.Found(("stem",), (), True, "", 3, seconds, ("stem in float: flips.", "rollback: 3 trials."))
    assert _with_latency(found, bench, made, section, tmp_path) == [words, "rollback: 3 trials."]


def test_many_layers_are_measured_a_few_engines_at_a_time_and_no_longer_than_may_be(
    data: Any, model: Any, tmp_path: Path, together: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_costs, "_TOGETHER", 2)
    clock = _clock(data, tmp_path / "latency")
    assert float_costs.words(clock, model, LAYERS, key="a", seconds=0) == [float_costs._SPENT] * 2
    assert together == []
    assert len(float_costs.costs(clock, model, LAYERS, key="a", seconds=600)) == 2
    assert [list(one) for one in together] == [["0-in-float", "1-in-float"], ["1-in-float", "2-in-float"]]
