"""An engine that a device built: judged by its answers there, chosen by select, shipped with its receipt."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medge import built, device_book, device_scores, device_selftest, manifest, predictions, receipts
from medge.errors import GateFailed, IntegrityError
from medge.job.spec import Labelled, Spec
from medge.records import File, read_json, sha256_of_file, sha256_of_json, to_json, write_json
from medge.report import gather
from medge.report import stress as stress_report
from medge.runtime import bundle as bundles
from medge.sections import PackageSection, ProfileSection, SelectSection, StressSection, ValidateSection
from medge.stages import package, profile, select, stress
from medge.trial import judge
from medge.workspace import Stage
from tests.fake_stages import fake_inputs
from tests.ssh_server import InProcess

NAME = "float/kiln-float32"
PROTOCOL = ValidateSection(bootstrap=200)
REFERENCE = Path(__file__).resolve().parents[1] / "plugins/backends/reference.py"
KILN = """
import os
def missing(precision):
    return None if os.environ.get("KILN") else "Missing: a kiln."
def versions():
    return {"kiln": os.environ["KILN"]}
class _Wrong:
    def __init__(self, session):
        self._session = session
    def run(self, images):
        logits, features = self._session.run(images)
        return -logits, features
_right = start
def start(folder, files, *, precision, threads):
    session = _right(folder, files, precision=precision, threads=threads)
    return _Wrong(session) if os.environ.get("KILN") == "wrong" else session
"""


@dataclass(frozen=True)
class Measured:
    """A run with its profile stage made on a device that has a kiln."""

    run: dict[str, Stage]

    def then(self, name: str, module: Any, section: Any, work: Path) -> Measured:
        work.mkdir(parents=True)
        values = module.run(section, self.run, work, 0)
        return Measured({**self.run, name: Stage(name, work, "k", name.ljust(64, "0"), values, 0.0, {}, False)})

    def folder(self, name: str) -> Path:
        return self.run[name].folder

    def values(self, name: str) -> Any:
        return self.run[name].values


def measured(folder: Path, *, score: str, kiln: str = "1") -> Measured:
    with pytest.MonkeyPatch.context() as patch:
        plugin = folder / "plugin/backends"
        plugin.mkdir(parents=True)
        (plugin / "kiln.py").write_text(REFERENCE.read_text() + KILN)
        patch.setenv("MEDGE_PLUGIN_PATH", str(plugin.parent))
        patch.setenv("MEDGE_DEVICES", str(folder / "devices.json"))
        patch.setenv("HOME", str(folder / "home"))
        server = InProcess(folder / "server", environment={"KILN": kiln, "MEDGE_PLUGIN_PATH": ""})
        device_book.add(replace(server.device, python=sys.executable, folder=str(folder / "device")))
        run = fake_inputs(folder / "run", stressed=False)
        _judge(run)
        kept = run["compile"].folder / NAME
        kept.mkdir(parents=True)
        shutil.copyfile(folder / "run/means.onnx", kept / "graph.onnx")
        write_json(kept / "skipped.json", {"variant": "float", "backend": "kiln", "precision": "float32"})
        asked = {"device": "cart7", "blocks": 12, "seconds": 0.1, "warmup_seconds": 0.0, "threads": 1, "score": score}
        section = ProfileSection.model_validate(asked)
        try:
            return Measured(run).then("profile", profile, section, folder / "6-profile")
        finally:
            server.stop()


def _judge(run: dict[str, Stage]) -> None:
    """The trials of the engine of this host, as validate would have left them."""
    tables = run["validate"].folder / "predictions"
    name = "float/onnxruntime-float32"

    def table(stem: str, split: str) -> predictions.Predictions:
        return predictions.read(tables / f"{stem}-{split}.csv")

    trials = {
        split: to_json(
            judge(
                table("float", "validation"), table(name.replace("/", "__"), "validation"), table("float", split),
                table(name.replace("/", "__"), split), section=PROTOCOL, seed=0,
            )
        )
        for split in ("validation", "test")
    }  # fmt: skip
    protocol = PROTOCOL.model_dump(mode="json")
    about = {"labels": ["NORMAL", "PNEUMONIA"], "protocol": protocol, "protocol_sha256": sha256_of_json(protocol)}
    write_json(run["validate"].folder / "trials.json", {**about, "engines": {name: trials}})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measured(tmp_path_factory.mktemp("scored"), score="both")


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kiln is known here too, but not to be had."""
    folder = tmp_path_factory.mktemp("plugin") / "backends"
    folder.mkdir()
    (folder / "kiln.py").write_text(REFERENCE.read_text() + KILN)
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(folder.parent))
    monkeypatch.delenv("KILN", raising=False)
    monkeypatch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})


