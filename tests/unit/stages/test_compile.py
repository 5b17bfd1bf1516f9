"""The compile stage over small nets whose torch outputs are made up from the graphs themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import calibration, engines, parity, plugins, predictions, trt_check, variants
from medge.backends import onnxruntime as ort_backend
from medge.backends import openvino as openvino_backend
from medge.data import dataset
from medge.errors import DataError, IntegrityError, MissingError, RecipeError, ToolError
from medge.recipe import parse
from medge.records import read_json, sha256_of_file, verify_files
from medge.sections import CompileSection
from medge.stages import compile as stage
from medge.variants import CompressedVariant
from medge.workspace import Inputs, Stage
from tests import nets
from tests.synthetic_run import write_data

SIZE = 16
_FIGURES = ("images", "max_abs_logit_difference", "changed_decisions")
BLOCKS = ("relu", "depthwise", "silu")
Prepared = tuple[Inputs, Path]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A data and a compress stage (float, int8), and the folder to compile in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(Path(__file__).parents[2] / "plugins"))
    write_data(tmp_path / "1-data", images=40, size=SIZE)
    data = dataset.load(tmp_path / "1-data")
    rows = data.indices("validation")
    for name, quantised in (("float", False), ("int8", True)):
        folder = tmp_path / "3-compress" / name
        path = nets.write_net(folder / "model.onnx", BLOCKS, quantised=quantised, size=SIZE)
        logits, _ = nets.run_plainly(path, data.read(rows))
        predictions.write(folder / "validation.csv", data.predictions(rows, logits))
        variants.save(CompressedVariant(name, quantised, [], [], sha256_of_file(path), "pass"), folder)
    listed = calibration.read_or_draw(data, images=8, seed=0)
    values = {"calibration": {"path": str(listed.path), "sha256": listed.sha256, "images": 8}}
    inputs = {
        "data": Stage("data", tmp_path / "1-data", "", "", {}, {}, 0.0, False),
        "compress": Stage("compress", tmp_path / "3-compress", "", "", values, {}, 0.0, False),
    }
    work = tmp_path / "work"
    work.mkdir()
    return inputs, work


def compiled(prepared: Prepared, **backends: tuple[str, ...]) -> dict[str, Any]:
    inputs, work = prepared
    return stage.run(CompileSection(backends=backends), inputs, work, 0)


def test_every_variant_is_built_for_every_backend_and_agrees_with_torch(prepared: Prepared) -> None:
    values = compiled(prepared, onnxruntime=("float32",), openvino=("float32",), reference=("float32",))
    names = ["float/onnxruntime-float32", "float/openvino-float32", "float/reference-float32"]
    assert values["engines"] == names + [f"int8/{b}-int8" for b in ("onnxruntime", "openvino", "reference")]
    assert values["skipped"] == []
    found = engines.load_all(prepared[1])
    assert sorted(engine.name for engine, _ in found) == sorted(values["engines"])
    for engine, folder in found:
        verify_files(folder, engine.files)
        assert engine.onnx_sha256 == sha256_of_file(prepared[0]["compress"].folder / engine.variant / "model.onnx")
        assert engine.versions
        figures = values["parity"][engine.name]
        assert figures["images"] == min(parity.IMAGES, 8)
        assert figures["max_abs_logit_difference"] < (1e-4 if engine.precision == "float32" else 0.5)


def test_a_quantised_variant_is_built_in_int8_and_in_what_is_named_of_mixed_precisions(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "missing", lambda precision: None)
    monkeypatch.setattr(parity, "measure", lambda *a, **k: dict.fromkeys(_FIGURES, 0))
    values = compiled(prepared, openvino=("float32", "int8_bfloat16"), onnxruntime=("float32",))
    assert values["engines"] == [
        "float/openvino-float32", "float/onnxruntime-float32",
        "int8/openvino-int8", "int8/openvino-int8_bfloat16", "int8/onnxruntime-int8",
    ]  # fmt: skip
    built = {engine.precision: engine for engine, _ in engines.load_all(prepared[1]) if engine.backend == "openvino"}
    assert built["int8"].files == built["int8_bfloat16"].files, "in what the rest runs is a choice at start"
    assert built["int8"].sha256 != built["int8_bfloat16"].sha256, "and another engine all the same"


def test_an_engine_that_is_there_is_not_built_again(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled(prepared, onnxruntime=("float32",))
    (prepared[1] / "int8" / "onnxruntime-int8" / "engine.json").unlink()  # killed before it was finished
    built: list[str] = []
    build = ort_backend.build

    def counted(onnx: Path, folder: Path, *, precision: str) -> list[str]:
        built.append(precision)
        return build(onnx, folder, precision=precision)

    monkeypatch.setattr(ort_backend, "build", counted)
    assert compiled(prepared, onnxruntime=("float32",)) == first
    assert built == ["int8"]


def test_a_finished_engine_with_another_content_is_refused(prepared: Prepared) -> None:
    compiled(prepared, onnxruntime=("float32",))
    path = prepared[1] / "float" / "onnxruntime-float32" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        compiled(prepared, onnxruntime=("float32",))


def test_what_cannot_be_built_here_is_named_and_its_graph_is_kept(
    prepared: Prepared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_check, "missing", lambda: "NVIDIA's parser is not installed.")
    monkeypatch.setattr(plugins.load("backends", "tensorrt")._cuda, "lack", lambda: "no GPU")
    values = compiled(prepared, onnxruntime=("float32",), tensorrt=("float32",))
    assert values["engines"] == ["float/onnxruntime-float32", "int8/onnxruntime-int8"]
    assert [(s["variant"], s["backend"], s["precision"]) for s in values["skipped"]] == [
        ("float", "tensorrt", "float32"),
        ("int8", "tensorrt", "int8"),
    ]
    assert "no GPU" in values["skipped"][1]["reason"]
    assert values["skipped"][1]["graph"].startswith("it passes the lint; not checked further. NVIDIA's parser")
    assert (prepared[1] / "int8" / "tensorrt-int8" / stage.GRAPH).is_file()
    assert "int8/tensorrt-int8 is skipped" in capsys.readouterr().err.replace("\n", " ")
    assert compiled(prepared, onnxruntime=("float32",), tensorrt=("float32",)) == values


def test_where_nothing_can_be_built_every_reason_is_given(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_backend, "missing", lambda precision: f"no {precision} today")
    with pytest.raises(MissingError, match=r"(?s)no float32 today.*no int8 today"):
        compiled(prepared, onnxruntime=("float32",))


def test_a_float_engine_that_disagrees_with_torch_is_refused_by_name(prepared: Prepared) -> None:
    table = prepared[0]["compress"].folder / "float" / "validation.csv"
    rows = predictions.read(table)
    rows.logits[0] += 0.5
    predictions.write(table, rows)
    with pytest.raises(ToolError, match=r"float/onnxruntime-float32 disagrees with torch: .* 0\.5"):
        compiled(prepared, onnxruntime=("float32",))


def test_a_quantised_engine_further_away_is_recorded_for_validate_to_judge(prepared: Prepared) -> None:
    table = prepared[0]["compress"].folder / "int8" / "validation.csv"
    rows = predictions.read(table)
    predictions.write(
        table, predictions.Predictions(rows.sha256, rows.group, rows.labels, -rows.logits, rows.subgroups)
    )
    values = compiled(prepared, onnxruntime=("float32",))
    assert values["parity"]["int8/onnxruntime-int8"]["changed_decisions"] > 0


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        ({"openvino": ("float8",)}, "'openvino' has no precision 'float8'"),
        ({"onnxruntime": ("int8",)}, "'onnxruntime' has no precision 'int8'"),
        ({"onnxruntime": ("int8_bfloat16",)}, "'onnxruntime' has no precision 'int8_bfloat16'"),
    ],
)
def test_an_unknown_precision_is_a_mistake_in_the_recipe(
    prepared: Prepared, backends: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        compiled(prepared, **backends)
    assert "float32" in caught.value.fix


def test_a_recipe_with_an_unknown_precision_is_refused_when_it_is_read() -> None:
    with pytest.raises(RecipeError, match=r"compile\.backends\.openvino: no precision 'float8'"):
        parse({"compile": {"backends": {"openvino": ["float8"]}}}, origin="test")


def test_a_calibration_list_that_changed_since_compress_is_refused(prepared: Prepared) -> None:
    path = Path(prepared[0]["compress"].values["calibration"]["path"])
    path.write_text(path.read_text() + "more\n")
    with pytest.raises(IntegrityError, match="not the list that compress used"):
        compiled(prepared, onnxruntime=("float32",))


def test_a_death_while_building_leaves_nothing_that_passes_for_an_engine(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    build: Callable[..., list[str]] = ort_backend.build

    def dies(onnx: Path, folder: Path, *, precision: str) -> list[str]:
        build(onnx, folder, precision=precision)
        raise KeyboardInterrupt

    monkeypatch.setattr(ort_backend, "build", dies)
    with pytest.raises(KeyboardInterrupt):
        compiled(prepared, onnxruntime=("float32",))
    assert list(prepared[1].glob("*/*/engine.json")) == []
    monkeypatch.setattr(ort_backend, "build", build)
    assert len(compiled(prepared, onnxruntime=("float32",))["engines"]) == 2


def test_another_version_of_an_engine_repeats_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    section = CompileSection(backends={"onnxruntime": ("float32",)})
    before = stage.fingerprint(section)
    assert stage.fingerprint(section) == before
    monkeypatch.setattr(ort_backend, "versions", lambda: {"onnxruntime": "0"})
    assert stage.fingerprint(section) != before


def test_parity_needs_images_that_both_sides_know(prepared: Prepared) -> None:
    folder = prepared[0]["compress"].folder / "float"
    table = predictions.read(folder / "validation.csv")
    strangers = tuple(f"{k:064d}" for k in range(len(table)))
    predictions.write(
        folder / "validation.csv",
        predictions.Predictions(strangers, table.group, table.labels, table.logits, table.subgroups),
    )
    with pytest.raises(DataError, match="holds no validation image"):
        compiled(prepared, onnxruntime=("float32",))


def test_engine_folders_hold_what_the_record_says_and_the_figures(prepared: Prepared) -> None:
    compiled(prepared, openvino=("float32",))
    folder = prepared[1] / "int8" / "openvino-int8"
    assert sorted(os.listdir(folder)) == ["engine.json", "model.bin", "model.xml", "parity.json"]
    record = read_json(folder / "engine.json")
    assert [file["path"] for file in record["files"]] == ["model.bin", "model.xml"]
    assert np.isfinite(read_json(folder / "parity.json")["max_abs_logit_difference"])
