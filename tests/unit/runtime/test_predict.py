"""The loop that runs engines, and the process of its own that it runs in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medge.errors import DataError, IntegrityError, MissingError, ToolError
from medge.records import Engine, file_record
from medge.runtime.child import logits_in_child, read_rows
from medge.runtime.predict import predict_logits, predict_table

BACKEND = '''
"""A backend whose engine is a text file: the logits are the channel means, or what the file asks for."""
import os, signal, sys, time
import numpy as np
from medge.errors import MissingError
from medge.protocols import QuantRules

PACKAGE, PRECISIONS, QUANT = "numpy", ("float32",), QuantRules()

class Session:
    def __init__(self, order):
        self.order = order
    def run(self, images):
        print("an engine that chatters")
        if self.order == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.order == "hang":
            time.sleep(60)
        value = float("nan") if self.order == "nan" else 1.0
        means = images.mean(axis=(1, 2)).astype(np.float32)
        return means * value, means

def start(folder, files, *, precision, threads):
    order = (folder / files[0]).read_text()
    if order == "missing":
        raise MissingError("no engine package", fix="install it")
    assert "torch" not in sys.modules
    return Session(order)
'''


class Means:
    """A session whose logits are the channel means."""

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        means = images.mean(axis=(1, 2)).astype(np.float32)
        return means, means


def make_engine(folder: Path, order: str) -> Engine:
    (folder / "engine.txt").write_text(order)
    return Engine("float", "scripted", "float32", (file_record(folder, folder / "engine.txt"),), "0" * 64, {})


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, NDArray[np.uint8]]:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    images.tofile(tmp_path / "images.u8")
    return tmp_path / "images.u8", images


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for engines of a backend that is not medge's own."""
    (tmp_path / "plugins" / "backends").mkdir(parents=True)
    (tmp_path / "plugins" / "backends" / "scripted.py").write_text(BACKEND)
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(tmp_path / "plugins"))
    return tmp_path


def run_child(folder: Path, order: str, images: Path, **options: object) -> NDArray[np.float32]:
    return logits_in_child(  # type: ignore[no-any-return]
        make_engine(folder, order), folder, images=images, rows=[5, 0, 0], height=4, width=5, threads=1,
        output=folder / "logits.npy", **options,
    )  # type: ignore[arg-type] # fmt: skip


def test_rows_are_read_in_the_order_asked_for(raw: tuple[Path, NDArray[np.uint8]]) -> None:
    path, images = raw
    assert np.array_equal(list(read_rows(path, [6, 0, 3, 3], height=4, width=5)), images[[6, 0, 3, 3]])


@pytest.mark.parametrize("row", [7, -1])
def test_a_row_outside_the_file_is_an_error(raw: tuple[Path, NDArray[np.uint8]], row: int) -> None:
    with pytest.raises(DataError, match=f"no image {row} "):
        list(read_rows(raw[0], [row], height=4, width=5))


def test_a_table_holds_one_row_per_image_in_order(raw: tuple[Path, NDArray[np.uint8]]) -> None:
    images = raw[1][:2]
    table = predict_table(Means(), images, sha256=["a", "b"], group=["g", "h"], labels=[0, 1], subgroups={"sex": "FM"})
    assert np.allclose(table.logits, images.mean(axis=(1, 2)), atol=1e-4)
    assert (table.sha256, table.group, table.subgroups) == (("a", "b"), ("g", "h"), {"sex": ("F", "M")})


def test_a_table_with_a_column_too_short_is_refused(raw: tuple[Path, NDArray[np.uint8]]) -> None:
    with pytest.raises(DataError, match="one value per image"):
        predict_table(Means(), raw[1][:2], sha256=["a"], group=["g", "h"], labels=[0, 1])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8)]
)
def test_an_image_of_another_kind_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match="not uint8"):
        predict_logits(Means(), [image])


def test_no_images_is_an_error_and_not_an_empty_table() -> None:
    with pytest.raises(DataError, match="no images"):
        predict_logits(Means(), [])


def test_a_child_computes_what_the_session_computes(scripted: Path, raw: tuple[Path, NDArray[np.uint8]]) -> None:
    steps: list[int] = []
    logits = run_child(scripted, "means", raw[0], advance=steps.append)
    assert np.allclose(logits, raw[1][[5, 0, 0]].mean(axis=(1, 2)), atol=1e-4)
    assert steps == [1, 1, 1]
    assert np.array_equal(np.load(scripted / "logits.npy"), logits)


def test_a_childs_missing_package_is_raised_as_such(scripted: Path, raw: tuple[Path, NDArray[np.uint8]]) -> None:
    with pytest.raises(MissingError, match="no engine package") as caught:
        run_child(scripted, "missing", raw[0])
    assert caught.value.fix == "install it"


@pytest.mark.parametrize(
    ("order", "message"), [("die", "killed by SIGSEGV"), ("nan", "returned .nan"), ("hang", "killed by SIGKILL")]
)
def test_a_child_that_fails_leaves_no_output(
    scripted: Path, raw: tuple[Path, NDArray[np.uint8]], order: str, message: str
) -> None:
    with pytest.raises(ToolError, match=message):
        run_child(scripted, order, raw[0], seconds=3.0 if order == "hang" else 60.0)
    assert not list(scripted.glob("*.npy")) + list(scripted.glob(".logits*"))


def test_a_child_refuses_a_changed_engine(scripted: Path, raw: tuple[Path, NDArray[np.uint8]]) -> None:
    engine = make_engine(scripted, "means")
    (scripted / "engine.txt").write_text("Means")
    with pytest.raises(IntegrityError, match=r"engine\.txt"):
        logits_in_child(
            engine, scripted, images=raw[0], rows=[0], height=4, width=5, threads=1, output=scripted / "logits.npy"
        )
