"""An engine that a device built: judged by its answers there, and a candidate of select."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medge import built, device_scores, device_selftest, receipts
from medge.errors import GateFailed, IntegrityError
from medge.job.spec import Labelled, Spec
from medge.records import File, read_json, sha256_of_file
from medge.report import gather
from medge.sections import PackageSection, StressSection
from medge.stages import package, stress
from tests.kiln import NAME, Measured, chosen, copied, measured


def test_it_is_a_candidate_with_the_verdict_of_what_it_answered_there(scored: Measured, tmp_path: Path) -> None:
    after = chosen(scored, tmp_path, engine=None)
    choice = read_json(after.folder("select") / "choice.json")
    rows = {row["name"]: row for row in choice["candidates"]}
    assert set(rows) == {NAME, "float/onnxruntime-float32"}
    latency = read_json(after.folder("profile") / "latency.json")["engines"][NAME]
    assert rows[NAME]["p50_ms"] == latency["p50_ms"]
    assert choice["built_on"] == {"device": "cart7", "engines": [NAME], "not_candidates": []}
    trials = read_json(after.folder("select") / built.FILE)["engines"][NAME]
    assert rows[NAME]["validation"] == trials["validation"]["verdict"]
    assert trials["test"]["flips"]["count"] == 0
    receipt = read_json(after.folder("profile") / "receipts/float__kiln-float32.json")
    assert receipt["metrics"]["set"] == "test"
    assert receipt["metrics"]["images"] == sum(trials["test"]["images"].values())


def test_its_selftest_holds_its_answers_against_its_graph_and_is_in_the_receipt(scored: Measured) -> None:
    folder = scored.folder("profile") / "receipts"
    selftest = read_json(folder / "float__kiln-float32.json")["selftest"]
    assert (selftest["verdict"], selftest["vectors"], selftest["changed_decisions"]) == ("pass", 16, 0)
    assert selftest["against"] == "its graph, by ONNX Runtime on this host"
    assert selftest["largest_difference"] < 1e-3
    own = read_json(folder / "float__onnxruntime-float32.json")["selftest"]
    assert (own["verdict"], own["against"]) == ("pass", "the same engine on this host")


def test_without_its_graph_its_selftest_is_not_run_and_says_why(scored: Measured, tmp_path: Path) -> None:
    (built_there,) = [engine for engine, _ in built.load_all(scored.folder("profile"))]
    spec = spec_of(Labelled("both"))
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((2, 32, 32, 3), np.uint8))
    found = device_selftest.run(
        spec, [built_there], {NAME: [[0.0, 1.0]] * 2}, images=images, compiled=tmp_path, scratch=tmp_path
    )
    assert found[NAME]["verdict"] == "not run"
    assert found[NAME]["reason"].endswith("the graph is not the one that was built there")


def test_an_engine_that_answers_otherwise_there_fails_selftest_and_gate_and_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured(tmp_path, score="both", kiln="wrong")
    selftest = read_json(run.folder("profile") / "receipts/float__kiln-float32.json")["selftest"]
    assert (selftest["verdict"], selftest["reason"][:16]) == ("fail", "logits differ by")
    said = " ".join(capsys.readouterr().err.split())
    assert f"{NAME} fails its selftest on cart7, against its graph, by ONNX Runtime on this host: logits differ" in said
    after = chosen(run, tmp_path, engine=None)
    choice = read_json(after.folder("select") / "choice.json")
    (row,) = [row for row in choice["candidates"] if row["name"] == NAME]
    assert (row["validation"], row["kept"]) == ("fail", False)
    assert choice["chosen"] == "float/onnxruntime-float32"


def test_without_its_answers_it_is_no_candidate_and_the_sentence_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = chosen(measured(tmp_path, score="none"), tmp_path, engine=None)
    choice = read_json(after.folder("select") / "choice.json")
    assert [row["name"] for row in choice["candidates"]] == ["float/onnxruntime-float32"]
    (one,) = choice["built_on"]["not_candidates"]
    assert one["name"] == NAME
    assert one["p50_ms"] > 0
    assert one["reason"].endswith("medge profile --device cart7 --set profile.score=both")
    assert "was built on cart7 and takes" in " ".join(capsys.readouterr().err.split())


def test_without_its_receipt_it_is_no_candidate(scored: Measured, tmp_path: Path) -> None:
    copy = copied(scored, tmp_path)
    (copy.folder("profile") / "receipts/float__kiln-float32.json").unlink()
    after = chosen(copy, tmp_path, engine=None)
    (one,) = read_json(after.folder("select") / "choice.json")["built_on"]["not_candidates"]
    assert one["reason"] == "it has no receipt: medge profile --device cart7"


def test_answers_that_were_changed_since_the_receipt_are_refused(scored: Measured, tmp_path: Path) -> None:
    copy = copied(scored, tmp_path)
    after = chosen(copy, tmp_path / "before").then("stress", stress, StressSection(), tmp_path / "8-stress")
    table = copy.folder("profile") / "predictions/float__kiln-float32-test.csv"
    table.write_text(table.read_text().replace("0.1", "0.2", 1))
    with pytest.raises(IntegrityError, match=r"test\.csv is not what float/kiln-float32 answered on cart7"):
        chosen(copy, tmp_path / "after")
    with pytest.raises(IntegrityError, match=r"test\.csv is not what float/kiln-float32 answered on cart7") as caught:
        after.then("package", package, PackageSection(), tmp_path / "9-package")
    assert caught.value.fix == "Profile again: medge profile --device cart7 --set profile.score=both"


def test_a_receipt_without_scores_validates_no_engine_that_was_built_there(scored: Measured, tmp_path: Path) -> None:
    copy = copied(scored, tmp_path)
    after = chosen(copy, tmp_path).then("stress", stress, StressSection(), tmp_path / "8-stress")
    (engine, _), folder = built.load_all(copy.folder("profile"))[0], copy.folder("profile")
    receipt = receipts.find(folder, engine)
    assert receipt is not None
    receipts.write_all(folder, [receipts.sealed(replace(receipt, answers={}))])
    with pytest.raises(GateFailed, match="not scored there: nothing validates it") as caught:
        after.then("package", package, PackageSection(), tmp_path / "9-package")
    assert caught.value.fix.startswith("medge profile --device cart7 --set profile.score=both;")


def test_answers_that_are_not_of_this_runs_images_are_refused(scored: Measured) -> None:
    spec = spec_of(Labelled("both"))
    score = {"set": "both", "sha256": ["0" * 64] * 36, "group": [""] * 36, "label": [0] * 36}
    with pytest.raises(IntegrityError, match="are not of this run's validation images"):
        device_scores.tables(spec, score, np.zeros((36, 2)), scored.run)


def spec_of(labelled: Labelled) -> Spec:
    return Spec(
        id="a", device="cart7", kind="linux", medge="", seed=0, threads=1, engines=(), graphs=(),
        images=File("images.npy", "", 0), labelled=labelled, bench=None, limit_seconds=1.0,
    )  # fmt: skip


def test_the_report_reads_its_tables_and_says_where_it_was_built(scored: Measured, tmp_path: Path) -> None:
    after = chosen(scored, tmp_path)
    outputs = [
        {"path": path.relative_to(scored.folder("profile")).as_posix(), "sha256": sha256_of_file(path)}
        for path in scored.folder("profile").rglob("*.csv")
    ]
    found = gather.Found(
        run=tmp_path, recipe={}, records={"profile": {"stage": "profile", "outputs": outputs}},
        folders={name: stage.folder for name, stage in after.run.items()},
        trials=read_json(after.folder("validate") / "trials.json"),
        built=read_json(after.folder("select") / built.FILE),
    )  # fmt: skip
    assert list(found.judged) == ["float/onnxruntime-float32", NAME]
    judged = found.judged[NAME]["test"]["images"]
    assert len(found.table(NAME, "test")) == sum(judged.values())
    assert found.named(NAME) == f"{NAME} (built on cart7)"
    assert found.named("float/onnxruntime-float32") == "float/onnxruntime-float32"
