"""What every backend must do, whoever wrote it: medge's own and those of tests/plugins (MEDGE_PLUGIN_PATH)."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from medge import plugins
from medge.backends import QUANTISED, is_int8, offered
from medge.errors import DataError, MissingError, RecipeError, ToolError
from medge.onnx_lint import lint
from medge.onnx_lowering import lower
from medge.protocols import QuantRules
from medge.runtime.machine import machine
from tests import nets

PLUGINS = Path(__file__).parents[1] / "plugins"
with mock.patch.dict(os.environ, {"MEDGE_PLUGIN_PATH": str(PLUGINS)}):
    NAMES = plugins.names("backends")
    KNOWN = {name: [*offered(plugins.load("backends", name)), QUANTISED] for name in NAMES}
EACH = pytest.mark.parametrize(("name", "precision"), [(n, p) for n in NAMES for p in KNOWN[n]])
BLOCKS = ("relu", "depthwise", "residual", "relu6", "squeeze")
# Of the largest output. int8 differs by rounding, and by the coarser integers that an engine wants.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
TOLERANCE |= dict.fromkeys([QUANTISED, "int8_bfloat16", "int8_float16"], 0.05)
# ONNX Runtime on x86 without VNNI adds pairs of 8-bit products in 16 bits, where large weights saturate. What comes of
# it on real images is the gate's to judge; here it may be no more than this (0.11 on an EPYC Milan).
SATURATING = 0.2
VNNI = {"avx512_vnni", "avx_vnni"}


@pytest.fixture(autouse=True)
def plugin_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(PLUGINS))


def loaded(name: str, precision: str) -> Any:
    """The backend, or a skip with its own reason where this machine cannot run the precision."""
    backend = plugins.load("backends", name)
    lack = backend.missing(precision)
    if lack is not None:
        pytest.skip(lack)
    return backend


def lowered(backend: Any, precision: str, folder: Path, *, size: int = 16) -> tuple[Path, Path]:
    """A graph, and the same graph as the backend wants it."""
    source = nets.write_net(folder / "source.onnx", BLOCKS, quantised=is_int8(precision), size=size)
    target = folder / "lowered.onnx"
    lower(source, target, backend.QUANT, calibration_images=nets.images(8, size=size))
    assert lint(target, backend.QUANT) == []
    return source, target


def test_there_are_backends_in_the_tree_and_one_outside_it() -> None:
    assert {"onnxruntime", "openvino", "tensorrt", "reference"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_backend_says_what_it_is_as_data(name: str) -> None:
    backend = plugins.load("backends", name)
    assert isinstance(backend.PACKAGE, str)
    assert "float32" in backend.PRECISIONS
    assert not any(map(is_int8, backend.PRECISIONS))
    assert all(is_int8(p) and p != QUANTISED for p in getattr(backend, "MIXED", ()))
    assert isinstance(backend.QUANT, QuantRules)


@pytest.mark.parametrize("name", NAMES)
def test_a_backend_imports_only_what_every_device_has(name: str) -> None:
    tree = ast.parse(Path(plugins.load("backends", name).__file__ or "").read_text())
    top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    modules = {(n.module or "") if isinstance(n, ast.ImportFrom) else n.names[0].name for n in top}
    third_party = {m.split(".")[0] for m in modules} & {"onnx", "onnxruntime", "openvino", "tensorrt", "torch", "PIL"}
    assert third_party == set()


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_precision_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    backend = plugins.load("backends", name)
    for call in (
        lambda: backend.missing("float8"),
        lambda: backend.build(tmp_path / "model.onnx", tmp_path, precision="float8"),
        lambda: backend.start(tmp_path, [], precision="float8", threads=1),
    ):
        with pytest.raises(RecipeError, match="float8") as caught:
            call()
        assert "float32" in caught.value.fix


@EACH
def test_what_is_missing_is_said_with_the_way_to_get_it(name: str, precision: str, tmp_path: Path) -> None:
    backend = plugins.load("backends", name)
    lack = backend.missing(precision)
    if lack is None:
        assert all(isinstance(v, str) and v for v in backend.versions().values())
        return
    assert len(lack) > 20
    source = nets.write_net(tmp_path / "source.onnx", ())
    if backend.missing("float32") is not None:
        with pytest.raises(MissingError):
            backend.build(source, tmp_path / "engine", precision=precision)
    else:  # built, the precision is refused at the start and never replaced by another
        files = backend.build(source, tmp_path / "engine", precision=precision)
        with pytest.raises(MissingError):
            backend.start(tmp_path / "engine", files, precision=precision, threads=1)


@EACH
def test_the_engine_computes_what_the_graph_says(name: str, precision: str, tmp_path: Path) -> None:
    backend = loaded(name, precision)
    source, graph = lowered(backend, precision, tmp_path)
    files = backend.build(graph, tmp_path / "engine", precision=precision)
    assert files
    assert all((tmp_path / "engine" / file).is_file() for file in files)
    session = backend.start(tmp_path / "engine", files, precision=precision, threads=2)
    pictures = nets.images(6, size=16, seed=1)
    expected = nets.run_plainly(source, pictures)
    outputs = [session.run(picture[None]) for picture in pictures]
    for k, reference in enumerate(expected):
        actual = np.concatenate([output[k] for output in outputs])
        assert (actual.shape, actual.dtype) == (reference.shape, np.float32)
        assert np.abs(actual - reference).max() <= tolerance(name, precision) * np.abs(reference).max()


def tolerance(name: str, precision: str) -> float:
    here = machine({})
    saturates = here["architecture"] == "x86_64" and not VNNI & set(here["instructions"])
    return SATURATING if saturates and (name, precision) == ("onnxruntime", QUANTISED) else TOLERANCE[precision]


@EACH
def test_results_stay_when_the_session_runs_again_and_repeat_exactly(name: str, precision: str, tmp_path: Path) -> None:
    backend = loaded(name, precision)
    _, graph = lowered(backend, precision, tmp_path)
    files = backend.build(graph, tmp_path / "engine", precision=precision)
    session = backend.start(tmp_path / "engine", files, precision=precision, threads=1)
    first, second = nets.images(2, size=16, seed=2)
    kept = session.run(first[None])
    copies = [array.copy() for array in kept]
    session.run(second[None])
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(session.run(first[None]), copies, strict=True))


@EACH
def test_the_image_given_is_not_kept_nor_changed(name: str, precision: str, tmp_path: Path) -> None:
    backend = loaded(name, precision)
    _, graph = lowered(backend, precision, tmp_path)
    session = backend.start(
        tmp_path / "e", backend.build(graph, tmp_path / "e", precision=precision), precision=precision, threads=1
    )
    picture = nets.images(1, size=16, seed=3)
    before = picture.copy()
    picture.flags.writeable = False
    session.run(picture)
    assert np.array_equal(picture, before)


@EACH
def test_an_image_of_another_shape_or_type_is_refused(name: str, precision: str, tmp_path: Path) -> None:
    backend = loaded(name, precision)
    _, graph = lowered(backend, precision, tmp_path)
    files = backend.build(graph, tmp_path / "engine", precision=precision)
    session = backend.start(tmp_path / "engine", files, precision=precision, threads=1)
    for wrong in (
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((1, 16, 16, 3), np.float32),
        np.zeros((16, 16, 3), np.uint8),
    ):
        with pytest.raises(DataError):
            session.run(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_two_builds_of_a_graph_give_the_same_bytes_or_say_that_they_cannot(name: str, tmp_path: Path) -> None:
    if name == "tensorrt":
        pytest.skip("plans are native code and not reproducible; they are identified by graph, version and GPU")
    backend = loaded(name, QUANTISED)
    _, graph = lowered(backend, QUANTISED, tmp_path)
    elsewhere = tmp_path / "elsewhere" / "another-name.onnx"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(graph.read_bytes())
    files = backend.build(graph, tmp_path / "a", precision=QUANTISED)
    assert files == backend.build(elsewhere, tmp_path / "b", precision=QUANTISED)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_onnx_is_refused_by_the_tool(name: str, tmp_path: Path) -> None:
    backend = loaded(name, "float32")
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ToolError):
        backend.build(tmp_path / "model.onnx", tmp_path / "engine", precision="float32")


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_whose_file_is_gone_is_missing(name: str, tmp_path: Path) -> None:
    backend = loaded(name, "float32")
    _, graph = lowered(backend, "float32", tmp_path)
    files = backend.build(graph, tmp_path / "engine", precision="float32")
    (tmp_path / "engine" / files[0]).unlink()
    with pytest.raises(MissingError):
        backend.start(tmp_path / "engine", files, precision="float32", threads=1)
