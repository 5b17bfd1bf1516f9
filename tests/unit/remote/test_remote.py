"""Jobs on a device over asyncssh's own server: what is measured, sent, kept, refused."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medge import device_book, doctor, remote, remote_profile
from medge.device_book import Device
from medge.errors import DataError, MissingError, ToolError
from medge.records import read_json
from medge.stages import profile
from tests import remote_run
from tests.remote_run import SECTION


def test_a_device_is_measured_as_this_machine_is(tmp_path: Path, device: Device) -> None:
    values, work = remote_run.measured(tmp_path)
    report = read_json(work / "latency.json")
    assert set(report["engines"]) == set(remote_run.ENGINES)
    assert 0.3 < report["ratio_to_float"]["int8/sleeper-int8"]["ratio"] < 0.9
    assert (report["device"]["name"], report["device"]["kind"]) == ("cart7", "linux")
    assert report["device"]["facts"]["cores"] >= 1
    assert report["aa_control"]["engine"] == "float/sleeper-float32"
    assert values["device"] == "cart7"
    (tmp_path / "local").mkdir()
    local = profile.run(
        SECTION.model_copy(update={"device": "local"}),
        remote_run.write_inputs(tmp_path / "run2"), tmp_path / "local", 0,
    )  # fmt: skip
    here = read_json(tmp_path / "local/latency.json")
    assert set(here) == set(report)
    assert set(local) < set(values)
    assert {p.name for p in (tmp_path / "local/raw").iterdir()} == {p.name for p in (work / "raw").iterdir()}


def test_a_receipt_says_what_ran_where_and_that_it_answered_alike(tmp_path: Path, device: Device) -> None:
    _, work = remote_run.measured(tmp_path)
    receipt = read_json(work / "receipts/int8__sleeper-int8.json")
    assert receipt["selftest"]["verdict"] == "pass"
    assert (receipt["device"], receipt["kind"], receipt["machine"]["versions"]) == ("cart7", "linux", {"sleeper": "1"})
    assert receipt["latency"]["queries"] == 60


def test_images_never_stay_and_engines_are_sent_once(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    real = remote._Job._send

    def noted(self: Any, agent: Any, file: Any, private: bool, have: int) -> None:
        if have != file.bytes:
            sent.append(file.path)
        real(self, agent, file, private, have)

    monkeypatch.setattr(remote._Job, "_send", noted)
    remote_run.measured(tmp_path)
    assert sorted(sent) == ["images.npy", "job.pyz", "options.json", "options.json"]
    assert len(remote_run.left(device)) == 3
    sent.clear()
    (tmp_path / "again").mkdir()
    remote_run.measured(tmp_path / "again")
    assert sent == ["images.npy"]


def test_nothing_stays_where_nothing_may(tmp_path: Path, device: Device) -> None:
    remote_run.measured(tmp_path, keep_on_device="nothing")
    assert device.folder is not None
    assert not Path(device.folder).exists()


def test_an_engine_that_kills_its_process_is_a_result(tmp_path: Path, device: Device) -> None:
    engines = {**remote_run.ENGINES, "int8/sleeper-int8": {"dies_after": 3}}
    values, _ = remote_run.measured(tmp_path, engines)
    assert set(values["engines"]) == {"float/sleeper-float32"}
    assert "SIGKILL" in values["failures"]["int8/sleeper-int8"]


def test_where_no_engine_runs_the_tool_is_blamed(tmp_path: Path, device: Device) -> None:
    with pytest.raises(ToolError, match="no such kernel"):
        remote_run.measured(tmp_path, {"float/sleeper-float32": {"refuse": "no such kernel"}})
    assert [name for name in remote_run.left(device) if not name.startswith("files/")] == []


def test_an_engine_package_that_is_missing_there_is_named(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "plugin/backends"
    plugin.mkdir(parents=True)
    text = (Path(__file__).parents[1] / "sleeper_plugin/backends/sleeper.py").read_text()
    lacks = '    return "the package absent is not installed. Install it: pip install absent"'
    (plugin / "absent.py").write_text(text.replace("    return None", lacks, 1))
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(plugin.parent))
    with pytest.raises(MissingError, match="package absent is not installed") as caught:
        remote_run.measured(tmp_path, {"float/absent-float32": {}})
    assert caught.value.exit_code == 3


def test_a_labelled_set_that_lies_there_is_scored_and_stays(tmp_path: Path, device: Device) -> None:
    import numpy as np

    np.save(tmp_path / "ward.npy", np.zeros((4, 8, 8, 3), np.uint8))
    rows = "".join(f"{k:064x},p{k},{k % 2}\n" for k in range(4))
    (tmp_path / "ward.csv").write_text("sha256,group,label\n" + rows)
    _, work = remote_run.measured(tmp_path, data_on_device=str(tmp_path / "ward"))
    table = (work / "predictions/int8__sleeper-int8-ward.csv").read_text().splitlines()
    assert table[0] == "sha256,group,label,logit_0,logit_1"
    assert len(table) == 5
    metrics = read_json(work / "receipts/int8__sleeper-int8.json")["metrics"]
    assert "threshold 0.5" in metrics.pop("accuracy_decided_by")
    assert metrics == {"set": "ward", "images": 4, "accuracy": 0.5, "auc": 0.5}
    with pytest.raises(Exception, match=r"There is no /nowhere\.npy on the device"):
        remote_run.measured(tmp_path / "x", data_on_device="/nowhere") if (tmp_path / "x").mkdir() is None else None


def test_a_labelled_set_of_another_shape_is_refused_once_and_with_a_fix(
    tmp_path: Path, device: Device, capfd: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    np.save(tmp_path / "ward.npy", np.zeros((1, 9, 8, 3), np.uint8))
    (tmp_path / "ward.csv").write_text("sha256,group,label\n0,p,0\n")
    with pytest.raises(DataError, match=r"ward\.npy holds uint8 \[1, 9, 8, 3\]") as caught:
        remote_run.measured(tmp_path, data_on_device=str(tmp_path / "ward"))
    assert caught.value.fix == "Make it uint8 [N, 8, 8, 3], prepared as the recipe's data stage does."
    assert "warning" not in capfd.readouterr().err


def test_a_machine_of_another_kind_is_refused_as_the_doctor_does_before_anything_is_sent(
    tmp_path: Path, device: Device
) -> None:
    device_book.remove("cart7")
    jetson = replace(device, kind="jetson")
    device_book.add(jetson)
    check = {one.name: one for one in doctor.examine(jetson)}["kind"]
    for attempt in (lambda: remote_run.measured(tmp_path), lambda: profile.fingerprint(SECTION)):
        with pytest.raises(MissingError, match="cart7: added as jetson, it looks like") as caught:
            attempt()
        assert (caught.value.message, caught.value.fix) == (f"cart7: {check.found}.", check.fix)
    assert caught.value.exit_code == 3
    assert not Path(str(device.folder)).exists()


def test_what_all_engines_refuse_alike_is_said_once(device: Device) -> None:
    one = {"message": "no such kernel.", "kind": "ToolError", "fix": "Take another."}
    error = remote_profile._nothing_measured(device, {"a": one, "b": one})
    assert (error.message, error.fix) == (
        "Not one engine could be measured on cart7: a, b: no such kernel.", "Take another.",
    )  # fmt: skip


def test_the_test_split_is_scored_there_when_asked(tmp_path: Path, device: Device) -> None:
    _, work = remote_run.measured(tmp_path, score="test")
    metrics = read_json(work / "receipts/float__sleeper-float32.json")["metrics"]
    assert (metrics["set"], metrics["images"]) == ("test", 4)


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, device: Device) -> None:
    with pytest.raises(ToolError, match="took longer than 3 s"):
        remote_run.measured(tmp_path, {"float/sleeper-float32": {"milliseconds": 500}}, limit_minutes=0.05)
    assert [name for name in remote_run.left(device) if not name.startswith("files/")] == []


def test_two_jobs_at_once_are_refused_and_the_first_goes_on(tmp_path: Path, device: Device) -> None:
    (tmp_path / "first").mkdir()
    done: list[Any] = []
    first = threading.Thread(target=lambda: done.append(remote_run.measured(tmp_path / "first", seconds=4.0)[0]))
    first.start()
    assert device.folder is not None
    until = time.monotonic() + 20
    while not (Path(device.folder) / "lock").exists() and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(MissingError, match=r"cart7: The device is busy with the job of .* \(process \d+ there"):
        remote_run.measured(tmp_path)
    first.join(60)
    assert done[0]["device"] == "cart7"
