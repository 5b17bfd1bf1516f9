"""From the folders of the stages to a bundle that runs by itself, and refuses when it is not what was made."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medge import manifest, predictions
from medge.errors import GateFailed, ToolError
from medge.package_runtime import write_runtime
from medge.records import NOTICE, read_json, write_json
from medge.runtime import bundle as bundles
from medge.sections import PackageSection
from medge.stages import package
from medge.workspace import Stage
from tests.fake_stages import fake_inputs

BLOCKED = """
import runpy, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Block())
sys.argv = {argv}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
HOST_RING = ("torch", "typer", "pydantic", "rich", "yaml", "scipy", "sklearn", "timm", "nncf", "onnx", "jinja2")


@pytest.fixture(scope="module", autouse=True)
def one_commit() -> Iterator[None]:
    """The repository may be committed to while tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    return fake_inputs(tmp_path_factory.mktemp("runs") / "fake")


@pytest.fixture(scope="module")
def made(run: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work = tmp_path_factory.mktemp("package")
    return work / "fake", package.run(PackageSection(), run, work, 0)


@pytest.fixture
def bundle(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy, to be spoiled."""
    return Path(shutil.copytree(made[0], tmp_path / "a b" / "bundle"))


def call(
    bundle: Path, *arguments: str, blocked: Sequence[str] = HOST_RING, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The runtime in a process without medge's host ring, its environment and its working folder."""
    code = BLOCKED.format(blocked=tuple(blocked), argv=[str(bundle / bundles.RUNTIME), *arguments])
    environment = {"PATH": os.defpath, "HOME": str(home or bundle.parent)}
    return subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, env=environment, cwd="/", timeout=120
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def reseal(bundle: Path, **changes: Any) -> None:
    write_json(bundle / bundles.MANIFEST, {**read_json(bundle / bundles.MANIFEST), **changes})
    bundles.seal(bundle)


def flip(path: Path, position: int, mask: int = 0xFF) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


def test_the_stage_says_what_it_made(made: tuple[Path, dict[str, Any]]) -> None:
    folder, values = made
    assert values["bundle"] == "fake"
    assert values["golden"] == 12
    assert values["manifest_sha256"] == bundles.load(folder).manifest_sha256


def test_a_bundle_made_again_is_the_same_to_the_byte(
    made: tuple[Path, dict[str, Any]], run: dict[str, Stage], tmp_path: Path
) -> None:
    assert package.run(PackageSection(), run, tmp_path, 0) == made[1]
    for path in bundles.files_in(made[0]):
        assert (tmp_path / "fake" / path).read_bytes() == (made[0] / path).read_bytes()


def test_an_engine_made_from_drawn_images_says_so_in_every_answer(bundle: Path) -> None:
    reseal(bundle, provenance={**read_json(bundle / bundles.MANIFEST)["provenance"], "data": {"synthetic": True}})
    assert call(bundle, "selftest").stdout.strip().endswith(f"made from synthetic images; {NOTICE}")
    assert lines(call(bundle, "selftest", "--json"))[0]["synthetic"] is True
    assert call(bundle, "bench", "--seconds", "0.2").stdout.strip().endswith(f"made from synthetic images; {NOTICE}")
    assert lines(call(bundle, "bench", "--seconds", "0.2", "--json"))[0]["synthetic"] is True
    assert lines(call(bundle, "predict", str(bundle / "golden" / "00.png")))[0]["synthetic"] is True


def test_predict_prints_one_object_a_line_with_what_it_promises(bundle: Path) -> None:
    done = call(bundle, "predict", str(bundle / "golden" / "00.png"), str(bundle / "golden" / "01.png"))
    assert done.returncode == 0, done.stderr
    said = read_json(bundle / bundles.MANIFEST)
    for number, answer in enumerate(lines(done)):
        assert answer["image"].endswith(f"golden/0{number}.png")
        assert list(answer["probabilities"]) == said["labels"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        positive = answer["probabilities"]["PNEUMONIA"] >= 0.45
        assert answer["decision"] == ("PNEUMONIA" if positive else "NORMAL")
        assert answer["threshold"] == 0.45
        assert answer["engine_sha256"] == said["engines"][0]["sha256"]
        assert answer["latency_ms"] > 0
        assert answer["notice"] == NOTICE
        logits = np.asarray(said["golden"][number]["engine_logits"]) / 1.5
        expected = np.exp(logits) / np.exp(logits).sum()
        assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_synthetic_data_is_said_with_every_answer_and_in_the_readme(bundle: Path) -> None:
    assert lines(call(bundle, "predict", str(bundle / "golden" / "00.png")))[0]["synthetic"] is True
    assert "synthetic images" in (bundle / "README.md").read_text()


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


def test_no_golden_vector_is_refused(bundle: Path) -> None:
    said = read_json(bundle / bundles.MANIFEST)
    images = [str(bundle / vector["image"]) for vector in said["golden"]]
    done = call(bundle, "predict", *images)
    assert done.returncode == 0, done.stdout
    assert [answer["ood_score"] for answer in lines(done)] == pytest.approx(
        [v["ood_score"] for v in said["golden"]], abs=1e-5
    )


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


def test_an_old_bundle_without_a_table_runs_and_gives_no_score(bundle: Path, tmp_path: Path) -> None:
    said = read_json(bundle / bundles.MANIFEST)
    (bundle / "ood.npy").unlink()
    said["files"] = [file for file in said["files"] if file["path"] != "ood.npy"]
    del said["ood"]
    write_json(bundle / bundles.MANIFEST, said)
    bundles.seal(bundle)
    Image.fromarray(np.zeros((50, 60), np.uint8)).save(tmp_path / "blank.png")
    done = call(bundle, "predict", str(tmp_path / "blank.png"))
    assert done.returncode == 0, done.stderr
    assert "ood_score" not in lines(done)[0]
    assert call(bundle, "selftest").returncode == 0


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


def test_selftest_passes_where_it_was_made(bundle: Path) -> None:
    done = call(bundle, "selftest", "--json")
    assert done.returncode == 0, done.stderr
    assert lines(done)[0]["selftest"] == "pass"
    assert lines(done)[0]["vectors"] == 12


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


def test_bench_prints_what_the_sample_carries(bundle: Path) -> None:
    done = call(bundle, "bench", "--seconds", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    report = lines(done)[0]
    assert report["p50_ms"] > 0
    assert report["queries"] > 0
    assert report["p90_ms"] is None or report["p90_ms"] >= report["p50_ms"]


def test_probe_info_and_help_need_no_engine(bundle: Path) -> None:
    blocked = [*HOST_RING, "onnxruntime"]
    assert "cannot be imported" in json.loads(call(bundle, "probe", blocked=blocked).stdout)["engine"]["missing"]
    assert json.loads(call(bundle, "info", blocked=blocked).stdout)["schema"] == 1
    assert "predict" in call(bundle, "--help", blocked=blocked).stdout


@pytest.mark.parametrize("package_name", ["onnxruntime", "numpy", "PIL"])
def test_a_missing_package_is_said_and_exits_3(bundle: Path, package_name: str) -> None:
    done = call(bundle, "predict", str(bundle / "golden" / "00.png"), blocked=[*HOST_RING, package_name])
    assert (done.returncode, done.stdout) == (3, "")
    assert package_name in done.stderr
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_machine_is_warned_of_until_the_selftest_has_passed_there(bundle: Path, tmp_path: Path) -> None:
    validated = read_json(bundle / bundles.MANIFEST)["validated_on"]
    reseal(bundle, validated_on={**validated, "instructions": ["avx512_vnni_of_the_future"]})
    image = str(bundle / "golden" / "00.png")
    first = call(bundle, "predict", image, home=tmp_path)
    assert "lacks avx512_vnni_of_the_future" in first.stderr
    assert "selftest" in first.stderr
    assert call(bundle, "selftest", home=tmp_path).returncode == 0
    again = call(bundle, "predict", image, home=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")


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


def test_the_runtime_is_the_same_bytes_every_time(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    write_runtime(tmp_path / "again.pyz", ["onnxruntime"])
    assert (tmp_path / "again.pyz").read_bytes() == (made[0] / bundles.RUNTIME).read_bytes()


def test_a_backend_from_outside_travels_in_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medge.backends

    folder = tmp_path / "plugins" / "backends"
    folder.mkdir(parents=True)
    source = Path(medge.backends.__path__[0], "onnxruntime.py").read_text()
    (folder / "elsewhere.py").write_text(source.replace('"onnxruntime", precision', '"elsewhere", precision'))
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(tmp_path / "plugins"))
    inputs = fake_inputs(tmp_path / "runs" / "fake", backend="elsewhere")
    package.run(PackageSection(name="outside"), inputs, tmp_path, 0)
    done = call(tmp_path / "outside", "predict", str(tmp_path / "outside" / "golden" / "00.png"))
    assert done.returncode == 0, done.stderr


def test_golden_names_and_the_manifest_tell_no_path_of_the_data(made: tuple[Path, dict[str, Any]]) -> None:
    folder = made[0]
    assert all(
        path.split("/")[1].split(".")[0].isdigit() for path in bundles.files_in(folder / "golden") if "/" in path
    )
    text = (folder / bundles.MANIFEST).read_text()
    assert "person0" not in text
    assert "secret path" not in text


def test_golden_vectors_spread_over_the_scores_and_crowd_at_the_threshold(made: tuple[Path, dict[str, Any]]) -> None:
    golden = read_json(made[0] / bundles.MANIFEST)["golden"]
    assert len({vector["sha256"] for vector in golden}) == 12
    assert all(len(vector["float_logits"]) == len(vector["engine_logits"]) == 2 for vector in golden)


def test_an_engine_that_computes_otherwise_than_validated_is_not_packaged(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path / "runs" / "fake")
    path = inputs["validate"].folder / "predictions" / "float__onnxruntime-float32-test.csv"
    table = predictions.read(path)
    table.logits[:, 0] += 1
    predictions.write(path, table)
    with pytest.raises(ToolError, match="own selftest"):
        package.run(PackageSection(), inputs, tmp_path, 0)


def test_without_a_threshold_the_most_probable_class_is_the_decision(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path / "runs" / "fake", synthetic=False)
    path = inputs["select"].folder / "choice.json"
    point = {"rule": "most probable class", "threshold": None, "temperature": 1.0, "positive": None}
    write_json(path, {**read_json(path), "operating_point": point})
    package.run(PackageSection(golden=8), inputs, tmp_path, 0)
    (answer,) = lines(call(tmp_path / "fake", "predict", str(tmp_path / "fake" / "golden" / "00.png")))
    assert answer["threshold"] is None
    assert answer["probabilities"][answer["decision"]] == max(answer["probabilities"].values())
    assert "synthetic" not in answer
    text = (tmp_path / "fake" / "README.md").read_text()
    assert "the most probable class" in text
    assert "ynthetic" not in text


@pytest.mark.parametrize(
    "arguments", [["predict"], ["dance"], [], ["predict", "--threads", "0", "x"], ["bench", "--seconds", "-1"]]
)
def test_a_wrong_command_line_exits_2_with_usage(bundle: Path, arguments: list[str]) -> None:
    done = call(bundle, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


def test_readers_that_stop_early_do_not_break_it(bundle: Path) -> None:
    image = str(bundle / "golden" / "00.png")
    command = [sys.executable, "-I", str(bundle / bundles.RUNTIME), "predict", *[image] * 400]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert "Traceback" not in errors


def test_nothing_chosen_is_nothing_packaged(tmp_path: Path) -> None:
    inputs = fake_inputs(tmp_path / "runs" / "fake")
    write_json(inputs["select"].folder / "choice.json", {"chosen": None, "operating_point": None})
    with pytest.raises(GateFailed, match="nothing to package"):
        package.run(PackageSection(), inputs, tmp_path, 0)


def test_two_runs_of_one_recipe_do_not_share_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert package.run(PackageSection(), fake_inputs(tmp_path / "second"), tmp_path / "work", 0)["bundle"] == "second"


def test_a_bundle_is_published_again_where_it_is_missing_or_spoiled(
    made: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    target = package.publish(made[0].parent, "fake")
    assert target == Path("deploy/fake")
    first = (target / bundles.MANIFEST).stat().st_ino
    package.publish(made[0].parent, "fake")
    assert (target / bundles.MANIFEST).stat().st_ino == first  # left alone
    flip(target / "engine" / "model.onnx", 100)
    package.publish(made[0].parent, "fake")
    assert "written again" in capsys.readouterr().err
    shutil.rmtree(target)
    package.publish(made[0].parent, "fake")
    assert bundles.load(target).manifest_sha256 == made[1]["manifest_sha256"]
    assert sorted(path.name for path in Path("deploy").iterdir()) == ["fake"]
