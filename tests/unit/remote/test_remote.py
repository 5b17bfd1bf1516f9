"""Jobs on a device over asyncssh's own server: what is measured, sent, kept, refused."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medge import conversation, device_book, doctor, link, link_errors, remote, remote_profile
from medge.device_book import Device
from medge.errors import DataError, MissingError, ToolError
from medge.records import read_json
from medge.stages import profile
from tests import remote_run
from tests.remote_run import SECTION
from tests.ssh_server import Cutter, InProcess, free_port


def measured(tmp_path: Path, engines: Any = None, **changes: Any) -> tuple[dict[str, Any], Path]:
    inputs = remote_run.write_inputs(tmp_path / "run", engines)
    work = tmp_path / "work"
    work.mkdir()
    return profile.run(SECTION.model_copy(update=changes), inputs, work, 0), work


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_a_device_is_measured_as_this_machine_is(tmp_path: Path, device: Device) -> None:
    values, work = measured(tmp_path)
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
    _, work = measured(tmp_path)
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
    measured(tmp_path)
    assert sorted(sent) == ["images.npy", "job.pyz", "options.json", "options.json"]
    assert len(remote_run.left(device)) == 3
    sent.clear()
    (tmp_path / "again").mkdir()
    measured(tmp_path / "again")
    assert sent == ["images.npy"]


def test_nothing_stays_where_nothing_may(tmp_path: Path, device: Device) -> None:
    measured(tmp_path, keep_on_device="nothing")
    assert device.folder is not None
    assert not Path(device.folder).exists()


def test_an_engine_that_kills_its_process_is_a_result(tmp_path: Path, device: Device) -> None:
    engines = {**remote_run.ENGINES, "int8/sleeper-int8": {"dies_after": 3}}
    values, _ = measured(tmp_path, engines)
    assert set(values["engines"]) == {"float/sleeper-float32"}
    assert "SIGKILL" in values["failures"]["int8/sleeper-int8"]


def test_where_no_engine_runs_the_tool_is_blamed(tmp_path: Path, device: Device) -> None:
    with pytest.raises(ToolError, match="no such kernel"):
        measured(tmp_path, {"float/sleeper-float32": {"refuse": "no such kernel"}})
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
        measured(tmp_path, {"float/absent-float32": {}})
    assert caught.value.exit_code == 3


def test_a_labelled_set_that_lies_there_is_scored_and_stays(tmp_path: Path, device: Device) -> None:
    import numpy as np

    np.save(tmp_path / "ward.npy", np.zeros((4, 8, 8, 3), np.uint8))
    rows = "".join(f"{k:064x},p{k},{k % 2}\n" for k in range(4))
    (tmp_path / "ward.csv").write_text("sha256,group,label\n" + rows)
    _, work = measured(tmp_path, data_on_device=str(tmp_path / "ward"))
    table = (work / "predictions/int8__sleeper-int8-ward.csv").read_text().splitlines()
    assert table[0] == "sha256,group,label,logit_0,logit_1"
    assert len(table) == 5
    metrics = read_json(work / "receipts/int8__sleeper-int8.json")["metrics"]
    assert "threshold 0.5" in metrics.pop("accuracy_decided_by")
    assert metrics == {"set": "ward", "images": 4, "accuracy": 0.5, "auc": 0.5}
    with pytest.raises(Exception, match=r"There is no /nowhere\.npy on the device"):
        measured(tmp_path / "x", data_on_device="/nowhere") if (tmp_path / "x").mkdir() is None else None


def test_a_labelled_set_of_another_shape_is_refused_once_and_with_a_fix(
    tmp_path: Path, device: Device, capfd: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    np.save(tmp_path / "ward.npy", np.zeros((1, 9, 8, 3), np.uint8))
    (tmp_path / "ward.csv").write_text("sha256,group,label\n0,p,0\n")
    with pytest.raises(DataError, match=r"ward\.npy holds uint8 \[1, 9, 8, 3\]") as caught:
        measured(tmp_path, data_on_device=str(tmp_path / "ward"))
    assert caught.value.fix == "Make it uint8 [N, 8, 8, 3], prepared as the recipe's data stage does."
    assert "warning" not in capfd.readouterr().err


def test_a_machine_of_another_kind_is_refused_as_the_doctor_does_before_anything_is_sent(
    tmp_path: Path, device: Device
) -> None:
    device_book.remove("cart7")
    jetson = replace(device, kind="jetson")
    device_book.add(jetson)
    check = {one.name: one for one in doctor.examine(jetson)}["kind"]
    for attempt in (lambda: measured(tmp_path), lambda: profile.fingerprint(SECTION)):
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


def test_ctrl_c_ends_the_job_there_before_the_command_ends(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def interrupted(event: dict[str, Any]) -> None:
        told.append(str(event.get("text", event["step"])))
        if len(told) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(tmp_path, device, interrupted)
    assert told[-1] == "ends the job and puts back what it changed"
    assert ended(device)


def test_ctrl_c_in_the_middle_of_a_file_that_comes_ends_the_job_too(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = link.Link.read

    def interrupted(self: Any, count: int, *, seconds: float) -> bytes:
        real(self, count // 2, seconds=seconds)
        monkeypatch.setattr(link.Link, "read", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(link.Link, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_job(tmp_path, device, lambda _: None)
    assert ended(device)


def run_job(tmp_path: Path, device: Device, told: Any) -> None:
    made = made_job(tmp_path, device)
    fetched = tmp_path / "fetched"
    remote.run_job(device, made.spec, files=made.files, archive=made.archive, fetched=fetched, told=told, keep=False)


def ended(device: Device) -> bool:
    """No job holds the device's folder, and none left anything: at once, not after the host's silence."""
    return not Path(str(device.folder)).exists()


def test_an_answer_that_ctrl_c_left_on_the_way_is_not_taken_for_the_next_one(device: Device, tmp_path: Path) -> None:
    made = made_job(tmp_path, device)
    with conversation.connected(device) as agent:
        agent.ask("open", job=made.spec.id, who="tester", grace_seconds=30, keep=False)
        agent._link.write(b'{"command": "ask", "argv": ["sleep", "0.3"], "limit_seconds": 9, "number": 2}\n')
        agent._asked += 1  # its answer is still on the way when somebody stops
        assert agent.ask("close") == {"left": []}
        assert not (Path(str(device.folder)) / "lock").exists()


def test_the_test_split_is_scored_there_when_asked(tmp_path: Path, device: Device) -> None:
    _, work = measured(tmp_path, score="test")
    metrics = read_json(work / "receipts/float__sleeper-float32.json")["metrics"]
    assert (metrics["set"], metrics["images"]) == ("test", 4)


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, device: Device) -> None:
    with pytest.raises(ToolError, match="took longer than 3 s"):
        measured(tmp_path, {"float/sleeper-float32": {"milliseconds": 500}}, limit_minutes=0.05)
    assert [name for name in remote_run.left(device) if not name.startswith("files/")] == []


def test_two_jobs_at_once_are_refused_and_the_first_goes_on(tmp_path: Path, device: Device) -> None:
    (tmp_path / "first").mkdir()
    done: list[Any] = []
    first = threading.Thread(target=lambda: done.append(measured(tmp_path / "first", seconds=4.0)[0]))
    first.start()
    assert device.folder is not None
    until = time.monotonic() + 20
    while not (Path(device.folder) / "lock").exists() and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(MissingError, match=r"cart7: The device is busy with the job of .* \(process \d+ there"):
        measured(tmp_path)
    first.join(60)
    assert done[0]["device"] == "cart7"


class TestWhatIsNotThere:
    def test_no_python3(self, device: Device) -> None:
        with pytest.raises(MissingError, match="cart7 has no python-of-nobody that runs") as caught:
            talk(replace(device, python="python-of-nobody"))
        assert "--python PATH" in caught.value.fix

    def test_an_old_python(self, device: Device, tmp_path: Path) -> None:
        old = script(tmp_path / "python3", "printf '\\nMEDGE-AGENT 3.6.9\\n'; cat >/dev/null\n")
        with pytest.raises(MissingError, match=r"is 3\.6\.9; medge needs 3\.8 or newer"):
            talk(replace(device, python=old))

    def test_a_python_that_breaks_off(self, device: Device, tmp_path: Path) -> None:
        with pytest.raises(MissingError, match="did not start: no libc"):
            talk(replace(device, python=script(tmp_path / "python3", "echo no libc >&2; exit 9\n")))

    def test_no_numpy(self, device: Device, tmp_path: Path) -> None:
        import venv

        venv.create(tmp_path / "bare", with_pip=False)
        bare = replace(device, python=str(tmp_path / "bare/bin/python"))
        device_book.remove("cart7")
        device_book.add(bare)
        with pytest.raises(MissingError, match="No module named 'numpy'") as caught:
            measured(tmp_path)
        assert "pip install numpy Pillow" in caught.value.fix
        checks = {check.name: check for check in doctor.examine(bare)}
        assert not checks["numpy"].ok
        assert "-m pip install numpy" in checks["numpy"].fix
        assert not checks["engines"].ok

    def test_garbage(self, device: Device, tmp_path: Path) -> None:
        noise = script(tmp_path / "noise", "head -c 200000 /dev/zero | tr '\\0' 'x'; echo; exec sleep 30\n")
        with pytest.raises(ToolError, match="answers what medge does not understand"):
            talk(replace(device, python=noise))
        late = script(tmp_path / "late", "printf 'Welcome!\\nMEDGE-AGENT 3.11.2\\n<html>\\n'; exec sleep 30\n")
        with pytest.raises(ToolError, match="<html>"):
            talk(replace(device, python=late))

    def test_a_greeting_before_the_answer_does_no_harm(self, device: Device, tmp_path: Path) -> None:
        kind = script(tmp_path / "python3", f'echo "Welcome to cart7"; exec {sys.executable} "$@"\n')
        talk(replace(device, python=kind))


def made_job(tmp_path: Path, device: Device) -> remote_profile.Made:
    (tmp_path / "scratch").mkdir()
    inputs = remote_run.write_inputs(tmp_path / "run")
    return remote_profile.make(SECTION, inputs, tmp_path / "scratch", device=device, seed=0)


def talk(device: Device) -> dict[str, Any]:
    with conversation.connected(device) as agent:
        return agent.hello


class TestTheHost:
    def test_without_a_recorded_key_nothing_is_said_to_it(self, device: Device) -> None:
        with pytest.raises(MissingError, match="No host key of cart7 is recorded") as caught:
            talk(replace(device, host_key=None))
        assert "medge devices add cart7 ssh://nurse@127.0.0.1" in caught.value.fix

    @pytest.mark.parametrize("recorded", ["ssh-ed25519 AAAA", "no key at all"])
    def test_a_recorded_key_that_is_none_is_blamed_and_not_the_identity(self, device: Device, recorded: str) -> None:
        with pytest.raises(
            MissingError, match=r"The host key of cart7 in .*devices\.json is not a valid key"
        ) as caught:
            talk(replace(device, host_key=recorded))
        assert "medge devices remove cart7; medge devices add cart7" in caught.value.fix

    def test_another_key_is_refused(self, device: Device, tmp_path: Path) -> None:
        other = InProcess(tmp_path / "other")
        try:
            with pytest.raises(MissingError, match="shows another host key than the recorded one") as caught:
                talk(replace(other.device, host_key=device.host_key))
        finally:
            other.stop()
        assert "medge devices remove cart7" in caught.value.fix

    def test_the_wrong_user_is_refused(self, device: Device) -> None:
        with pytest.raises(MissingError, match="refused the login") as caught:
            talk(replace(device, user="doctor"))
        assert "ssh-copy-id" in caught.value.fix

    def test_no_server(self, device: Device) -> None:
        with pytest.raises(MissingError, match="no ssh server listens there"):
            talk(replace(device, port=free_port()))

    def test_no_such_host(self, device: Device) -> None:
        with pytest.raises(MissingError, match="cannot be reached"):
            talk(replace(device, host="cart7.invalid"))

    def test_an_identity_that_is_none(self, device: Device, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("no key")
        for identity in (str(tmp_path / "key"), str(tmp_path / "absent")):
            with pytest.raises(MissingError, match="identity of cart7"):
                talk(replace(device, identity=identity))

    def test_one_that_never_answers(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(link, "CONNECT_SECONDS", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(MissingError, match="did not answer"):
            talk(replace(device, port=silent.getsockname()[1]))

    def test_one_that_hangs_up_before_the_first_login_cannot_be_reached(self, device: Device, tmp_path: Path) -> None:
        calls = []
        with socket.create_server(("127.0.0.1", 0)) as server:

            def hang_up() -> None:
                with contextlib.suppress(OSError):  # until the server is closed
                    while True:
                        calls.append(1)
                        server.accept()[0].close()

            threading.Thread(target=hang_up, daemon=True).start()
            through = replace(device, port=server.getsockname()[1])
            for attempt in (lambda: talk(through), lambda: link.host_key(through)):
                with pytest.raises(
                    link_errors.NoLogin, match="cannot be reached: it hung up before the login"
                ) as caught:
                    attempt()
                assert "are address and port right" in caught.value.fix
                assert "Repeat" not in caught.value.fix
            made = made_job(tmp_path, through)
            calls.clear()
            with pytest.raises(link_errors.NoLogin, match="cannot be reached"):
                remote.run_job(through, made.spec, files=made.files, archive=made.archive, fetched=tmp_path / "fetched")
            assert len(calls) <= 2 * remote._FIRST_LOGINS  # and not for minutes

    def test_a_link_that_is_lost_after_the_login_is_a_cut_that_may_be_repeated(self, device: Device) -> None:
        cutter = Cutter(int(device.port or 0))
        with conversation.connected(cutter.through(device)) as agent:
            cutter.cut_all()
            with pytest.raises(link_errors.LinkCut, match=r"was cut|ended in the middle") as caught:
                agent.ask("hello", root=None)
        assert caught.value.fix == "Repeat the command."
        cutter.close()

    def test_the_key_that_is_recorded_is_the_one_it_shows(self, device: Device) -> None:
        shown = link.host_key(replace(device, host_key=None))
        assert shown.public == device.host_key
        assert shown.fingerprint.startswith("SHA256:")
