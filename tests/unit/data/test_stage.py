"""The data stage: what it writes, what it refuses, and that a kill in the middle changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medge.data import dataset
from medge.data.inspect import inspect, show
from medge.errors import DataError, IntegrityError
from medge.runtime.preprocess import load_image, pixels_sha256, prepare
from medge.sections import DataSection
from medge.stages import data as stage

from .conftest import Folder, write_image


def section(**keys: Any) -> DataSection:
    return DataSection.model_validate({"size": 32, **keys})


def run(work: Path, seed: int = 0, **keys: Any) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    return stage.run(section(**keys), {}, work, seed)


def outputs(work: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(work.iterdir()) if p.is_file()}


def test_a_folder_becomes_a_data_set_that_can_be_read(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders()
    values = run(tmp_path / "out", path=str(root))
    assert json.loads(json.dumps(values)) == values
    assert values["counts"]["train"] == {"NORMAL": 14, "PNEUMONIA": 14}
    assert values["counts"]["test"] == {"NORMAL": 4, "PNEUMONIA": 4}
    data = dataset.load(tmp_path / "out")
    assert (data.name, data.labels, data.synthetic, len(data)) == ("Röntgen-Bilder", ("NORMAL", "PNEUMONIA"), False, 40)
    rows = data.indices("validation")
    assert data.split[rows].tolist() == ["validation"] * 4
    for row, image in zip(rows, data.read(rows), strict=True):
        file = root / data.paths[row]
        assert np.array_equal(image, prepare(file, data.preprocess))
        assert data.sha256s[row] == pixels_sha256(load_image(file))
        assert data.labels[data.label[row]] == Path(data.paths[row]).parent.name
    table = data.predictions(rows, np.zeros((4, 2)))
    assert table.group == tuple(data.groups[row] for row in rows)


def test_rows_are_read_in_the_order_asked_for(class_folders: Folder, tmp_path: Path) -> None:
    run(tmp_path / "out", path=str(class_folders()))
    data = dataset.load(tmp_path / "out")
    rows = [7, 0, 39, 7]
    assert np.array_equal(data.read(rows), data.read(range(40))[rows])
    assert data.read([]).shape == (0, 32, 32, 3)
    for wrong in ([40], [-1]):
        with pytest.raises(IndexError):
            data.read(wrong)
    with pytest.raises(ValueError, match="no split"):
        data.indices("tset")
    with pytest.raises(ValueError, match="logits"):
        data.predictions([0, 1], np.zeros((2, 3)))


def test_the_same_section_and_seed_give_the_same_bytes(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders()
    first, second = run(tmp_path / "a", path=str(root)), run(tmp_path / "b", path=str(root))
    assert first == second
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")
    run(tmp_path / "c", seed=1, path=str(root))
    assert outputs(tmp_path / "c")["manifest.csv"] != outputs(tmp_path / "a")["manifest.csv"]


def test_a_damaged_data_set_is_refused(class_folders: Folder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, path=str(class_folders()))
    text = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(text.replace("train", "test", 1))
    with pytest.raises(IntegrityError, match="sha256 differs"):
        dataset.load(out)
    (out / "manifest.csv").write_text(text)
    with open(out / "images.u8", "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(IntegrityError, match="100 bytes"):
        dataset.load(out)


def test_every_bad_file_is_listed_at_once(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders()
    bad = {
        "NORMAL/empty.png": b"",
        "NORMAL/table.jpg": b"not an image",
        "PNEUMONIA/cut.png": (root / "NORMAL" / "person0_virus_0.png").read_bytes()[:-500],
        "PNEUMONIA/scan.dcm": bytes(128) + b"DICM",
        "PNEUMONIA/archive": b"no ending",
    }
    for name, content in bad.items():
        (root / name).write_bytes(content)
    Image.fromarray(np.zeros((40, 40), dtype=np.uint16)).save(root / "NORMAL" / "deep.png")
    with pytest.raises(DataError) as caught:
        run(tmp_path / "out", path=str(root))
    assert "6 of 46 images" in caught.value.message
    for name in [*bad, "NORMAL/deep.png"]:
        assert str(root / name) in caught.value.message
    found = inspect(section(path=str(root)), 0)
    assert found["refused"] == 6
    assert found["images"] == 40
    assert len(found["problems"]) == 1


@pytest.mark.parametrize(
    ("classes", "patients", "told"),
    [(("NORMAL",), 10, "only the class NORMAL"), (("NORMAL", "PNEUMONIA"), 2, "Too few groups")],
)
def test_too_few_classes_or_patients_are_refused(
    class_folders: Folder, tmp_path: Path, classes: tuple[str, ...], patients: int, told: str
) -> None:
    root = class_folders(classes, patients=patients)
    with pytest.raises(DataError, match=told) as caught:
        run(tmp_path / "out", path=str(root))
    assert caught.value.fix
    assert told in inspect(section(path=str(root)), 0)["problems"][0]["message"]


def test_classes_and_a_number_of_images_can_be_chosen(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders(("a", "b", "c"), patients=20)
    values = run(tmp_path / "out", path=str(root), classes=["c", "a"], max_images=50)
    assert values["labels"] == ["c", "a"]
    assert values["images"] == 48  # whole groups of two
    assert all(abs(v["a"] - v["c"]) <= 2 for v in values["counts"].values())


def test_the_fingerprint_changes_with_the_files(class_folders: Folder) -> None:
    root = class_folders()
    keys = section(path=str(root))
    first = stage.fingerprint(keys)
    assert stage.fingerprint(keys) == first
    os.utime(root / "NORMAL" / "person0_virus_0.png", (1, 1))
    second = stage.fingerprint(keys)
    write_image(root / "NORMAL" / "person0_virus_99.png", 99)
    third = stage.fingerprint(keys)
    (root / "NORMAL" / "notes.txt").write_text("ignored by rule")
    assert len({first, second, third}) == 3
    assert stage.fingerprint(keys) == third
    assert stage.fingerprint(section(source="phantom")) == ""


def test_inspect_tells_what_is_there_without_writing(class_folders: Folder) -> None:
    root = class_folders()
    before = sorted(root.rglob("*"))
    found = inspect(section(path=str(root)), 0)
    assert json.loads(json.dumps(found)) == found
    assert found["classes"] == {"NORMAL": 20, "PNEUMONIA": 20}
    assert (found["groups"], found["problems"]) == (20, [])
    assert found["modes"] == {"RGB": 40}
    assert found["sizes"] == {"different": 1, "smallest": "40 x 32", "largest": "40 x 32"}
    show(found)
    assert sorted(root.rglob("*")) == before


KILLED = """
import sys, time
from pathlib import Path
from medge.data import decode
from medge.sections import DataSection
from medge.stages import data
one = decode._one
def slow(*arguments):
    time.sleep(0.01)
    return one(*arguments)
