"""A bundle on an arm64 processor, emulated: its own selftest there, and the same decisions as here.

Here on phantoms with small nets; `benchmarks/arm64_agreement.py` does it on 200 X-rays with trained models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import manifest, plugins
from medge.data import dataset
from medge.data.dataset import DataSet
from medge.onnx_lowering import lower
from medge.records import to_json
from medge.runtime import bundle as bundles
from medge.runtime.bundle import Bundle
from medge.runtime.child import Job, logits_in_child
from medge.runtime.decision import decide, probabilities
from medge.sections import PackageSection
from medge.stages import package
from tests import arm64_root, nets
from tests.arm64_root import Arm64
from tests.fake_stages import fake_inputs

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(1800)]
BLOCKS = ("relu", "depthwise", "residual", "relu6", "squeeze")
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Arm64:
    reason = arm64_root.reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    try:
        return arm64_root.make(arm64_root.kept_folder() or tmp_path_factory.mktemp("arm64") / "root")
    except arm64_root.Unavailable as error:
        pytest.skip(f"no arm64 root: {error}")


@pytest.fixture(scope="module", autouse=True)
def one_commit() -> Iterator[None]:
    """The repository may be committed to while tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})
        yield


@pytest.fixture(scope="module", params=["float32", "int8"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, DataSet]:
    """A bundle of an onnxruntime engine, and the data set of its run."""
    folder, precision = tmp_path_factory.mktemp("run"), request.param
    backend = plugins.load("backends", "onnxruntime")
    source = nets.write_net(folder / "source.onnx", BLOCKS, quantised=precision == "int8", size=32)
    lower(source, folder / "net.onnx", backend.QUANT, calibration_images=nets.images(8, size=32))
    stages = fake_inputs(folder / "run", onnx=folder / "net.onnx", precision=precision, images=80, stressed=False)
    work = tmp_path_factory.mktemp("package")
    package.run(PackageSection(), stages, work, 0)
    return bundles.load(work / "fake"), dataset.load(stages["data"].folder)


def test_the_selftest_passes_there(arm64: Arm64, made: tuple[Bundle, DataSet]) -> None:
    bundle, _ = made
    done = arm64.run([str(bundle.folder / bundles.RUNTIME), "selftest", "--json"])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["selftest"], report["engine_sha256"]) == ("pass", bundle.engine.sha256)
    assert "the processor is aarch64, not x86_64" in report["different_here"]
    assert report["resize_difference_grey_levels"] <= 1


def test_a_changed_engine_is_refused_there_too(arm64: Arm64, made: tuple[Bundle, DataSet], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made[0].folder, tmp_path / "bundle"))
    with open(copy / "engine" / "model.onnx", "ab") as stream:
        stream.write(b"x")
    done = arm64.run([str(copy / bundles.RUNTIME), "selftest"])
    assert done.returncode == 2
    assert "model.onnx" in done.stderr


def test_decisions_are_those_of_this_machine(arm64: Arm64, made: tuple[Bundle, DataSet], tmp_path: Path) -> None:
    bundle, data = made
    rows = tuple(range(len(data)))
    size = data.preprocess
    images = data.folder / "images.u8"
    here = logits_in_child(
        bundle.engine, bundle.engine_folder, images=images, rows=rows, height=size.height, width=size.width, threads=1,
        output=tmp_path / "here.npy",
    )  # fmt: skip
    output = tmp_path / "there.npy"
    job = Job(bundle.engine, str(bundle.engine_folder), str(images), rows, size.height, size.width, 1, str(output))
    done = arm64.run(["-m", "medge.runtime.child"], pythonpath=[REPO], stdin=json.dumps(to_json(job)))
    assert done.returncode == 0, done.stderr
    there = np.load(output)
    agree = np.mean([_decision(bundle, a) == _decision(bundle, b) for a, b in zip(here, there, strict=True)])
    assert agree >= (1.0 if bundle.engine.precision == "float32" else 0.99)
    if bundle.engine.precision == "float32":
        assert np.abs(here - there).max() <= 1e-4 * np.abs(here).max()


def _decision(bundle: Bundle, logits: Any) -> str:
    probability = probabilities(logits, temperature=bundle.operating_point.temperature)
    return str(decide(probability, labels=bundle.labels, point=bundle.operating_point))
