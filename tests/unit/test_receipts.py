"""Receipts: what they seal, and what package takes and leaves."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medge import device_book, manifest, receipts
from medge.device_book import Device
from medge.errors import GateFailed, IntegrityError, MissingError
from medge.records import read_json, write_json
from medge.runtime import bundle as bundles
from medge.sections import PackageSection, ProfileSection
from medge.stages import package, profile
from medge.workspace import Stage
from tests.fake_stages import fake_inputs
from tests.receipt_cases import chosen, give_receipt


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    return fake_inputs(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(made: dict[str, Stage], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Stage]]:
    """The run without a receipt yet."""
    monkeypatch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})
    monkeypatch.setattr(device_book, "devices", lambda: [Device("cart7", "jetson", "cart7.ward")])
    yield made
    shutil.rmtree(made["profile"].folder / receipts.FOLDER, ignore_errors=True)


def packaged(run: dict[str, Stage], work: Path, device: str | None = "cart7") -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    return package.run(PackageSection(device=device), run, work, 0)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document that holds no other; an empty object or list is one too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from leaves(item, (*path, key))
    if not inner:
        yield path


def another(value: Any) -> Any:
    """A value of the same kind where there is one."""
    if isinstance(value, str):
        return value + "0"
    if isinstance(value, dict):
        return {"more": 1}
    if isinstance(value, list):
        return [*value, "more"]
    return 1 if value is None else value + 1


def changed(document: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    holder: Any = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = another(holder[path[-1]])
    return document


def test_any_one_changed_value_of_a_receipt_is_noticed(run: dict[str, Stage]) -> None:
    path = give_receipt(run)
    document, engine = read_json(path), chosen(run)
    assert receipts.find(run["profile"].folder, engine) is not None
    found = list(leaves(document))
    assert {leaf[0] for leaf in found} == set(document)
    for leaf in found:
        write_json(path, changed(document, leaf))
        with pytest.raises(IntegrityError) as caught:
            receipts.find(run["profile"].folder, engine)
        assert "medge profile --device" in caught.value.fix, leaf


def test_a_key_more_or_less_is_noticed(run: dict[str, Stage]) -> None:
    path = give_receipt(run)
    document = read_json(path)
    for key in document:
        write_json(path, {name: value for name, value in document.items() if name != key})
        with pytest.raises(IntegrityError):
            receipts.find(run["profile"].folder, chosen(run))
    write_json(path, {**document, "more": 1})
    with pytest.raises(IntegrityError):
        receipts.find(run["profile"].folder, chosen(run))


@pytest.mark.parametrize("device", ["cart7", None])
@pytest.mark.parametrize(
    "leaf",
    [("latency", "p50_ms"), ("metrics", "auc"), ("selftest", "verdict"), ("power_mode", "name"), ("facts", "cpu")],
)
def test_package_refuses_a_receipt_with_a_changed_figure(
    run: dict[str, Stage], tmp_path: Path, leaf: tuple[str, ...], device: str | None
) -> None:
    path = give_receipt(run)
    write_json(path, changed(read_json(path), leaf))
    with pytest.raises(IntegrityError, match="what it says is not what it was sealed with") as caught:
        packaged(run, tmp_path / "work", device)
    assert caught.value.fix.startswith("Profile again: medge profile --device")


def test_a_receipt_of_an_earlier_medge_is_refused_with_what_to_do(run: dict[str, Stage], tmp_path: Path) -> None:
    path = give_receipt(run)
    document = {key: value for key, value in read_json(path).items() if key not in ("seal", "schema", "answers")}
    write_json(path, document)
    with pytest.raises(IntegrityError, match="seal the device's facts only") as caught:
        packaged(run, tmp_path / "work")
    assert caught.value.fix.startswith("Profile again: medge profile --device")


def test_a_profile_of_a_medge_with_another_form_of_receipts_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    now = profile.fingerprint(ProfileSection())
    assert profile.fingerprint(ProfileSection()) == now
    monkeypatch.setattr(receipts, "SCHEMA", 1)
    assert profile.fingerprint(ProfileSection()) != now


def test_a_receipt_under_another_engines_name_is_not_taken_for_its(run: dict[str, Stage]) -> None:
    give_receipt(run, engine="int8/onnxruntime-int8")
    folder = run["profile"].folder / receipts.FOLDER
    (folder / "int8__onnxruntime-int8.json").rename(folder / receipts.file_name(chosen(run).name))
    assert receipts.find(run["profile"].folder, chosen(run)) is None


def test_of_an_engine_that_was_built_there_the_trial_decides_and_a_failed_selftest_is_said(
    run: dict[str, Stage],
) -> None:
    give_receipt(
        run, answers={"validation": "1" * 64, "test": "2" * 64}, selftest={"verdict": "fail", "reason": "logits differ"}
    )
    receipt = receipts.find(run["profile"].folder, chosen(run))
    receipts.refuse_without(receipt, device="cart7", engine=chosen(run), judged_there=True)
    assert receipts.validated_by(receipt, judged_there=True) == (
        "select judged what it answered on cart7, which built it, to every validation and test image (18 test images); "
        "its selftest there, against its graph on the host: fail: logits differ"
    )


class TestWhatPackageTakes:
    def test_a_receipt_whose_selftest_passed_names_the_device(self, run: dict[str, Stage], tmp_path: Path) -> None:
        give_receipt(run)
        values = packaged(run, tmp_path / "work", None)
        assert values["validated_on"] == "cart7"
        assert values["validated_by"].endswith("its selftest on cart7 passed (16 images)")
        bundle = bundles.load(tmp_path / "work" / values["bundle"])
        assert bundle.manifest["validated_on"]["by"] == values["validated_by"]
        assert f"What validates it: {values['validated_by']}." in (bundle.folder / "README.md").read_text()

    @pytest.mark.parametrize("verdict", ["fail", "not run"])
    def test_a_device_whose_selftest_did_not_pass_is_left_out_and_told(
        self, run: dict[str, Stage], tmp_path: Path, capsys: pytest.CaptureFixture[str], verdict: str
    ) -> None:
        give_receipt(run, selftest={"verdict": verdict, "reason": "logits differ by 0.9"})
        values = packaged(run, tmp_path / "work", None)
        assert values["validated_on"] is None
        bundle = bundles.load(tmp_path / "work" / values["bundle"])
        assert (bundle.manifest["validated_on"]["device"], bundle.manifest["validated_on"]["receipt"]) == (
            "local",
            None,
        )
        assert bundle.manifest["receipts"] == []
        assert not (bundle.folder / receipts.FOLDER).exists()
        said = " ".join(capsys.readouterr().err.split())
        assert "warning: the bundle is not called validated on cart7" in said
        assert f"did not pass its selftest on cart7 ({verdict}): logits differ by 0.9" in said

    def test_without_a_receipt_a_bundle_for_a_device_is_refused_with_the_command_that_makes_one(
        self, run: dict[str, Stage], tmp_path: Path
    ) -> None:
        with pytest.raises(GateFailed, match="has no receipt") as caught:
            packaged(run, tmp_path / "work")
        assert caught.value.fix.startswith("medge profile --device cart7")

    def test_a_device_that_nobody_knows_is_told_before_a_receipt_it_lacks(
        self, run: dict[str, Stage], tmp_path: Path
    ) -> None:
        give_receipt(run)
        with pytest.raises(MissingError, match="There is no device 'cart'") as caught:
            packaged(run, tmp_path / "work", "cart")
        assert "cart7" in caught.value.fix

    def test_an_engine_that_was_built_again_needs_another(self, run: dict[str, Stage], tmp_path: Path) -> None:
        give_receipt(run, engine_sha256="0" * 64)
        with pytest.raises(GateFailed, match="has no receipt: it was not run on cart7 as it is now"):
            packaged(run, tmp_path / "work")

    def test_that_of_another_device_does_not_count(self, run: dict[str, Stage], tmp_path: Path) -> None:
        give_receipt(run, device="cart8")
        with pytest.raises(GateFailed, match="is of cart8, not of cart7"):
            packaged(run, tmp_path / "work")

    def test_a_failed_selftest_there_is_refused(self, run: dict[str, Stage], tmp_path: Path) -> None:
        give_receipt(run, selftest={"verdict": "fail", "reason": "logits differ by 0.9"})
        with pytest.raises(GateFailed, match=r"did not pass its selftest on cart7 \(fail\): logits differ by 0\.9"):
            packaged(run, tmp_path / "work")
