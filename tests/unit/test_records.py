"""Records and prediction tables survive writing and reading, and say what is wrong with a bad one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medge import predictions, records
from medge.errors import DataError, IntegrityError
from medge.predictions import Predictions
from medge.records import Engine, File


def table(rows: int = 3, classes: int = 2) -> Predictions:
    logits = np.random.default_rng(0).normal(size=(rows, classes)).astype(np.float32).astype(np.float64)
    names = tuple(f"{k:064x}" for k in range(rows))
    return Predictions(names, names, np.arange(rows) % classes, logits, {"age, band": tuple('a"b' for _ in names)})


def test_an_engine_record_reads_back_equal() -> None:
    engine = Engine(
        "int8",
        "openvino",
        "int8",
        (File("a.xml", "0" * 64, 3), File("a.bin", "1" * 64, 4)),
        "2" * 64,
        {"openvino": "1"},
    )
    assert records.from_json(Engine, records.to_json(engine)) == engine
    assert engine.bytes == 7
    assert engine.name == "int8/openvino-int8"


def test_an_engine_hash_depends_on_precision_and_files_but_not_on_its_variant_name() -> None:
    def engine(variant: str, precision: str, sha256: str) -> Engine:
        return Engine(variant, "openvino", precision, (File("a", sha256, 1),), "x", {})

    assert engine("a", "float32", "0").sha256 == engine("b", "float32", "0").sha256
    assert len({engine("a", p, s).sha256 for p in ("float32", "bfloat16") for s in ("0", "1")}) == 4


@pytest.mark.parametrize("value", [None, 3, [], {"variant": "x"}, {"unknown": 1}])
def test_a_record_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(IntegrityError):
        records.from_json(Engine, value)


def test_verify_names_every_wrong_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    files = [records.file_record(tmp_path, tmp_path / name) for name in "ab"] + [File("c", "0", 0)]
    (tmp_path / "b").write_text("B")
    with pytest.raises(IntegrityError) as caught:
        records.verify_files(tmp_path, files)
    assert "b is not" in caught.value.message
    assert "c is missing" in caught.value.message
    assert "a is" not in caught.value.message


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        records.write_json(path, {"a": float("nan")})
    assert records.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@given(st.integers(0, 20), st.integers(2, 5))
def test_a_predictions_table_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: int, classes: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "p.csv"
    original = table(rows, classes)
    predictions.write(path, original)
    again = predictions.read(path)
    assert (again.sha256, again.group, again.subgroups) == (original.sha256, original.group, original.subgroups)
    np.testing.assert_array_equal(again.labels, original.labels)
    np.testing.assert_array_equal(again.logits.astype(np.float32), original.logits.astype(np.float32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a,b,c\n", "header"),
        ("sha256,group,label,logit_0\n", "logit_1"),
        ("sha256,group,label,logit_1,logit_0\n", "in order"),
        ("sha256,group,label,logit_0,logit_1\nx,g,0,1\n", "line 2"),
        ("sha256,group,label,logit_0,logit_1\nx,g,zero,1,2\n", "line 2"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        predictions.read(path)


def test_a_table_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError):
        predictions.read(path)
