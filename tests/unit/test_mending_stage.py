"""A variant of the compress stage is mended: its guilty layer goes back to float, in the model and in its ONNX file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medge import model as classifier
from medge import predictions, variants
from medge.data import dataset
from medge.recipe import parse
from medge.rollback_trials import divergence
from medge.stages import compress
from medge.variants import CompressedVariant
from tests.synthetic_run import write_data
from tests.teachers import write_finetuned

GUILTY = "backbone.blocks.4.0.conv_pw"
FLIPS = 0.1  # the share that is allowed; of 16 images


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a small model with one layer, GUILTY, that int8 harms more than all others together."""
    folder = tmp_path_factory.mktemp("run")
    write_data(folder / "1-data", images=60, size=32)
    data = dataset.load(folder / "1-data")
    torch.manual_seed(0)
    model = classifier.create(classifier.specify("test_efficientnet", classes=2, head="plain", dropout=0.0, size=32))
    _spoil(model.requires_grad_(False), torch.from_numpy(data.read(data.indices("train"))))
    return write_finetuned(folder, model)


def _spoil(model: Any, images: torch.Tensor) -> None:
    """Log odds get mean 0 and deviation 2; one channel that GUILTY reads becomes so wide that int8 has hardly a step
    for the others. In float nothing changes: GUILTY's weights of that channel are made as much smaller."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(images)
    blocks = model.eval().backbone.blocks
    blocks[3][0].bn3.weight[0] *= 300
    blocks[3][0].bn3.bias[0] *= 300
    blocks[4][0].conv_pw.weight[:, 0] /= 300
    model.head[-1].weight *= 2 / model(images)[0].diff(dim=1).std()
    model.head[-1].bias[1] -= model(images)[0].diff(dim=1).mean()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.slow
@pytest.mark.parametrize("quantiser", ["ptq", "qat"])
def test_guilty_layers_go_back_to_float_and_the_exported_graph_has_them_so(
    quantiser: str, inputs: Any, work: Path
) -> None:
    options: dict[str, Any] = {"subset_size": 8} | ({"epochs": 0} if quantiser == "qat" else {})
    backend = "openvino" if quantiser == "ptq" else None
    margins = {name: -0.99 for name in ("auc", "sensitivity", "specificity", "f1", "accuracy")} | {"ece": 1.0}
    search = {"trials": 40, "flips": FLIPS, "backend": backend}
    value = {
        "calibration": {"images": 8},
        "variants": {"v": {"first_passing": [[{quantiser: options}]], "rollback": search}},
        "gate": {"margins": {**margins, "flips": FLIPS}, "bootstrap": 200},
    }
    compress.run(parse({"compress": value}, origin="test").compress, inputs, work, 0)
    kept = variants.load(work / "v")
    assert kept.in_float[0] == GUILTY
    steps = [line for line in kept.log if re.match(r"\S+ in float: flips", line)]
    assert [line.split()[0] for line in steps] == kept.in_float
    ends = r"; [+-][0-9.]+ ms \[[+-][0-9.]+, [+-][0-9.]+\] on openvino here\.$"
    assert all(bool(re.search(ends, line)) == bool(backend) for line in steps)
    assert any(line.startswith("rollback: ") for line in kept.log)
    assert set(kept.chain[0]["options"].get("ignored", [])) == (set(kept.in_float) if quantiser == "ptq" else set())
    assert _float_convolutions(work / "v" / "model.onnx") == {name for name in kept.in_float if ":" not in name}
    # What was quantised again has other biases than the model that was searched.
    _assert_mended(kept, steps, work, rel=0.01 if quantiser == "qat" else 0.2)


def _float_convolutions(path: Path) -> set[str]:
    """Names of the convolutions whose weights are no integers, but for squeezes, which NNCF leaves in float."""
    import onnx

    nodes = onnx.load(path).graph.node
    written = {output for node in nodes for output in node.output}
    # /backbone/blocks/blocks.4/blocks.4.0/conv_pw/Conv
    paths = [n.name.split("/")[1:-1] for n in nodes if n.op_type == "Conv" and n.input[1] not in written]
    return {".".join(["backbone", *path[1:][-2:]]) for path in paths if "se" not in path}


def _assert_mended(kept: CompressedVariant, steps: list[str], work: Path, *, rel: float) -> None:
    """Fewer flips than before the rollback, and logits as near to the float model's as the search had found."""
    before = re.search(r"([0-9]+) decisions flipped", kept.log[0])
    assert before is not None
    assert kept.gate["flips"]["count"] < int(before[1])
    table, reference = (predictions.read(work / name / "validation.csv") for name in ("v", "float"))
    assert table.sha256 == reference.sha256
    found = [float(left) for line in steps for left in re.findall(r"divergence \S+ -> ([0-9.e-]*[0-9])", line)]
    assert len(found) == len(steps)
    assert divergence(table.logits, reference.logits) == pytest.approx(found[-1], rel=rel)
