"""From the folders of the stages to a bundle that runs by itself, and refuses when it is not what was made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medge.package_runtime import write_runtime
from medge.records import NOTICE, read_json, write_json
from medge.runtime import bundle as bundles
from medge.sections import PackageSection
from medge.stages import package
from medge.workspace import Stage
from tests.fake_stages import fake_inputs
from tests.flow.bundle_calls import HOST_RING, call, flip, lines, reseal


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


def test_no_golden_vector_is_refused(bundle: Path) -> None:
    said = read_json(bundle / bundles.MANIFEST)
    images = [str(bundle / vector["image"]) for vector in said["golden"]]
    done = call(bundle, "predict", *images)
    assert done.returncode == 0, done.stdout
    assert [answer["ood_score"] for answer in lines(done)] == pytest.approx(
        [v["ood_score"] for v in said["golden"]], abs=1e-5
    )


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


def test_selftest_passes_where_it_was_made(bundle: Path) -> None:
    done = call(bundle, "selftest", "--json")
    assert done.returncode == 0, done.stderr
    assert lines(done)[0]["selftest"] == "pass"
    assert lines(done)[0]["vectors"] == 12


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
