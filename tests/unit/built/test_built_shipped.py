"""An engine that a device built, chosen: what stress leaves, and the bundle that ships it with its receipt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medge import device_book, predictions
from medge.device_book import Device
from medge.errors import GateFailed, IntegrityError
from medge.records import read_json, sha256_of_file
from medge.report import stress as stress_report
from medge.runtime import bundle as bundles
from medge.sections import PackageSection, StressSection
from medge.stages import package, stress
from tests.kiln import NAME, Measured, chosen, copied


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two carts in the book; the runs were measured on the first."""
    carts = [Device("cart7", "linux", "cart7.ward"), Device("cart8", "jetson", "cart8.ward")]
    monkeypatch.setattr(device_book, "devices", lambda: carts)


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
            "what": [
                "corrupted images",
                "the refusal of unlike images (the bundle judges any picture)",
                "pictures of where the model looks",
            ],
            "why": f"{NAME} was built on cart7 and runs there only",
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
    after = chosen(copied(scored, tmp_path), tmp_path).then("stress", stress, StressSection(), tmp_path / "8-stress")
    (after.folder("profile") / "receipts/float__kiln-float32.json").unlink()
    with pytest.raises(GateFailed, match="has no receipt"):
        after.then("package", package, PackageSection(device=device), tmp_path / "9-package")


def test_a_bundle_for_another_device_is_refused(scored: Measured, tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="is of cart7, not of cart8"):
        shipped(scored, tmp_path, device="cart8")


def test_a_plan_that_was_changed_since_is_refused(scored: Measured, tmp_path: Path) -> None:
    copy = copied(scored, tmp_path)
    (copy.folder("profile") / "engines" / NAME / "reference.onnx").write_bytes(b"another")
    with pytest.raises(IntegrityError, match=r"reference\.onnx is not the recorded file"):
        shipped(copy, tmp_path)