def chosen(scored: Measured, folder: Path, engine: str | None = NAME) -> Measured:
    return scored.then("select", select, SelectSection(engine=engine, accept_inconclusive=True), folder / "7-select")


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
    copy = _copied(scored, tmp_path)
    (copy.folder("profile") / "receipts/float__kiln-float32.json").unlink()
    after = chosen(copy, tmp_path, engine=None)
    (one,) = read_json(after.folder("select") / "choice.json")["built_on"]["not_candidates"]
    assert one["reason"] == "it has no receipt: medge profile --device cart7"


def test_answers_that_were_changed_since_the_receipt_are_refused(scored: Measured, tmp_path: Path) -> None:
    copy = _copied(scored, tmp_path)
    after = chosen(copy, tmp_path / "before").then("stress", stress, StressSection(), tmp_path / "8-stress")
    table = copy.folder("profile") / "predictions/float__kiln-float32-test.csv"
    table.write_text(table.read_text().replace("0.1", "0.2", 1))
    with pytest.raises(IntegrityError, match=r"test\.csv is not what float/kiln-float32 answered on cart7"):
        chosen(copy, tmp_path / "after")
    with pytest.raises(IntegrityError, match=r"test\.csv is not what float/kiln-float32 answered on cart7") as caught:
        after.then("package", package, PackageSection(), tmp_path / "9-package")
    assert caught.value.fix == "Profile again: medge profile --device cart7 --set profile.score=both"


def test_a_receipt_without_scores_validates_no_engine_that_was_built_there(scored: Measured, tmp_path: Path) -> None:
    copy = _copied(scored, tmp_path)
    after = chosen(copy, tmp_path).then("stress", stress, StressSection(), tmp_path / "8-stress")
    (engine, _), folder = built.load_all(copy.folder("profile"))[0], copy.folder("profile")
    receipt = receipts.find(folder, engine)
    assert receipt is not None
    receipts.write_all(folder, [receipts.sealed(replace(receipt, answers={}))])
    with pytest.raises(GateFailed, match="not scored there: nothing validates it") as caught:
        after.then("package", package, PackageSection(), tmp_path / "9-package")
    assert caught.value.fix.startswith("medge profile --device cart7 --set profile.score=both;")


