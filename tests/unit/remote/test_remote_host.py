"""The host at the other end: a key that must be the recorded one, a login, a link that may be lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from medge import conversation, link, link_errors, remote
from medge.device_book import Device
from medge.errors import MissingError
from tests import remote_run
from tests.ssh_server import Cutter, InProcess, free_port


def test_without_a_recorded_key_nothing_is_said_to_it(device: Device) -> None:
    with pytest.raises(MissingError, match="No host key of cart7 is recorded") as caught:
        remote_run.talk(replace(device, host_key=None))
    assert "medge devices add cart7 ssh://nurse@127.0.0.1" in caught.value.fix


@pytest.mark.parametrize("recorded", ["ssh-ed25519 AAAA", "no key at all"])
def test_a_recorded_key_that_is_none_is_blamed_and_not_the_identity(device: Device, recorded: str) -> None:
    with pytest.raises(MissingError, match=r"The host key of cart7 in .*devices\.json is not a valid key") as caught:
        remote_run.talk(replace(device, host_key=recorded))
    assert "medge devices remove cart7; medge devices add cart7" in caught.value.fix


def test_another_key_is_refused(device: Device, tmp_path: Path) -> None:
    other = InProcess(tmp_path / "other")
    try:
        with pytest.raises(MissingError, match="shows another host key than the recorded one") as caught:
            remote_run.talk(replace(other.device, host_key=device.host_key))
    finally:
        other.stop()
    assert "medge devices remove cart7" in caught.value.fix


def test_the_wrong_user_is_refused(device: Device) -> None:
    with pytest.raises(MissingError, match="refused the login") as caught:
        remote_run.talk(replace(device, user="doctor"))
    assert "ssh-copy-id" in caught.value.fix


def test_no_server(device: Device) -> None:
    with pytest.raises(MissingError, match="no ssh server listens there"):
        remote_run.talk(replace(device, port=free_port()))


def test_no_such_host(device: Device) -> None:
    with pytest.raises(MissingError, match="cannot be reached"):
        remote_run.talk(replace(device, host="cart7.invalid"))


def test_an_identity_that_is_none(device: Device, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    for identity in (str(tmp_path / "key"), str(tmp_path / "absent")):
        with pytest.raises(MissingError, match="identity of cart7"):
            remote_run.talk(replace(device, identity=identity))


def test_one_that_never_answers(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(MissingError, match="did not answer"):
        remote_run.talk(replace(device, port=silent.getsockname()[1]))


def test_one_that_hangs_up_before_the_first_login_cannot_be_reached(device: Device, tmp_path: Path) -> None:
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # until the server is closed
                while True:
                    calls.append(1)
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        through = replace(device, port=server.getsockname()[1])
        for attempt in (lambda: remote_run.talk(through), lambda: link.host_key(through)):
            with pytest.raises(link_errors.NoLogin, match="cannot be reached: it hung up before the login") as caught:
                attempt()
            assert "are address and port right" in caught.value.fix
            assert "Repeat" not in caught.value.fix
        made = remote_run.made_job(tmp_path, through)
        calls.clear()
        with pytest.raises(link_errors.NoLogin, match="cannot be reached"):
            remote.run_job(through, made.spec, files=made.files, archive=made.archive, fetched=tmp_path / "fetched")
        assert len(calls) <= 2 * remote._FIRST_LOGINS  # and not for minutes


def test_a_link_that_is_lost_after_the_login_is_a_cut_that_may_be_repeated(device: Device) -> None:
    cutter = Cutter(int(device.port or 0))
    with conversation.connected(cutter.through(device)) as agent:
        cutter.cut_all()
        with pytest.raises(link_errors.LinkCut, match=r"was cut|ended in the middle") as caught:
            agent.ask("hello", root=None)
    assert caught.value.fix == "Repeat the command."
    cutter.close()


def test_the_key_that_is_recorded_is_the_one_it_shows(device: Device) -> None:
    shown = link.host_key(replace(device, host_key=None))
    assert shown.public == device.host_key
    assert shown.fingerprint.startswith("SHA256:")
