"""Recording a device and asking it: the doctor, the host key, a device that does not answer or is another one."""

from __future__ import annotations

import json
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from medge import conversation, device_book, device_commands, doctor, link, link_errors, remote_profile
from medge.device_book import Device
from medge.devices import local
from medge.errors import MissingError
from medge.stages import profile
from tests import remote_run
from tests.remote_run import SECTION
from tests.ssh_server import InProcess


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(MissingError) as caught:
        link.refuse_missing_package()
    assert caught.value.fix == "Install it: pip install 'medge[ssh]'"


def test_the_doctor_finds_a_device_well(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {check.name: check for check in doctor.examine(device)}
    assert [name for name, check in checks.items() if not check.ok] == []
    assert {"link", "python", "numpy", "Pillow", "engines", "folder", "clock", "kind"} == set(checks)
    assert remote_run.left(device) == []


def test_the_doctor_notes_in_the_book_what_the_device_is(device: Device) -> None:
    assert device_book.find("cart7").facts is None
    doctor.examine(device)
    facts = device_book.find("cart7").facts
    assert facts is not None
    assert facts["cpu"] == local.facts()["cpu"]


def test_the_doctor_says_who_keeps_the_device_busy_and_lists_no_trial_of_its_own(device: Device) -> None:
    with conversation.connected(device) as agent:
        agent.ask("open", job="a", who="nurse on ward", grace_seconds=30, keep=True)
        checks = {check.name: check for check in doctor.examine(device)}
        agent.ask("close")
    assert not checks["job"].ok
    assert checks["job"].found.startswith("busy with the job of nurse on ward (process ")
    assert checks["folder"].found.endswith("MB free")


def test_the_doctor_refuses_a_folder_of_the_users_and_clean_leaves_it(device: Device) -> None:
    folder = Path(str(device.folder))
    (folder / "files/scans").mkdir(parents=True)
    checks = {check.name: check for check in doctor.examine(device)}
    assert "holds what medge did not put there (files)" in checks["folder"].found
    assert f"medge devices remove cart7; medge devices add cart7 {device.url}" in checks["folder"].fix
    outcome = device_commands.clean("cart7")
    assert (outcome.document["removed"], outcome.document["left"]) == ([], ["files"])
    assert "Nothing was removed" in device_commands._cleaned("cart7", str(folder), outcome.document)
    assert (folder / "files/scans").is_dir()


class TestTheHintAtAnotherPython:
    def fixes(self, device: Device, python: Path) -> dict[str, str]:
        """The fix of each problem where this is the device's python."""
        return {check.name: check.fix for check in doctor.examine(replace(device, python=str(python))) if not check.ok}

    def test_where_there_is_no_such_python(self, device: Device) -> None:
        (check,) = doctor.examine(replace(device, python="/nowhere/python3"))
        assert check.fix.startswith("Install python3 there, or name the one that is there: medge devices remove cart7;")
        assert check.fix.endswith("--python PATH")

    def test_where_it_is_too_old(self, device: Device, tmp_path: Path) -> None:
        (tmp_path / "python").write_text("#!/bin/sh\necho 'MEDGE-AGENT 3.6.9'")
        (tmp_path / "python").chmod(0o755)
        fixes = self.fixes(device, tmp_path / "python")
        assert fixes["link"].startswith("Name a newer one that is there")
        assert fixes["link"].endswith("--python PATH")

    def test_where_it_lacks_packages(self, device: Device, tmp_path: Path) -> None:
        venv.create(tmp_path / "bare", symlinks=True)
        fixes = self.fixes(device, tmp_path / "bare/bin/python")
        assert set(fixes) == {"numpy", "Pillow", "engines"}
        for name, fix in fixes.items():
            assert "-m pip install" in fix, name
            assert "or name an interpreter there that has" in fix, name
            assert fix.endswith("--python PATH"), name


def test_the_doctor_sees_a_clock_that_is_off(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    check = doctor._clock(-7200.0)
    assert not check.ok
    assert "timedatectl" in check.fix


def test_a_device_that_does_not_answer_is_taken_for_what_it_was(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = profile.fingerprint(SECTION)
    silent = device_book.find("cart7")
    assert silent.facts is not None
    monkeypatch.setattr(
        conversation, "connected", lambda _: (_ for _ in ()).throw(link_errors.LinkCut("cut", fix=""))
    )  # fmt: skip
    assert profile.fingerprint(SECTION) == before
    with pytest.raises(MissingError):
        remote_profile.facts_of(replace(silent, facts=None))


def test_another_machine_is_measured_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    here = profile.fingerprint(SECTION)
    monkeypatch.setattr(remote_profile, "facts_of", lambda _: {"cpu": "another"})
    assert profile.fingerprint(SECTION) != here


def test_devices_add_records_the_key_after_showing_its_fingerprint(
    server: InProcess, device: Device, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from medge import cli

    device_book.remove("cart7")
    address = f"ssh://nurse@127.0.0.1:{server.device.port}"
    asked = ["devices", "add", "cart7", address, "--identity", str(server.device.identity), "--json"]
    refused = CliRunner().invoke(cli.app, asked)
    assert "Nothing was recorded" in str(refused.exception)
    assert device_book.devices() == []
    done = json.loads(CliRunner().invoke(cli.app, [*asked, "--yes"]).stdout)
    assert done["fingerprint"].startswith("SHA256:")
    assert device_book.find("cart7").host_key == server.device.host_key


def test_what_is_started_on_a_device_has_the_telemetry_of_engines_switched_off(device: Device) -> None:
    with conversation.connected(device) as agent:
        said = agent.run("{python}", "-c", "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])")
    assert said["out"].strip() == "1"