decode._one = slow
data.run(DataSection.model_validate({"size": 32, "path": sys.argv[1]}), {}, Path(sys.argv[2]), 0)
"""


def test_a_killed_stage_continues_and_ends_with_the_same_bytes(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders(patients=110)
    run(tmp_path / "whole", path=str(root))
    work = tmp_path / "killed"
    work.mkdir()
    kills = 0
    for rows in (64, 192, 320):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(root), str(work)], stderr=subprocess.DEVNULL)
        marks = work / "scratch" / "decoded.jsonl"
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if marks.exists() and marks.read_bytes().count(b"\n") > rows:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 3
    with open(work / "images.u8", "ab") as stream:  # the kill may have come between pixels and their mark
        stream.write(b"half an image")
    with open(marks, "ab") as stream:
        stream.write(b'["half a li')
    run(work, path=str(root))
    assert outputs(work) == outputs(tmp_path / "whole")


def test_files_changed_after_a_kill_are_decoded_anew(class_folders: Folder, tmp_path: Path) -> None:
    root = class_folders()
    run(tmp_path / "work", path=str(root))  # leaves scratch/ as a killed run would
    write_image(root / "NORMAL" / "person0_virus_0.png", 4711)
    run(tmp_path / "work", path=str(root))
    run(tmp_path / "whole", path=str(root))
    assert outputs(tmp_path / "work") == outputs(tmp_path / "whole")


MEMORY = """
import resource, sys
from pathlib import Path
from medge.data import dataset
data = dataset.load(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3):
    for start in range(0, len(data), 32):
        data.read(range(start, min(start + 32, len(data))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_reading_all_images_keeps_only_a_batch_in_memory(tmp_path: Path) -> None:
    run(tmp_path / "out", source="phantom", phantom={"images": 600}, size=128)
    size_kb = (tmp_path / "out" / "images.u8").stat().st_size / 1024
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "out")]
    grown_kb = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert size_kb > 28_000
    assert grown_kb < 8_000


@pytest.mark.shared
@pytest.mark.slow
def test_real_chest_x_rays_split_by_patient_without_leaks(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "chest-xray"
    columns = {"path": "file", "group": "patient_id", "subgroups": ["subtype"]}
    values = run(tmp_path / "out", source="csv", path=str(root), columns=columns)
    data = dataset.load(tmp_path / "out")
    assert values["images"] == 4966
    for label, total in (("NORMAL", 1344), ("PNEUMONIA", 3622)):
        for side, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
            assert values["counts"][side][label] / total == pytest.approx(share, abs=0.005)
    assert values["pixel_identical"] >= 20
    assert len(set(zip(data.sha256s, data.split.tolist(), strict=True))) == len(set(data.sha256s))
    assert len(set(zip(data.groups, data.split.tolist(), strict=True))) == len(set(data.groups))


@pytest.mark.shared
@pytest.mark.slow
def test_the_split_of_the_original_chest_x_rays_is_refused(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "chest-xray"
    columns = {"path": "file", "group": "patient_id"}
    split = {"column": "kaggle_split"}
    with pytest.raises(DataError, match=r"\d+ groups are on more than one side(.|\n)*person\d+ \(test, train\)"):
        run(tmp_path / "out", source="csv", path=str(root), columns=columns, split=split)
