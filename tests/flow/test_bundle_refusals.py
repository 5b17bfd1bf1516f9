"""A bundle refuses what is not what was validated: files, machines, images, numbers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medge import predictions
from medge.errors import GateFailed, ToolError
from medge.records import read_json, write_json
from medge.runtime import bundle as bundles
from medge.sections import PackageSection
from medge.stages import package
from tests.fake_stages import fake_inputs
from tests.flow.bundle_calls import HOST_RING, call, flip, lines, reseal


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_frame_is_refused_with_its_score(bundle: Path, tmp_path: Path, grey: int) -> None:
    Image.fromarray(np.full((50, 60), grey, np.uint8)).save(tmp_path / "blank.png")
    done = call(bundle, "predict", str(tmp_path / "blank.png"), str(bundle / "golden" / "00.png"))
    assert done.returncode == 2
    blank, golden = lines(done)
    assert blank["refused"] is True
    threshold = read_json(bundle / bundles.MANIFEST)["ood"]["threshold"]
    assert blank["reason"].startswith("unlike the images this model was validated on (score ")
    assert f"> {threshold:.4g})" in blank["reason"]
    assert "decision" not in blank
    assert golden["ood_score"] <= threshold


def test_selftest_exits_5_where_golden_images_look_unlike(bundle: Path) -> None:
    ood = read_json(bundle / bundles.MANIFEST)["ood"]
    golden = read_json(bundle / bundles.MANIFEST)["golden"]
    reseal(bundle, ood={**ood, "threshold": 1e-6}, golden=[{**vector, "ood_score": 1e-7} for vector in golden])
    done = call(bundle, "selftest")
    assert done.returncode == 5
    assert "refused here with a score" in done.stderr


def test_a_tampered_table_of_unlike_images_is_refused(bundle: Path) -> None:
    for place in (0, 130, -1):
        whole = (bundle / "ood.npy").read_bytes()
        flip(bundle / "ood.npy", place)
        done = call(bundle, "predict", str(bundle / "golden" / "00.png"))
        assert (done.returncode, done.stdout) == (2, "")
        assert "ood.npy" in done.stderr
        (bundle / "ood.npy").write_bytes(whole)


def test_a_table_that_the_manifest_does_not_list_is_refused(bundle: Path) -> None:
    files = [file for file in read_json(bundle / bundles.MANIFEST)["files"] if file["path"] != "ood.npy"]
    (bundle / "ood.npy").unlink()
    reseal(bundle, files=files)
    done = call(bundle, "predict", str(bundle / "golden" / "00.png"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "not listed" in done.stderr


@pytest.mark.parametrize("place", [0, 1])
def test_a_refused_image_is_named_and_the_others_are_judged(bundle: Path, tmp_path: Path, place: int) -> None:
    deep = tmp_path / "sixteen.png"
    Image.fromarray(np.full((40, 40), 3000, np.uint16)).save(deep)
    images = [str(bundle / "golden" / "00.png")]
    images.insert(place, str(deep))
    done = call(bundle, "predict", *images)
    assert done.returncode == 2
    answers = lines(done)
    assert [answer.get("refused", False) for answer in answers] == [k == place for k in range(2)]
    assert answers[place]["image"] == str(deep)
    assert "8 bits" in answers[place]["reason"]


def test_selftest_exits_5_where_the_numbers_are_others(bundle: Path) -> None:
    golden = read_json(bundle / bundles.MANIFEST)["golden"]
    golden[3]["engine_logits"][0] += 0.5
    reseal(bundle, golden=golden)
    done = call(bundle, "selftest", "--json")
    assert done.returncode == 5
    assert golden[3]["image"] in done.stderr
    assert lines(done)[0]["selftest"] == "fail"


def test_selftest_exits_5_where_resizing_is_another(bundle: Path) -> None:
    preprocess = {**read_json(bundle / bundles.MANIFEST)["preprocess"], "interpolation": "bilinear"}
    reseal(bundle, preprocess=preprocess)
    done = call(bundle, "selftest")
    assert done.returncode == 5
    assert "grey levels" in done.stderr


@pytest.mark.parametrize("package_name", ["onnxruntime", "numpy", "PIL"])
def test_a_missing_package_is_said_and_exits_3(bundle: Path, package_name: str) -> None:
    done = call(bundle, "predict", str(bundle / "golden" / "00.png"), blocked=[*HOST_RING, package_name])
    assert (done.returncode, done.stdout) == (3, "")
    assert package_name in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_flipped_byte_in_any_file_is_refused_and_nothing_is_predicted(bundle: Path) -> None:
    dice = random.Random(0)
    golden = str(bundle / "golden" / "00.png")
    for name in bundles.files_in(bundle):
        path = bundle / name
        whole = path.read_bytes()
        flip(path, dice.randrange(len(whole)), 1 << dice.randrange(8))
        done = call(bundle, "predict", golden)
        assert done.returncode != 0, name
        assert done.stdout == "", name
        if name != bundles.RUNTIME:
            assert done.returncode == 2, (name, done.stderr)
            assert "fix:" in done.stderr, name
        path.write_bytes(whole)
    assert call(bundle, "predict", golden).returncode == 0


def test_a_flipped_byte_anywhere_in_the_runtime_is_refused(bundle: Path) -> None:
    path = bundle / bundles.RUNTIME
    whole = path.read_bytes()
    dice = random.Random(1)
    main = whole.index(b"__main__.py")
    places = [0, 30, len(whole) - 1, len(whole) - 60, *range(main, main + 2400, 150)]
    for place in [*places, *(dice.randrange(len(whole)) for _ in range(12))]:
        flip(path, place, 1 << dice.randrange(8))
        done = call(bundle, "predict", str(bundle / "golden" / "00.png"))
        assert done.returncode != 0, place
        assert done.stdout == "", place
        path.write_bytes(whole)


def test_a_runtime_that_skips_its_first_check_is_caught_by_the_second(bundle: Path) -> None:
    path = bundle / bundles.RUNTIME
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"    if listed != [", b"    if listed == ["))
    assert path.read_bytes() != whole
    done = call(bundle, "predict", str(bundle / "golden" / "00.png"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "medge-runtime.pyz is not the recorded file" in done.stderr


def test_an_engine_that_computes_otherwise_than_validated_is_not_packaged(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path / "runs" / "fake")
    path = inputs["validate"].folder / "predictions" / "float__onnxruntime-float32-test.csv"
    table = predictions.read(path)
    table.logits[:, 0] += 1
    predictions.write(path, table)
    with pytest.raises(ToolError, match="own selftest"):
        package.run(PackageSection(), inputs, tmp_path, 0)


@pytest.mark.parametrize(
    "arguments", [["predict"], ["dance"], [], ["predict", "--threads", "0", "x"], ["bench", "--seconds", "-1"]]
)
def test_a_wrong_command_line_exits_2_with_usage(bundle: Path, arguments: list[str]) -> None:
    done = call(bundle, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


def test_nothing_chosen_is_nothing_packaged(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path / "runs" / "fake")
    write_json(inputs["select"].folder / "choice.json", {"chosen": None, "operating_point": None})
    with pytest.raises(GateFailed, match="nothing to package"):
        package.run(PackageSection(), inputs, tmp_path, 0)