def test_stress_says_what_it_did_not_try_since_only_the_device_can_run_it(
    scored: Measured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = chosen(scored, tmp_path).then("stress", stress, StressSection(), tmp_path / "8-stress")
    document = read_json(after.folder("stress") / "stress.json")
    assert (document["corruptions"], document["ood"], document["saliency"]) == (None, None, [])
    assert (
        document["not_run"]
        == after.values("stress")["not_run"]
        == {
            "what": ["corrupted images", "the refusal of unlike images", "pictures of where the model looks"],
            "why": f"{NAME} was built on cart7 and runs there only",
            "so": " So the bundle judges any picture.",
        }
    )
    said = " ".join(capsys.readouterr().err.split())
    assert f"{NAME} was built on cart7 and runs there only. Not tried: corrupted images; the refusal of unlike" in said


def test_what_an_earlier_medge_wrote_of_it_is_read_and_said_once() -> None:
    earlier: Any = SimpleNamespace(stress={"not_run": f"{NAME} was built on cart7 and runs there only"})
    said = stress_report.not_run(earlier)
    assert said == f"Not tried: what the recipe asks of stress. {NAME} was built on cart7 and runs there only."
    nothing: Any = SimpleNamespace(stress={})
    assert stress_report.not_run(nothing) is None


def test_stress_does_not_claim_to_have_left_what_was_not_asked_for(scored: Measured, tmp_path: Path) -> None:
    section = StressSection(ood=None, saliency=0)
    after = chosen(scored, tmp_path).then("stress", stress, section, tmp_path / "8-stress")
    assert after.values("stress")["not_run"]["what"] == ["corrupted images"]


def shipped(run: Measured, folder: Path, **section: Any) -> Measured:
    after = chosen(run, folder).then("stress", stress, StressSection(), folder / "8-stress")
    return after.then("package", package, PackageSection(**section), folder / "9-package")


def test_the_bundle_carries_the_plan_and_its_receipt_and_says_that_its_selftest_was_not_run(
    scored: Measured, tmp_path: Path
) -> None:
    values = shipped(scored, tmp_path).values("package")
    assert values["validated_on"] == "cart7"
    assert values["selftest"].startswith("not run")
    bundle = bundles.load(tmp_path / "9-package" / values["bundle"])
    assert bundle.engine.name == NAME
    receipt = read_json(bundle.folder / bundle.manifest["receipts"][0]["path"])
    assert receipt["engine_sha256"] == bundle.engine.sha256
    (plan,) = bundle.engine.files
    assert sha256_of_file(bundle.engine_folder / plan.path) == plan.sha256
    assert bundle.engine.onnx_sha256 == sha256_of_file(scored.folder("compile") / NAME / "graph.onnx")
    assert bundle.manifest["engines"][0]["requires"].startswith("onnxruntime==")
    assert bundle.manifest["validated_on"]["device"] == "cart7"
    images = receipt["metrics"]["images"]
    assert (
        bundle.manifest["validated_on"]["by"]
        == values["validated_by"]
        == (
            "select judged what it answered on cart7, which built it, to every validation and test image "
            f"({images} test images); its selftest there, against its graph on the host: pass"
        )
    )
    assert bundle.manifest["metrics"]["split"] == "test"


def test_its_golden_answers_are_those_of_the_device(scored: Measured, tmp_path: Path) -> None:
    values = shipped(scored, tmp_path).values("package")
    table = predictions.read(scored.folder("profile") / "predictions/float__kiln-float32-test.csv")
    there = {tuple(row) for row in table.logits.tolist()}
    vectors = bundles.load(tmp_path / "9-package" / values["bundle"]).manifest["golden"]
    assert len(vectors) == 12
    assert all(tuple(vector["engine_logits"]) in there for vector in vectors)


@pytest.mark.parametrize("device", [None, "cart7", "linux"])
def test_packaging_is_refused_where_the_receipt_is_missing(
    scored: Measured, tmp_path: Path, device: str | None
) -> None:
    after = chosen(_copied(scored, tmp_path), tmp_path).then("stress", stress, StressSection(), tmp_path / "8-stress")
    (after.folder("profile") / "receipts/float__kiln-float32.json").unlink()
    with pytest.raises(GateFailed, match="has no receipt"):
        after.then("package", package, PackageSection(device=device), tmp_path / "9-package")


def test_a_bundle_for_another_device_is_refused(scored: Measured, tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="is of cart7, not of cart8"):
        shipped(scored, tmp_path, device="cart8")


def test_a_plan_that_was_changed_since_is_refused(scored: Measured, tmp_path: Path) -> None:
    copy = _copied(scored, tmp_path)
    (copy.folder("profile") / "engines" / NAME / "reference.onnx").write_bytes(b"another")
    with pytest.raises(IntegrityError, match=r"reference\.onnx is not the recorded file"):
        shipped(copy, tmp_path)


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


def _copied(scored: Measured, folder: Path) -> Measured:
    """The run with a profile stage of its own, to be changed."""
    copy = folder / "6-profile"
    shutil.copytree(scored.folder("profile"), copy)
    return Measured({**scored.run, "profile": replace(scored.run["profile"], folder=copy)})
